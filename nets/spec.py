"""What a network is, as plain data: its input, its torso, its head.

A `NetworkSpec` goes into ``model.json`` and back without loss; it says everything that a served input needs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from torso.checks import FLOAT32, assign, choice, each, flag, fraction, number, positive, whole
from torso.errors import SpecError
from torso.nets.registry import COUNT_FIELDS, HEADS, TORSOS, ModelKind
from torso.plain import from_fields, plain, shown

Activation = Literal["sigmoid", "tanh", "relu", "leaky_relu", "gelu", "identity"]
Layout = Literal["hw", "chw", "hwc"]
Polarity = Literal["light-on-dark", "dark-on-light", "none"]
Centring = Literal["none", "box", "mass"]
Pool = Literal["max", "avg"]

ACTIVATIONS = ("sigmoid", "tanh", "relu", "leaky_relu", "gelu", "identity")  # identity: a deep linear network
# What travels on the wire.
INTEGER_DTYPES = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
INPUT_DTYPES = (*INTEGER_DTYPES, "float16", "float32", "float64")


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """How an image file becomes an input: what the network was trained to look at.

    ``polarity`` is the writing the network knows, light strokes on a dark ground or the reverse; a file of the other
    polarity is inverted; with ``none`` (photographs) it is taken as it is. ``centring``: ``none`` scales the whole
    picture, ``box`` crops to the strokes first and fills the frame with them, ``mass`` fits them into 20/28 of the
    frame and moves their centre of mass to its middle (how MNIST was made, LeCun et al. 1998); both make the paper's
    gray the ground's. ``max_value`` is the input's value for the lightest pixel. A flat input holds the pixels row
    by row, a pixel's channels together.
    """

    channels: int
    height: int
    width: int
    polarity: Polarity = "light-on-dark"
    centring: Centring = "none"
    max_value: float = 255.0

    def __post_init__(self) -> None:
        assign(
            self,
            channels=whole("channels", self.channels),
            height=whole("height", self.height),
            width=whole("width", self.width),
            max_value=positive("max_value", self.max_value),
        )
        if self.channels not in (1, 3):
            raise SpecError(f"channels must be 1 (gray) or 3 (red, green, blue), got {self.channels}")
        choice("polarity", self.polarity, ("light-on-dark", "dark-on-light", "none"))
        choice("centring", self.centring, ("none", "box", "mass"))
        if self.polarity == "none" and self.centring != "none":
            raise SpecError(f"centring {self.centring!r} looks for strokes, which polarity 'none' says there are not")


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
        if isinstance(self.dtype, (np.dtype, type)):  # np.float32 for "float32"
            assign(self, dtype=np.dtype(self.dtype).name)
        choice("an input's dtype", self.dtype, INPUT_DTYPES)
        assign(self, shape=each("an input's shape", self.shape, whole), scale=number("scale", self.scale))
        if abs(self.scale) < float(FLOAT32.tiny):
            raise SpecError(f"scale must be a number other than 0, got {self.scale}")
        if self.layout is not None:
            choice("layout", self.layout, ("hw", "chw", "hwc"))
            if len(self.layout) != len(self.shape):
                raise SpecError(f"layout {self.layout!r} needs {len(self.layout)} axes, the shape is {self.shape}")
        self._check_normalisation()
        self._check_image()

    def _check_normalisation(self) -> None:
        if self.mean is None and self.std is None:
            return
        if self.mean is None or self.std is None:
            raise SpecError("mean and std come together, or not at all")
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
                f"an image of (channels, height, width) {pixels} cannot fill an input of shape {self.shape}, "
                f"layout {self.layout}"
            )
        if self.image.max_value > _largest(self.numpy_dtype):
            raise SpecError(f"max_value must be one that {self.dtype} can hold, got {self.image.max_value}")

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


def _largest(dtype: np.dtype[Any]) -> float:
    if dtype.kind == "b":
        return 1
    return float(np.finfo(dtype).max) if dtype.kind == "f" else np.iinfo(dtype).max


@dataclass(frozen=True, kw_only=True)
class MLPSpec:
    """Fully connected layers of any depth; none at all makes the network linear in its inputs."""

    hidden: tuple[int, ...] = (128,)
    activation: Activation = "relu"
    dropout: float = 0.0
    layer_norm: bool = False  # Ba et al. 2016
    batch_norm: bool = False  # Ioffe & Szegedy 2015

    def __post_init__(self) -> None:
        _check_layers(self)


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
        for name, least in (("channels", 1), ("kernel", 1), ("stride", 1), ("padding", 0), ("pool_size", 1)):
            assign(self, **{name: whole(f"a convolution's {name}", getattr(self, name), least=least)})
        if self.padding >= self.kernel:
            raise SpecError(f"a convolution's padding must be below its kernel ({self.kernel}), got {self.padding}")
        if self.pool is not None:
            choice("a convolution's pool", self.pool, ("max", "avg"))

    def output_size(self, size: int) -> int:
        """The side, in pixels, that a side of ``size`` pixels leaves behind; 0 or less where the layer does not fit."""
        size = self.convolved_size(size)
        return size // self.pool_size if self.pool is not None else size

    def convolved_size(self, size: int) -> int:
        """The same before the pooling."""
        return (size + 2 * self.padding - self.kernel) // self.stride + 1

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
    batch_norm: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.convs, (list, tuple)) or not self.convs:
            raise SpecError(
                f"convs must hold at least one convolution, got {shown(self.convs)}; without any, use an mlp"
            )
        convs = tuple(from_fields(ConvLayerSpec, c, "a convolution") if isinstance(c, dict) else c for c in self.convs)
        assign(self, convs=convs)
        for conv in convs:
            if not isinstance(conv, ConvLayerSpec):
                raise SpecError(f"each of convs must be a ConvLayerSpec, got {shown(conv)}")
        _check_layers(self)

    @property
    def least_input(self) -> int:
        """The side, in pixels, of the smallest image that fits."""
        side = 1
        for conv in reversed(self.convs):
            side = conv.least_input(side)
        return side


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """A whole network: input, torso, head. `to_json` and `from_json` are each other's inverse."""

    input: InputSpec
    torso: Any
    head: Any

    def __post_init__(self) -> None:
        if not isinstance(self.input, InputSpec):
            raise SpecError(f"input must be an InputSpec, got {shown(self.input)}")
        TORSOS.to_json(self.torso)  # now, and not at the end of a training, it turns out whether they can be saved
        HEADS.to_json(self.head)

    @property
    def num_outputs(self) -> int:
        """How many classes or actions the network tells apart, or how many targets it estimates."""
        return int(getattr(self.head, COUNT_FIELDS[self.kind]))

    @property
    def kind(self) -> ModelKind:
        """What the head makes of the network."""
        return next(kind for kind, field in COUNT_FIELDS.items() if hasattr(self.head, field))

    @property
    def probabilistic(self) -> bool:
        """Whether the network is a classifier whose readout can be read as probabilities; a step unit's cannot."""
        return self.kind == "classifier" and bool(getattr(self.head, "probabilistic", True))

    def to_json(self) -> dict[str, Any]:
        """The spec as plain data: dicts, lists, strings, numbers, booleans, None."""
        fields = {name: getattr(self.input, name) for name in InputSpec.__dataclass_fields__}
        fields["image"] = None if self.input.image is None else dict(vars(self.input.image))
        return {"input": plain(fields, "input"), "torso": TORSOS.to_json(self.torso), "head": HEADS.to_json(self.head)}

    @classmethod
    def from_json(cls, data: object) -> NetworkSpec:
        """The spec that `to_json` wrote; SpecError names what is wrong with anything else."""
        if not isinstance(data, dict) or set(data) != {"input", "torso", "head"}:
            raise SpecError(f"a network must be an object of input, torso and head, got {shown(data)}")
        try:
            return cls(
                input=from_fields(InputSpec, data["input"], "input"),
                torso=TORSOS.from_json(data["torso"]),
                head=HEADS.from_json(data["head"]),
            )
        except RecursionError as error:
            raise SpecError("a network must be plain data, got lists in lists beyond any meaning") from error


def _check_layers(spec: MLPSpec | ConvNetSpec) -> None:
    assign(
        spec,
        hidden=each("hidden", spec.hidden, whole),
        dropout=fraction("dropout", spec.dropout),
        layer_norm=flag("layer_norm", spec.layer_norm),
        batch_norm=flag("batch_norm", spec.batch_norm),
    )
    choice("activation", spec.activation, ACTIVATIONS)
    if spec.layer_norm and spec.batch_norm:
        raise SpecError("layer_norm and batch_norm stand in the same place; choose one")
    if spec.layer_norm and 1 in spec.hidden:
        raise SpecError("layer_norm leaves nothing of a layer of width 1; use wider ones, or no layer_norm")
