"""Input specification: shape, dtype, layout, scaling, and the preprocessing of image files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from torso.checks import FLOAT32, assign, choice, each, number, positive, require_axes, whole
from torso.errors import SpecError
from torso.image_layout import LAYOUTS
from torso.image_spec import ImageSpec, Layout, is_atari_stack
from torso.plain import from_fields, shown

# The dtypes that the prediction service accepts.
INTEGER_DTYPES = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
INPUT_DTYPES = (*INTEGER_DTYPES, "float16", "float32", "float64")


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """Specification of one raw input, as the env or the file gave it.

    Scaling is the network's own first step: it computes ``(x * scale - mean) / std``.
    """

    shape: tuple[int, ...]
    """Shape of one input, without the batch axis."""
    dtype: str = "float32"
    """Name of the input's dtype, one of ``INPUT_DTYPES``."""
    layout: Layout | None = None
    """Axes of an image (``hw``, ``chw``, ``hwc``) or of a stack of images (``tchw``, ``thwc``), whose channels follow
    one another; without one the input is a flat vector, whatever its shape."""
    scale: float = 1.0
    """Factor of raw inputs, not 0."""
    mean: tuple[float, ...] | None = None
    """One value a feature (vectors) or a channel (images)."""
    std: tuple[float, ...] | None = None
    """One value a feature (vectors) or a channel (images), above 0."""
    image: ImageSpec | None = None
    """Preprocessing of image files to an input; None: the model takes no image files."""

    def __post_init__(self) -> None:
        if isinstance(self.dtype, (np.dtype, type)):  # np.float32 for "float32"
            assign(self, dtype=np.dtype(self.dtype).name)
        choice("an input's dtype", self.dtype, INPUT_DTYPES)
        require_axes("an input's shape", self.shape)
        assign(self, shape=each("an input's shape", self.shape, whole), scale=number("scale", self.scale))
        if abs(self.scale) < float(FLOAT32.tiny):
            raise SpecError(f"scale must be a number other than 0, got {self.scale}")
        if self.layout is not None:
            choice("layout", self.layout, LAYOUTS)
            if len(self.layout) != len(self.shape):
                raise SpecError(f"shape must have {len(self.layout)} axes for layout {self.layout!r}, got {self.shape}")
        self._check_normalisation()
        self._check_image()

    def _check_normalisation(self) -> None:
        if self.mean is None and self.std is None:
            return
        if self.mean is None or self.std is None:
            raise SpecError(f"mean and std must be given together, got {'std' if self.mean is None else 'mean'} alone")
        assign(self, mean=each("mean", self.mean, number), std=each("std", self.std, positive))
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.tensor_shape[0]:
                raise SpecError(
                    f"{name} must hold {self.tensor_shape[0]} values, one a feature or channel, got {len(values)}"
                )

    def _check_image(self) -> None:
        if isinstance(self.image, dict):
            assign(self, image=from_fields(ImageSpec, self.image, "image"))
        if self.image is None:
            return
        if not isinstance(self.image, ImageSpec):
            raise SpecError(f"image must be an ImageSpec, got {shown(self.image)}")
        pixels = (self.image.channels, self.image.height, self.image.width)
        if pixels != self.tensor_shape if self.layout is not None else math.prod(pixels) != self.size:
            raise SpecError(
                f"image must fill an input of shape {self.shape} and layout {self.layout}, got (channels, height, "
                f"width) {pixels}"
            )
        if self.image.max_value > _largest(self.numpy_dtype):
            raise SpecError(f"max_value must be one that {self.dtype} can hold, got {self.image.max_value}")

    @property
    def size(self) -> int:
        """Number of values of one input."""
        return math.prod(self.shape)

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """Shape of one input as the torso takes it: ``(F,)`` or ``(C, H, W)``."""
        if self.layout is None:
            return (self.size,)
        if self.layout == "hw":
            return (1, *self.shape)
        axes = dict(zip(self.layout, self.shape, strict=True))
        return (axes.get("t", 1) * axes["c"], axes["h"], axes["w"])

    @property
    def reading(self) -> str:
        """Text of how the network reads an input: as an image or a vector, and how it is scaled."""
        array = f"{self.dtype} [{', '.join(map(str, self.shape))}]"
        if self.layout is None:
            kind = "a vector" if len(self.shape) == 1 else f"a vector of {self.size:,} values"
        else:
            kind = f"{'a stack of images' if 't' in self.layout else 'an image'} ({_axes(self.layout)})"
        scaled = "" if self.scale == 1 else f", divided by {1 / self.scale:g}"
        return f"{array}, read as {kind}{scaled}{'' if self.mean is None else ', standardised'}"

    @property
    def is_atari_stack(self) -> bool:
        """Whether this is Atari's observation, a stack of four frames, so that raw frames may be sent in its place."""
        return is_atari_stack(self.shape, self.dtype)

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The dtype as numpy's."""
        return np.dtype(self.dtype)


def _axes(layout: Layout) -> str:
    names = {"t": "time", "c": "channels", "h": "height", "w": "width"}
    return ", ".join(names[axis] for axis in layout)


def _largest(dtype: np.dtype[Any]) -> float:
    if dtype.kind == "b":
        return 1
    return float(np.finfo(dtype).max) if dtype.kind == "f" else np.iinfo(dtype).max
