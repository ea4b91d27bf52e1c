"""Check of an ONNX graph before ONNX Runtime loads it: other files it reads, and the memory its shapes ask for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, helper

from torso.errors import ModelDamagedError

CONSTANT_BYTES = 1 << 26
FACTOR = 4
SPARE_BYTES = 1 << 20
SMALL_VALUE_BYTES = 1 << 16  # of a constant whose values shapes may depend on

# Operations that make much of little: their results' sizes must follow from the graph.
_ENLARGING = frozenset(
    (
        *("CenterCropPad", "Concat", "ConstantOfShape", "Expand", "EyeLike", "MaxUnpool", "OneHot", "Pad", "Range"),
        *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Resize", "Tile", "Upsample"),
    )
)


def require_small_graph(model: bytes, row_bytes: int, source: str) -> None:
    """Check that a graph reads no other file, and takes no more memory than the network that it stands for.

    ``row_bytes``: what one row of the network takes; of a graph, `FACTOR` times as many may be alive at once, and
    `SPARE_BYTES`. What does not depend on the input, which ONNX Runtime computes when it loads the graph, may take as
    much as the file, and `CONSTANT_BYTES`. Sizes are inferred from shapes. Raises ModelDamagedError.
    """
    try:
        proto = ModelProto.FromString(model)
    except DecodeError as error:
        raise ModelDamagedError(f"{source} is not an ONNX graph: {error}") from error
    if any(_is_external(tensor) for tensor in _tensors(proto.graph)):
        raise ModelDamagedError(f"{source} must hold its weights, got some that are in another file")
    if proto.functions:
        raise ModelDamagedError(f"{source} must hold operations alone, got functions of its own")
    _prepare(proto)
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        raise ModelDamagedError(f"{source} has shapes that do not fit together: {error}") from error
    sizes = {value.name: _num_bytes(value.type) for value in (*inferred.value_info, *inferred.output)}
    for node, nested in _nodes(proto.graph):
        if node.op_type in _ENLARGING and (nested or any(sizes.get(name) is None for name in node.output)):
            raise ModelDamagedError(f"{source} has a {node.op_type} whose result's size its shapes do not tell")
    constant, computed = _memory(proto.graph, {name: size for name, size in sizes.items() if size is not None})
    for what, got, most in (
        ("constants", constant, CONSTANT_BYTES + len(model)),
        ("a row", computed, SPARE_BYTES + FACTOR * row_bytes),
    ):
        if got > most:
            raise ModelDamagedError(f"{source} takes {got:,} bytes for {what}, and may take {most:,}")


def _memory(graph: GraphProto, sizes: Mapping[str, int]) -> tuple[int, int]:
    """Compute the bytes of all values that depend on no input, and the most that are alive of the others."""
    last_uses = {name: index for index, node in enumerate(graph.node) for name in _reads(node)}
    varying = {value.name for value in graph.input}
    constant = alive = peak = 0
    for index, node in enumerate(graph.node):
        results = sum(sizes.get(name, 0) for name in node.output)
        if varying.isdisjoint(_reads(node)):
            constant += results
            continue
        varying.update(node.output)
        alive += results
        peak = max(peak, alive)
        freed = {name for name in _reads(node) if last_uses[name] == index and name in varying}
        alive -= sum(sizes.get(name, 0) for name in freed - {value.name for value in graph.input})
    return constant, peak


def _reads(node: NodeProto) -> set[str]:
    """Return the names of the values that an operation reads, and the graphs in it."""
    names = set(node.input)
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            names.update(*(_reads(one) for one in inner.node))
    return names


def _prepare(proto: ModelProto) -> None:
    """Make the batch one row, and leave out what inference needs not, or should find itself."""
    graph = proto.graph
    for value in graph.input:
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_value = 1
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    del graph.value_info[:]
    for tensor in graph.initializer:
        if len(tensor.raw_data) > SMALL_VALUE_BYTES:
            tensor.ClearField("raw_data")


def _num_bytes(kind: TypeProto) -> int | None:
    tensor = kind.tensor_type
    if not kind.HasField("tensor_type") or not tensor.HasField("shape") or tensor.elem_type == TensorProto.STRING:
        return None
    if not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return None
    itemsize = helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
    return int(math.prod(dim.dim_value for dim in tensor.shape.dim) * itemsize)


def _nodes(graph: GraphProto, *, nested: bool = False) -> Iterator[tuple[NodeProto, bool]]:
    """Yield a graph's operations, and those of the graphs in them, for which the second item is True."""
    for node in graph.node:
        yield node, nested
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from _nodes(inner, nested=True)


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def _is_external(tensor: TensorProto) -> bool:
    return tensor.data_location == TensorProto.EXTERNAL or bool(tensor.external_data)
