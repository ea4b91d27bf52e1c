"""Check of ONNX graphs before they are loaded: their memory by shapes, and files that they read."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from torso.errors import ModelDamagedError
from torso.nets import load_model
from torso.nets.models.onnx_export import GRAPH_BYTES, append_metadata, max_onnx_bytes, read_onnx, with_probabilities
from torso.serve.backends.forward_memory import measure_row_bytes
from torso.serve.backends.onnx_graph import CONSTANT_BYTES, SPARE_BYTES, require_small_graph

FLOATS = (1 << 28) // 4  # a value of 256 MiB


def graph(*nodes: NodeProto, output: str = "out", **constants: Sequence[int]) -> bytes:
    """A graph of one input, ``x`` [batch, 4] float32; constants are of int64."""
    values = [helper.make_tensor(name, TensorProto.INT64, [len(item)], item) for name, item in constants.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    out = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    made = helper.make_graph(list(nodes), "graph", [x], [out], values)
    data: bytes = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()
    return data


def node(kind: str, inputs: str, output: str = "out", **attributes: Any) -> NodeProto:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


def branch(name: str, *nodes: NodeProto) -> GraphProto:
    return helper.make_graph(
        list(nodes), name, [], [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)]
    )


VAST = {
    "zeros": (graph(node("ConstantOfShape", "n"), n=[FLOATS]), "bytes for constants"),
    "several zeros": (
        graph(
            *(node("ConstantOfShape", "n", f"z{index}") for index in range(4)),
            node("Sum", "x z0 z1 z2 z3"),
            n=[FLOATS // 8, 1],
        ),
        "bytes for constants",
    ),
    "an expansion": (graph(node("Expand", "x n"), n=[FLOATS // 4, 4]), "bytes for a row"),
    "tiles": (graph(node("Tile", "x n"), n=[1, FLOATS // 4]), "bytes for a row"),
    "padding": (graph(node("Pad", "x n"), n=[0, FLOATS, 0, 0]), "bytes for a row"),
    "doubling": (
        graph(
            node("Concat", "x x", "y0", axis=1),
            *(node("Concat", f"y{index} y{index}", f"y{index + 1}", axis=1) for index in range(30)),
            output="y30",
        ),
        "bytes for a row",
    ),
    "an outer product": (
        graph(node("Tile", "x n", "y"), node("Transpose", "y", "t", perm=[1, 0]), node("MatMul", "t y"), n=[1, 2500]),
        "bytes",
    ),
    "a size that is read from the input": (
        graph(node("Cast", "x", "n", to=TensorProto.INT64), node("Flatten", "n", "m", axis=0), node("Expand", "x m")),
        "Expand whose result's size its shapes do not tell",
    ),
    "zeros in a branch": (
        graph(
            node("ReduceMax", "x", "most", keepdims=0),
            node("Cast", "most", "is", to=TensorProto.BOOL),
            node(
                "If",
                "is",
                then_branch=branch("then", node("ConstantOfShape", "n", "then_out")),
                else_branch=branch("else", node("ConstantOfShape", "n", "else_out")),
            ),
            n=[FLOATS],
        ),
        "ConstantOfShape whose result's size its shapes do not tell",
    ),
}


@pytest.mark.parametrize(("model", "message"), VAST.values(), ids=VAST)
def test_a_graph_that_asks_for_vast_memory_is_refused(model: bytes, message: str) -> None:
    with pytest.raises(ModelDamagedError, match=rf"a\.onnx .*{message}"):
        require_small_graph(model, 16, "a.onnx")


def test_limits_go_with_the_network_and_the_file() -> None:
    width = (SPARE_BYTES + 4 * 1000) // 8  # a value of so many floats and its copy
    model = graph(node("Tile", "x n", "y"), node("Neg", "y"), n=[1, width // 4])
    require_small_graph(model, 1000, "a.onnx")
    with pytest.raises(ModelDamagedError, match=f"may take {SPARE_BYTES + 4 * 900:,}"):
        require_small_graph(model, 900, "a.onnx")
    require_small_graph(graph(node("ConstantOfShape", "n"), n=[CONSTANT_BYTES // 4]), 16, "a.onnx")


@pytest.mark.parametrize("name", ["digits", "cartpole", "frames", "plain"])
def test_torsos_own_graphs_are_small(models: Any, name: str) -> None:
    directory = getattr(models, name)
    card, network = load_model(directory)
    model = read_onnx(directory / "model.onnx", card, max_onnx_bytes(card, network))
    assert model is not None
    for each in (model, with_probabilities(model)):
        require_small_graph(each, measure_row_bytes(network), name)


@pytest.mark.parametrize("place", ["weights", "an attribute"])
def test_weights_in_another_file_are_refused(place: str) -> None:
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [4], [0.0] * 4)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    model = ModelProto.FromString(graph(node("Neg", "x")))
    if place == "weights":
        model.graph.initializer.append(tensor)
    else:
        model.graph.node.append(helper.make_node("Constant", [], ["w"], value=tensor))
    with pytest.raises(ModelDamagedError, match="must hold its weights, got some that are in another file"):
        require_small_graph(model.SerializeToString(), 1 << 20, "a.onnx")


def test_what_is_no_graph_is_refused() -> None:
    with pytest.raises(ModelDamagedError, match=r"a\.onnx is not an ONNX graph"):
        require_small_graph(b"\xff" * 100, 1 << 20, "a.onnx")


def test_a_file_larger_than_its_network_explains_is_not_read(models: Any, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(models.plain, tmp_path / "m"))
    card, network = load_model(directory)
    path, most = directory / "model.onnx", max_onnx_bytes(card, network)
    padding = ModelProto(doc_string="x" * GRAPH_BYTES).SerializeToString()
    path.write_bytes(append_metadata(padding, card))
    assert path.stat().st_size < most
    assert read_onnx(path, card, most) is not None
    path.write_bytes(append_metadata(padding * 2, card))
    assert read_onnx(path, card, most) is None
