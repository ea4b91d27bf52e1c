"""Open Inference Protocol V2: the input and outputs of a model, and the forms that its input may have."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from torso.nets import Predictor
from torso.serve.wire.datatypes import DATATYPES, DTYPES, INTEGER_DATATYPES
from torso.serve.wire.tensors import INPUTS, READOUTS
from torso.space_spec import SpaceSpec

RequestedOutputs = tuple[tuple[str, int], ...]  # outputs in order: name, number of best classes; 0: the values


@dataclass(frozen=True, kw_only=True)
class TensorMetadata:
    """Metadata of a model's input or output tensor; ``shape`` is without the batch axis."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Signature:
    """Input and outputs of a model, and its header caches.

    A classifier has probabilities, a regressor predictions, a policy actions and values. A policy whose observations
    were flattened from discrete numbers takes these, too: ``raw_shapes`` are theirs, without the batch axis.
    """

    def __init__(self, predictor: Predictor) -> None:
        spec = predictor.input
        self.dtype = DTYPES[spec.dtype]  # of the input, as on the wire
        self.native_dtype = spec.numpy_dtype
        self.row_bytes = math.prod(spec.shape) * self.dtype.itemsize
        self.input = TensorMetadata(name=INPUTS[predictor.kind], datatype=DATATYPES[spec.dtype], shape=spec.shape)
        self.readout = TensorMetadata(name=READOUTS[predictor.kind], datatype="FP32", shape=(predictor.num_outputs,))
        self.classifies = predictor.kind != "regressor"  # whether its best classes, or actions, can be asked for
        actions = TensorMetadata(name="actions", datatype="INT64", shape=())
        outputs = (actions, self.readout) if predictor.kind == "policy" else (self.readout,)
        self.outputs = {output.name: output for output in outputs}
        self.all_outputs: RequestedOutputs = tuple((name, 0) for name in self.outputs)
        self.space = predictor.observation_space
        raw_shapes = () if self.space is None else _raw_shapes(self.space)
        self.raw_shapes = tuple(shape for shape in raw_shapes if shape != spec.shape)
        self.is_ambiguous = len(self.raw_shapes) < len(raw_shapes)  # a raw shape is the flattened one, too
        self.parameters = {} if self.space is None else {"observation_space": json.dumps(self.space.to_json())}
        if self.raw_shapes:
            shapes = [[-1, *shape] for shape in self.raw_shapes]
            datatypes = sorted(INTEGER_DATATYPES)
            self.parameters["raw_observations"] = json.dumps({"datatypes": datatypes, "shapes": shapes})
        self.cached_forms: dict[bytes, InputForm] = {}  # of inputs, by name, datatype and shape in protobuf's bytes
        self.cached_headers: dict[tuple[int, RequestedOutputs], bytes] = {}  # of answers, by rows and outputs


def _raw_shapes(space: SpaceSpec) -> tuple[tuple[int, ...], ...]:
    """Return the shapes that a space's discrete numbers may have; () where it has others, or parts with several."""
    if space.kind == "discrete":
        return (space.shape,) if space.shape else ((), (1,))
    if space.kind == "tuple" and all(part.kind == "discrete" and not part.shape for part in space.parts):
        return ((len(space.parts),),)
    return ()


class InputForm(NamedTuple):
    """Dtype, on the wire, and shape of an input's values. ``is_raw``: they are the env's own discrete numbers."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    is_raw: bool

    @property
    def num_values(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Number of bytes of the values where they are raw in a request."""
        return self.num_values * self.dtype.itemsize
