"""Infer a network's input specification from arrays of rows or images, and convert arrays to it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from torso.arrays import Array, Floats
from torso.errors import InputError
from torso.image_layout import Range, chosen_layout, image_layout, pixel_scale
from torso.image_spec import ImageSpec
from torso.nets.specs.inputs import InputSpec
from torso.tables import is_constant, needs_float64

_BLOCK_ROWS = 256  # converted to float64 at once: what stays in a core's cache
_IMAGE_DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64")  # what torch computes with


def input_spec_of(
    inputs: Array,
    *,
    convolutional: bool,
    layout: str | None = None,
    image: ImageSpec | None = None,
    training_rows: NDArray[np.int64] | None = None,
) -> InputSpec:
    """Infer the input specification from the inputs to fit on; ``training_rows`` index those learnt from, None: all.

    inputs: [N, F] rows, images [N, H, W], [N, C, H, W] or [N, H, W, C], or stacks of images, with T after N; bool,
    integers or floats. ``layout`` says which (``flat``: rows); None: the rule of `torso.image_layout` does, and to a
    convolutional network all but rows are images, and so are rows whose length is a square. Images keep their dtype and
    are scaled to [0, 1] within the network, by ``image.max_value`` or else by their largest value. Rows become float32,
    or float64 where float32 would blur a column, and are standardised within the network, by the mean and deviation of
    each column.

    Raises:
        InputError: an array that is none of these, holds NaN or infinity, or rows whose columns are all constant.
        ConfigError: a layout of another number of axes.
    """
    if inputs.dtype.kind not in "biuf":
        raise InputError("X", expected="numbers", got=f"dtype {inputs.dtype}")
    if inputs.ndim not in (2, 3, 4, 5) or 0 in inputs.shape:
        raise InputError(
            "X",
            expected="rows [N, F], images [N, H, W], [N, C, H, W] or [N, H, W, C], or stacks of images",
            got=str(list(inputs.shape)),
        )
    if not _all_finite(inputs):
        raise InputError("X", expected="finite numbers", got="NaN or infinity")
    shape: tuple[int, ...] = inputs.shape[1:]
    if inputs.ndim == 2 and (layout == "hw" or (convolutional and layout is None)):
        shape = _square(inputs.shape[1])
    values = _range(_blocks(inputs, training_rows))
    inferred = image_layout(shape, inputs.dtype.name, values, are_whole=len(shape) != 2 or _are_whole(inputs))
    axes = chosen_layout(shape, layout, inferred, convolutional=convolutional or image is not None)
    if axes is None:
        means, stds = _raw_moments(inputs, training_rows)
        mean, std = _usable(means, stds)
        first = inputs[0 if training_rows is None else training_rows[0]]
        if len(inputs) > 1 and all((block == first).all() for block in _blocks(inputs, training_rows)):
            raise InputError("X", expected="rows with at least one column that varies", got="constant columns alone")
        wide = inputs.dtype.itemsize > 2 and inputs.dtype != np.float32 and needs_float64(means, stds)
        return InputSpec(shape=shape, dtype="float64" if wide else "float32", mean=mean, std=std)
    dtype = inputs.dtype.name if inputs.dtype.name in _IMAGE_DTYPES else "float32"
    if inputs.ndim == 2 and inputs.dtype != np.uint8:
        dtype = "float32"  # a table of pixels: later inputs may be fractions
    scale = pixel_scale(values if image is None else (0.0, image.max_value))
    return InputSpec(shape=shape, dtype=dtype, layout=axes, scale=scale, image=image)


def as_inputs(inputs: Array, spec: InputSpec) -> Array:
    """Convert inputs to a network's input specification: [N, *spec.shape] in its dtype; rows may be flat.

    Raises:
        InputError: another shape, numbers that the dtype cannot hold, NaN or infinity.
    """
    required = f"of shape [N, {', '.join(map(str, spec.shape))}]"
    if inputs.ndim == 2 and inputs.shape[1] == spec.size:
        inputs = inputs.reshape(-1, *spec.shape)
    if inputs.shape[1:] != spec.shape:
        raise InputError("X", expected=required, got=str(list(inputs.shape)))
    cast = inputs.astype(spec.numpy_dtype, copy=False)
    if not _all_finite(cast):
        raise InputError("X", expected=f"finite {spec.dtype} numbers", got="NaN, infinity or larger ones")
    if cast.dtype.kind != "f" and not np.array_equal(cast, inputs):
        raise InputError("X", expected=f"values that {spec.dtype} can hold", got=f"other {inputs.dtype} values")
    return np.ascontiguousarray(cast)


def _all_finite(values: Array) -> bool:
    if values.dtype.kind != "f":
        return True
    with np.errstate(over="ignore", invalid="ignore"):
        total = values.sum(dtype=np.float64)  # finite where all values are and none is vast; quick
    return bool(np.isfinite(total) or np.isfinite(values).all())


def _square(num_features: int) -> tuple[int, ...]:
    side = math.isqrt(num_features)
    if side * side != num_features:
        raise InputError(
            "X",
            expected="images [N, H, W], or rows of a square number of pixels, for a convolutional net",
            got=f"rows of {num_features}; reshape X, or use net='mlp'",
        )
    return side, side


def moments(values: Array, rows: NDArray[np.int64] | None = None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute mean and deviation by column of [N, ...], over some rows or all; a constant column keeps deviation 1."""
    return _usable(*_raw_moments(values, rows))


def _usable(mean: Floats, std: Floats) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(mean.tolist()), tuple(np.where(is_constant(mean, std), 1.0, std).tolist())


def _raw_moments(values: Array, rows: NDArray[np.int64] | None) -> tuple[Floats, Floats]:
    """Compute mean and deviation by column, [F] float64 each."""
    table = values.reshape(len(values), -1)
    num_rows = len(table) if rows is None else len(rows)
    total, squares = np.zeros(table.shape[1]), np.zeros(table.shape[1])
    for block in _blocks(table, rows):
        total += block.sum(axis=0, dtype=np.float64)
    mean = total / num_rows
    for block in _blocks(table, rows):
        squares += np.square(block - mean).sum(axis=0)
    return mean, np.sqrt(squares / num_rows)


def _blocks(values: Array, rows: NDArray[np.int64] | None) -> Iterator[Array]:
    """Iterate over blocks of some rows, or of all."""
    num_rows = len(values) if rows is None else len(rows)
    for first in range(0, num_rows, _BLOCK_ROWS):
        some = slice(first, first + _BLOCK_ROWS)
        yield values[some if rows is None else rows[some]]


def _range(blocks: Iterable[Array]) -> Range:
    """Compute the lowest and the highest value."""
    ranges = [(float(block.min()), float(block.max())) for block in blocks]
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def _are_whole(values: Array) -> bool:
    return values.dtype.kind != "f" or all(np.array_equal(block, np.rint(block)) for block in _blocks(values, None))
