"""A network's inputs as pictures, where they are images."""

from __future__ import annotations

import numpy as np

from torso.arrays import Array
from torso.insight.units.bounds import Bounds
from torso.nets.specs.inputs import InputSpec


def are_images(spec: InputSpec) -> bool:
    """Whether a network looks at images."""
    return spec.layout is not None or spec.image is not None


def as_pictures(inputs: Array, spec: InputSpec, bounds: Bounds) -> Array:
    """Raw images [N, *shape] as pictures: float [N, H, W] in [0, 1], or [N, H, W, 3] in colour.

    Of images with another number of channels, such as stacked frames, it is their mean.
    """
    span = float(bounds.span.max()) or 1.0
    values = (np.asarray(inputs, np.float64) - float(bounds.low.min())) / span
    pixels = channels_last(values, spec)
    return drawable(np.clip(pixels, 0, 1))


def channels_last(values: Array, spec: InputSpec) -> Array:
    """Values [N, *shape] of images as [N, H, W, C]."""
    if spec.layout == "hw":
        return values[..., np.newaxis]
    if spec.layout == "chw":
        return values.transpose(0, 2, 3, 1)
    if spec.layout is None and spec.image is not None:
        return values.reshape(-1, spec.image.height, spec.image.width, spec.image.channels)
    return values


def drawable(pixels: Array) -> Array:
    """[N, H, W, C] as [N, H, W], or [N, H, W, 3] where there are three channels."""
    if pixels.shape[3] == 3:
        return pixels
    mean: Array = pixels.mean(axis=3)
    return mean
