"""Encode and decode arrays as ``torso.v1.Tensor``; names of model kinds and of the service on the wire.

A tensor is a dtype's NumPy name, a shape, and the elements' bytes, little-endian and in C order. Server and client use
the same two functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from torso.errors import InputError
from torso.proto import prediction_pb2
from torso.serve.wire.datatypes import DTYPES

SERVICE: str = prediction_pb2.DESCRIPTOR.services_by_name["PredictionService"].full_name
KINDS = {
    "classifier": prediction_pb2.MODEL_KIND_CLASSIFIER,
    "policy": prediction_pb2.MODEL_KIND_POLICY,
    "regressor": prediction_pb2.MODEL_KIND_REGRESSOR,
}
INPUTS = {"classifier": "tensor", "policy": "observations", "regressor": "tensor"}  # a model's input, by its kind
READOUTS = {"classifier": "probabilities", "policy": "values", "regressor": "predictions"}  # its output of numbers

MAX_RANK = 16  # axes; numpy itself stops at 64
MAX_ELEMENTS = 2**40  # counted with empty axes as 1, so that no product of a shape overflows numpy's sizes


def array_to_tensor(array: npt.ArrayLike, field: str = "tensor") -> prediction_pb2.Tensor:
    """Encode an array of any layout and byte order; InputError where the wire has no such dtype."""
    array = np.asarray(array)
    dtype = DTYPES.get(array.dtype.name)
    if dtype is None:
        raise InputError(field, expected=f"an array of one of {', '.join(DTYPES)}", got=f"dtype {array.dtype.name}")
    data = np.ascontiguousarray(array, dtype=dtype).tobytes()
    return prediction_pb2.Tensor(dtype=dtype.name, shape=array.shape, data=data)


def tensor_to_array(tensor: prediction_pb2.Tensor, field: str = "tensor") -> npt.NDArray[np.generic]:
    """Decode a tensor into a read-only array in native byte order that shares the message's bytes where it can.

    Raises InputError, its fields under ``field``, on an unknown dtype, a negative or overflowing shape, a byte count
    that does not fit the shape, or a bool that is neither 0 nor 1.
    """
    dtype = DTYPES.get(tensor.dtype)
    if dtype is None:
        raise InputError(f"{field}.dtype", expected=f"one of {', '.join(DTYPES)}", got=quoted(tensor.dtype))
    shape = _checked_shape(tensor.shape, f"{field}.shape")
    data = tensor.data  # a copy
    expected_bytes = math.prod(shape) * dtype.itemsize
    if len(data) != expected_bytes:
        raise InputError(
            f"{field}.data",
            expected=f"{expected_bytes} bytes for shape {list(shape)} of {dtype.name}",
            got=f"{len(data)} bytes",
        )
    array = np.frombuffer(data, dtype=dtype).reshape(shape)
    if dtype.kind == "b" and array.size and int(array.view(np.uint8).max()) > 1:
        raise InputError(f"{field}.data", expected="bools of 0 or 1", got="another byte")
    return array.astype(dtype.newbyteorder("="), copy=False)


def kind_name(kind: int) -> str:
    """Return a model kind by its name in torso; "unknown" for one that a newer server has."""
    return next((name for name, number in KINDS.items() if number == kind), "unknown")


def _checked_shape(lengths: Sequence[int], field: str) -> tuple[int, ...]:
    if len(lengths) > MAX_RANK:
        raise InputError(field, expected=f"a shape of at most {MAX_RANK} axes", got=f"{len(lengths)}")
    shape = tuple(lengths)
    if any(length < 0 for length in shape):
        raise InputError(field, expected="axes of length 0 or more", got=f"{list(shape)}")
    if math.prod(max(length, 1) for length in shape) > MAX_ELEMENTS:
        raise InputError(field, expected=f"a shape of at most {MAX_ELEMENTS} elements", got=f"{list(shape)}")
    return shape


def quoted(text: str, limit: int = 40) -> str:
    """Quote text from a request for an error message, truncated to ``limit`` characters."""
    return repr(text if len(text) <= limit else text[:limit] + "...")
