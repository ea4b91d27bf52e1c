"""What an array of rows or images is to a network: the input specification that a classifier is fitted with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torso.errors import InputError
from torso.nets.spec import ImageSpec, InputSpec, Layout

Array = NDArray[Any]
_IMAGE_DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64")  # what torch computes with


def input_spec_of(inputs: Array, *, convolutional: bool, image: ImageSpec | None = None) -> InputSpec:
    """Describe the inputs that a network is about to be fitted on.

    inputs: [N, F] rows, or images [N, H, W], [N, C, H, W] or [N, H, W, C]; bool, integers or floats. Images keep their
    dtype and are scaled to [0, 1] within the network, by ``image.max_value`` or else by their largest value. Rows
    become float32 and are standardised within the network, by the mean and deviation of each column. For a
    convolutional network, rows whose length is a square are images.

    Raises:
        InputError: an array that is none of these, or holds NaN or infinity.
    """
    if inputs.dtype.kind not in "biuf":
        raise InputError("X", expected="numbers", came=f"dtype {inputs.dtype}")
    if inputs.ndim not in (2, 3, 4) or 0 in inputs.shape:
        raise InputError(
            "X", expected="rows [N, F], or images [N, H, W], [N, C, H, W] or [N, H, W, C]", came=str(list(inputs.shape))
        )
    if inputs.dtype.kind == "f" and not np.isfinite(inputs).all():
        raise InputError("X", expected="finite numbers", came="NaN or infinity")
    shape: tuple[int, ...] = inputs.shape[1:]
    if inputs.ndim == 2 and convolutional:
        shape = _square(inputs.shape[1])
    layout = layout_of(shape)
    if layout is None:
        mean, std = _moments(inputs)
        return InputSpec(shape=shape, dtype="float32", mean=mean, std=std)
    dtype = inputs.dtype.name if inputs.dtype.name in _IMAGE_DTYPES else "float32"
    if inputs.ndim == 2 and inputs.dtype != np.uint8:
        dtype = "float32"  # a table of pixels: whole numbers today, means of them tomorrow
    largest = float(np.abs(inputs).max()) if image is None else image.max_value
    return InputSpec(shape=shape, dtype=dtype, layout=layout, scale=1 / (largest or 1.0), image=image)


def layout_of(shape: tuple[int, ...]) -> Layout | None:
    """Name the axes of one image by its shape; of three axes the shortest, if it is first or last, holds channels."""
    if len(shape) == 2:
        return "hw"
    if len(shape) == 3:
        return "chw" if shape[0] <= shape[2] else "hwc"
    return None


def as_inputs(inputs: Array, spec: InputSpec) -> Array:
    """Inputs as a network of this specification takes them: [N, *spec.shape] in its dtype; rows may be flat.

    Raises:
        InputError: another shape, numbers that the dtype cannot hold, NaN or infinity.
    """
    wanted = f"[N, {', '.join(map(str, spec.shape))}]"
    if inputs.ndim == 2 and inputs.shape[1] == spec.size:
        inputs = inputs.reshape(-1, *spec.shape)
    if inputs.shape[1:] != spec.shape:
        raise InputError("X", expected=wanted, came=str(list(inputs.shape)))
    cast = inputs.astype(spec.numpy_dtype, copy=False)
    if cast.dtype.kind == "f" and not np.isfinite(cast).all():
        raise InputError("X", expected="finite float32 numbers", came="NaN, infinity or larger ones")
    if cast.dtype.kind != "f" and not np.array_equal(cast, inputs):
        raise InputError("X", expected=f"values that {spec.dtype} can hold", came=f"other {inputs.dtype} values")
    return np.ascontiguousarray(cast)


def _square(num_features: int) -> tuple[int, ...]:
    side = math.isqrt(num_features)
    if side * side != num_features:
        raise InputError(
            "X",
            expected="images [N, H, W], or rows of a square number of pixels, for a convolutional net; "
            "reshape X, or use net='mlp'",
            came=f"rows of {num_features}",
        )
    return side, side


def _moments(inputs: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each column; a constant column, which says nothing, keeps deviation 1."""
    rows = inputs.reshape(len(inputs), -1).astype(np.float64)
    mean, std = rows.mean(axis=0), rows.std(axis=0)
    std[std <= 1e-12 * np.maximum(1.0, np.abs(mean))] = 1.0
    return tuple(mean.tolist()), tuple(std.tolist())
