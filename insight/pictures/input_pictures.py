"""Convert a network's image inputs to pictures."""

from __future__ import annotations

import numpy as np

from torso.arrays import Array
from torso.insight.units.bounds import Bounds
from torso.nets.specs.inputs import InputSpec


def are_images(spec: InputSpec) -> bool:
    """Whether a network's inputs are images."""
    return spec.layout is not None or spec.image is not None


def as_pictures(inputs: Array, spec: InputSpec, bounds: Bounds) -> Array:
    """Convert raw images [N, *shape] to pictures: float [N, H, W] in [0, 1], or [N, H, W, 3] in colour.

    Other numbers of channels, such as those of stacked frames, are averaged.
    """
    span = float(bounds.span.max()) or 1.0
    values = (np.asarray(inputs, np.float64) - float(bounds.low.min())) / span
    pixels = channels_last(values, spec)
    return gray_or_rgb(np.clip(pixels, 0, 1))


def channels_last(values: Array, spec: InputSpec) -> Array:
    """Reorder values [N, *shape] of images to [N, H, W, C]."""
    if spec.layout == "hw":
        return values[..., np.newaxis]
    if spec.layout == "chw":
        return values.transpose(0, 2, 3, 1)
    if spec.layout in ("tchw", "thwc"):  # a stack's channels follow one another
        planes = values if spec.layout == "tchw" else values.transpose(0, 1, 4, 2, 3)
        return planes.reshape(len(values), *spec.tensor_shape).transpose(0, 2, 3, 1)
    if spec.layout is None and spec.image is not None:
        return values.reshape(-1, spec.image.height, spec.image.width, spec.image.channels)
    return values


def gray_or_rgb(pixels: Array) -> Array:
    """Average the channels of [N, H, W, C] to [N, H, W]; three channels stay [N, H, W, 3]."""
    if pixels.shape[3] == 3:
        return pixels
    mean: Array = pixels.mean(axis=3)
    return mean
