"""Requests of a load test: random inputs of a served model, serialised for either protocol."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from torso.errors import ConfigError
from torso.proto import oip_pb2 as oip
from torso.proto import prediction_pb2 as pb
from torso.serve.client.results import ModelInfo, TensorSpec
from torso.serve.wire.datatypes import DATATYPES, DTYPES
from torso.serve.wire.tensors import SERVICE, array_to_tensor

Protocol = Literal["torso", "v2"]

V2_METHOD = "/inference.GRPCInferenceService/ModelInfer"
MAX_BYTES = 64 << 20  # of all serialised requests together


def method(info: ModelInfo, protocol: Protocol) -> str:
    """Return the path of the method that predicts with a model."""
    if protocol == "v2":
        return V2_METHOD
    methods = {"classifier": "Classify", "policy": "Act"}
    if info.kind not in methods:
        raise ConfigError(f"protocol must be v2 for a {info.kind}, got torso, which has no method for it")
    return f"/{SERVICE}/{methods[info.kind]}"


def serialised(info: ModelInfo, protocol: Protocol, *, rows: int, count: int = 16, seed: int = 0) -> list[bytes]:
    """Serialise up to ``count`` different random requests, of ``rows`` rows each; fewer where they are large."""
    if rows < 1:
        raise ConfigError(f"rows must be at least 1, got {rows}")
    spec = info.inputs[0]
    generator = np.random.default_rng(seed)
    first = _encode(info, protocol, draw_inputs(spec, rows, generator))
    others = min(count - 1, MAX_BYTES // len(first))
    return [first, *(_encode(info, protocol, draw_inputs(spec, rows, generator)) for _ in range(others))]


def draw_inputs(spec: TensorSpec, rows: int, generator: np.random.Generator) -> NDArray[Any]:
    """Draw random inputs of a dtype and shape, [rows, *shape]: every byte value; for floats, normal values."""
    dtype, shape = np.dtype(spec.dtype), (rows, *spec.shape)
    if dtype.kind == "f":
        return generator.standard_normal(shape).astype(dtype)
    if dtype.kind == "b":
        return generator.random(shape) < 0.5
    most = 127 if dtype == np.int8 else 255
    return generator.integers(0, most, size=shape, endpoint=True).astype(dtype)


def _encode(info: ModelInfo, protocol: Protocol, array: NDArray[Any]) -> bytes:
    if protocol == "torso":
        if info.kind == "classifier":
            return pb.ClassifyRequest(model=info.name, tensor=array_to_tensor(array)).SerializeToString()
        return pb.ActRequest(model=info.name, observations=array_to_tensor(array)).SerializeToString()
    spec = info.inputs[0]
    request = oip.ModelInferRequest(
        model_name=info.name,
        inputs=[
            oip.ModelInferRequest.InferInputTensor(name=spec.name, datatype=DATATYPES[spec.dtype], shape=array.shape)
        ],
        raw_input_contents=[np.ascontiguousarray(array, dtype=DTYPES[spec.dtype]).tobytes()],
    )
    return request.SerializeToString()
