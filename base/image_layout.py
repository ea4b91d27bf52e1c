"""The rule by which arrays are read as images or vectors, for observations of envs and inputs of classifiers."""

from __future__ import annotations

from typing import get_args

import numpy as np

from torso.errors import ConfigError
from torso.image_spec import Layout

LAYOUTS: tuple[Layout, ...] = get_args(Layout)
FLAT = "flat"  # a setting's word for a vector, whatever the shape
LEGACY = "legacy"  # a setting's word for the rule of runs that recorded none
Range = tuple[float, float]  # the lowest and the highest value

_MIN_SIDE_PX = 4  # of pixels in two axes, which may as well be a window of readings
_MIN_SIDE_OF_FRACTIONS_PX = 16
_MAX_ASPECT = 4


def image_layout(
    shape: tuple[int, ...], dtype: str, values: Range | None, *, are_whole: bool | None = None
) -> Layout | None:
    """Infer the axes of an image from an array's shape and numbers; None where it is a vector.

    values: the lowest and the highest value; None where there is no such range, or one for each number.
    are_whole: whether all values are whole numbers; None: where the dtype holds no others.

    Two axes are an image where their numbers are pixels (from 0 up to 1, to 255, or whole numbers within it) and their
    sides are those of a picture: at least 4 long, 16 where pixels are fractions, and none more than 4 times the other.
    Windows of readings and stacked vectors are none. Three axes are an image where their numbers have a range or the
    image is square. The channels are the axis that leaves a square, else the shorter of the first and the last.
    Four axes are a stack of images that have three.
    """
    if are_whole is None:
        are_whole = np.dtype(dtype).kind in "biu"
    layout = layout_of_axes(shape)
    if layout is None:
        return None
    height, width = image_sides(shape, layout)
    if len(shape) == 2:
        shortest = _MIN_SIDE_PX if are_whole else _MIN_SIDE_OF_FRACTIONS_PX
        is_picture = min(height, width) >= shortest and max(height, width) <= _MAX_ASPECT * min(height, width)
        return layout if is_picture and _are_pixels(values, are_whole=are_whole) else None
    if min(height, width) < 2:
        return None
    if len(shape) == 3:
        return layout if values is not None or height == width else None
    return layout if values is not None else None


def layout_of_axes(shape: tuple[int, ...]) -> Layout | None:
    """Infer an image's axes from its shape alone; None where it has fewer than 2 axes or more than 4."""
    if len(shape) == 2:
        return "hw"
    if len(shape) == 3:
        return "chw" if _has_channels_first(shape) else "hwc"
    if len(shape) == 4:
        return "tchw" if _has_channels_first(shape[1:]) else "thwc"
    return None


def image_sides(shape: tuple[int, ...], layout: Layout) -> tuple[int, int]:
    """Height and width of an image."""
    return shape[layout.index("h")], shape[layout.index("w")]


def pixel_scale(values: Range | None) -> float:
    """Factor that brings pixels into [-1, 1] or [0, 1]: 1 / the largest magnitude; else 1."""
    largest = 0.0 if values is None else max(abs(values[0]), abs(values[1]))
    return 1 / largest if largest > 0 else 1.0


def chosen_layout(
    shape: tuple[int, ...], requested: str | None, inferred: Layout | None, *, convolutional: bool
) -> Layout | None:
    """Choose the layout that a setting requests: one of ``LAYOUTS``, or ``FLAT``; None: the inferred one.

    Without a request, a convolutional net makes images of whatever has an image's axes.

    Raises:
        ConfigError: a layout for arrays of another number of axes.
    """
    if requested is None:
        return layout_of_axes(shape) if convolutional else inferred
    if requested == FLAT:
        return None
    if len(requested) != len(shape):
        raise ConfigError(
            f"layout must be one for inputs of shape {list(shape)}, got {requested!r}, which has {len(requested)} axes"
        )
    return next(layout for layout in LAYOUTS if layout == requested)


def _has_channels_first(shape: tuple[int, ...]) -> bool:
    first, middle, last = shape
    if (first == middle) != (middle == last):  # one of them leaves a square
        return middle == last
    return first < last


def _are_pixels(values: Range | None, *, are_whole: bool) -> bool:
    if values is None or values[0] < 0:
        return False
    return values[1] <= 1 or values[1] == 255 or (are_whole and values[1] <= 255)
