"""What a network is, as plain data: its input, its torso, its head.

A `NetworkSpec` goes into ``model.json`` and back without loss; it says everything that a served input needs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from torso.errors import SpecError
from torso.nets.registry import HEADS, TORSOS, from_fields, plain

Activation = Literal["sigmoid", "tanh", "relu"]
Layout = Literal["hw", "chw", "hwc"]
Polarity = Literal["light-on-dark", "dark-on-light"]
Centring = Literal["none", "box", "mass"]
Pool = Literal["max", "avg"]

ACTIVATIONS = ("sigmoid", "tanh", "relu")
# What travels on the wire.
INTEGER_DTYPES = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
INPUT_DTYPES = (*INTEGER_DTYPES, "float16", "float32", "float64")


def _choice(name: str, value: object, known: tuple[object, ...] | list[str]) -> None:
    if value not in known:
        raise SpecError(f"{name} must be one of {', '.join(map(str, known))}; got {value!r}")


def _positive(name: str, value: object, *, least: int = 1) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise SpecError(f"{name} must be a whole number of at least {least}, got {value!r}")


def _fraction(name: str, value: object) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1:
        raise SpecError(f"{name} must lie in [0, 1), got {value!r}")


def _hidden(name: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)):
        raise SpecError(f"{name} must be a sequence of layer widths, got {value!r}")
    for width in value:
        _positive(f"each width in {name}", width)
    return tuple(value)


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """How an image file becomes an input: what the network was trained to look at.

    ``polarity`` is the writing the network knows, light strokes on a dark ground or the reverse; a file of the other
    polarity is inverted. ``centring``: ``none`` scales the whole picture, ``box`` crops to the strokes first and
    fills the frame with them, ``mass`` fits them into 20/28 of the frame and moves their centre of mass to its middle
    (how MNIST was made, LeCun et al. 1998). ``max_value`` is the input's value for the lightest pixel.
    """

    channels: int
    height: int
    width: int
    polarity: Polarity = "light-on-dark"
    centring: Centring = "none"
    max_value: float = 255.0

    def __post_init__(self) -> None:
        _choice("channels", self.channels, (1, 3))
        _positive("height", self.height)
        _positive("width", self.width)
        _choice("polarity", self.polarity, ("light-on-dark", "dark-on-light"))
        _choice("centring", self.centring, ("none", "box", "mass"))
        if not (isinstance(self.max_value, (int, float)) and 0 < self.max_value < math.inf):
            raise SpecError(f"max_value must be a positive number, got {self.max_value!r}")


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """One input as the env or the file gave it; scaling is the network's own first step.

    ``shape`` leaves the batch out. ``layout`` names the axes of an image (``hw``, ``chw``, ``hwc``); without one the
    input is a flat vector, whatever its shape. The network computes ``(x * scale - mean) / std``, where ``mean`` and
    ``std`` hold one value a feature (vectors) or a channel (images).
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    layout: Layout | None = None
    scale: float = 1.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image: ImageSpec | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.shape, (list, tuple)):
            raise SpecError(f"an input's shape must be a tuple, got {self.shape!r}")
        object.__setattr__(self, "shape", tuple(self.shape))
        for size in self.shape:
            _positive("each size in an input's shape", size)
        _choice("an input's dtype", self.dtype, INPUT_DTYPES)
        if self.layout is not None:
            _choice("layout", self.layout, ("hw", "chw", "hwc"))
            if len(self.layout) != len(self.shape):
                raise SpecError(f"layout {self.layout!r} needs {len(self.layout)} axes, the shape is {self.shape}")
        if not (isinstance(self.scale, (int, float)) and math.isfinite(self.scale) and self.scale != 0):
            raise SpecError(f"scale must be a finite number other than 0, got {self.scale!r}")
        self._check_normalisation()
        self._check_image()

    def _check_normalisation(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise SpecError("mean and std come together, or not at all")
        for name in ("mean", "std"):
            value = getattr(self, name)
            if value is None:
                continue
            object.__setattr__(self, name, tuple(float(item) for item in value))
            if len(value) != self.tensor_shape[0]:
                raise SpecError(
                    f"{name} must hold {self.tensor_shape[0]} values, one a feature or channel, got {len(value)}"
                )
        if self.std is not None and min(self.std) <= 0:
            raise SpecError(f"std must be positive, got {min(self.std)}")

    def _check_image(self) -> None:
        if isinstance(self.image, dict):
            object.__setattr__(self, "image", from_fields(ImageSpec, self.image, "image"))
        if self.image is not None:
            pixels = self.image.channels * self.image.height * self.image.width
            if pixels != self.size:
                raise SpecError(f"an image of {pixels} values cannot fill an input of shape {self.shape}")

    @property
    def size(self) -> int:
        """How many values one input has."""
        return math.prod(self.shape)

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """What the torso gets of one input: ``(F,)`` or ``(C, H, W)``."""
        if self.layout is None:
            return (self.size,)
        if self.layout == "hw":
            return (1, *self.shape)
        if self.layout == "chw":
            return self.shape
        height, width, channels = self.shape
        return (channels, height, width)

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The dtype as numpy has it."""
        return np.dtype(self.dtype)


@dataclass(frozen=True, kw_only=True)
class MLPSpec:
    """Fully connected layers of any depth; none at all makes the network linear in its inputs."""

    hidden: tuple[int, ...] = (128,)
    activation: Activation = "relu"
    dropout: float = 0.0
    layer_norm: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", _hidden("hidden", self.hidden))
        _choice("activation", self.activation, ACTIVATIONS)
        _fraction("dropout", self.dropout)


@dataclass(frozen=True, kw_only=True)
class ConvLayerSpec:
    """A convolution, its activation, and a pooling where ``pool`` names one. Sizes are in pixels, square."""

    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    pool: Pool | None = None
    pool_size: int = 2

    def __post_init__(self) -> None:
        for name in ("channels", "kernel", "stride", "pool_size"):
            _positive(f"a convolution's {name}", getattr(self, name))
        _positive("a convolution's padding", self.padding, least=0)
        if self.pool is not None:
            _choice("a convolution's pool", self.pool, ("max", "avg"))

    def output_size(self, size: int) -> int:
        """The side, in pixels, that a side of ``size`` pixels leaves behind; 0 or less where the layer does not fit."""
        size = (size + 2 * self.padding - self.kernel) // self.stride + 1
        return size // self.pool_size if self.pool is not None else size

    def least_input(self, size: int) -> int:
        """The least side that leaves ``size`` pixels behind."""
        if self.pool is not None:
            size *= self.pool_size
        return max(1, (size - 1) * self.stride + self.kernel - 2 * self.padding)


@dataclass(frozen=True, kw_only=True)
class ConvNetSpec:
    """Convolutions, then fully connected layers: LeNet and the Nature DQN network are two of these."""

    convs: tuple[ConvLayerSpec, ...]
    hidden: tuple[int, ...] = ()
    activation: Activation = "relu"
    dropout: float = 0.0  # before each fully connected layer and before the head
    layer_norm: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.convs, (list, tuple)) or not self.convs:
            raise SpecError(f"convs must hold at least one convolution, got {self.convs!r}; without any, use an mlp")
        convs = tuple(from_fields(ConvLayerSpec, c, "a convolution") if isinstance(c, dict) else c for c in self.convs)
        object.__setattr__(self, "convs", convs)
        for conv in convs:
            if not isinstance(conv, ConvLayerSpec):
                raise SpecError(f"each of convs must be a ConvLayerSpec, got {conv!r}")
        object.__setattr__(self, "hidden", _hidden("hidden", self.hidden))
        _choice("activation", self.activation, ACTIVATIONS)
        _fraction("dropout", self.dropout)

    @property
    def least_input(self) -> int:
        """The side, in pixels, of the smallest image that fits."""
        side = 1
        for conv in reversed(self.convs):
            side = conv.least_input(side)
        return side


@dataclass(frozen=True, kw_only=True)
class ScalarHeadSpec:
    """One expected return an action (Mnih et al. 2015).

    ``huber_delta`` is the TD error beyond which the loss is linear; None means the squared error.
    """

    num_actions: int
    huber_delta: float | None = 1.0

    def __post_init__(self) -> None:
        _positive("num_actions", self.num_actions)
        if self.huber_delta is not None and not self.huber_delta > 0:
            raise SpecError(f"huber_delta must be positive, or None for the squared error, got {self.huber_delta!r}")


@dataclass(frozen=True, kw_only=True)
class LogitsHeadSpec:
    """One logit a class; softmax makes them probabilities."""

    num_classes: int

    def __post_init__(self) -> None:
        _positive("num_classes", self.num_classes, least=2)


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """A whole network: input, torso, head. `to_json` and `from_json` are each other's inverse."""

    input: InputSpec
    torso: Any
    head: Any

    def __post_init__(self) -> None:
        if not isinstance(self.input, InputSpec):
            raise SpecError(f"input must be an InputSpec, got {self.input!r}")
        TORSOS.of(self.torso)
        HEADS.of(self.head)

    def to_json(self) -> dict[str, Any]:
        """The spec as plain data: dicts, lists, strings, numbers, booleans, None."""
        fields = {name: getattr(self.input, name) for name in InputSpec.__dataclass_fields__}
        fields["image"] = None if self.input.image is None else dict(vars(self.input.image))
        return {"input": plain(fields), "torso": TORSOS.to_json(self.torso), "head": HEADS.to_json(self.head)}

    @classmethod
    def from_json(cls, data: object) -> NetworkSpec:
        """The spec that `to_json` wrote; SpecError names what is wrong with anything else."""
        if not isinstance(data, dict) or set(data) != {"input", "torso", "head"}:
            raise SpecError(f"a network must be an object of input, torso and head, got {data!r}")
        return cls(
            input=from_fields(InputSpec, data["input"], "input"),
            torso=TORSOS.from_json(data["torso"]),
            head=HEADS.from_json(data["head"]),
        )
