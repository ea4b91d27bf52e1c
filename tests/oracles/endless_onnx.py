"""Model whose ONNX graph never comes to an end."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from torso.nets.models.card import read_card
from torso.nets.models.onnx_export import append_metadata


def make_endless(directory: Path) -> None:
    """Put a loop that never ends before the output of a model directory's graph, sealed as torso's own are."""
    path = directory / "model.onnx"
    model = onnx.load(path)
    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = [f"{name}_before" if name == output else name for name in node.output]
    values = {"iteration": TensorProto.INT64, "goes_on": TensorProto.BOOL, "value": TensorProto.FLOAT}
    results = {"still_goes_on": TensorProto.BOOL, "same_value": TensorProto.FLOAT}
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["goes_on"], ["still_goes_on"]),
            helper.make_node("Identity", ["value"], ["same_value"]),
        ],
        "body",
        [_info(name, kind) for name, kind in values.items()],
        [_info(name, kind) for name, kind in results.items()],
    )
    true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    model.graph.node.append(helper.make_node("Constant", [], ["always"], value=true))
    model.graph.node.append(helper.make_node("Loop", ["", "always", f"{output}_before"], [output], body=body))
    del model.metadata_props[:]
    path.write_bytes(append_metadata(model.SerializeToString(), read_card(directory)))


def _info(name: str, kind: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, None if kind == TensorProto.FLOAT else [])
