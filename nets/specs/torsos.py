"""Torso specifications: fully connected layers, and convolutions before them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torso.checks import assign, choice, each, flag, fraction, whole
from torso.errors import SpecError
from torso.nets.specs.registry import LATER, register_torso
from torso.plain import from_fields, shown

MAX_LAYERS = 1024  # of a kind: a network of more would take minutes to build, whatever their widths
Activation = Literal["sigmoid", "tanh", "relu", "leaky_relu", "gelu", "identity"]
Pooling = Literal["max", "avg"]
LayerNormKind = Literal["image", "channels", "elements"]

ACTIVATIONS = ("sigmoid", "tanh", "relu", "leaky_relu", "gelu", "identity")  # identity: a deep linear network
LAYER_NORM_KINDS = ("image", "channels", "elements")


@dataclass(frozen=True, kw_only=True)
class MLPSpec:
    """Multi-layer perceptron: fully connected layers of any depth."""

    hidden: tuple[int, ...] = (128,)
    """Widths of the layers; without any, the network is linear in its inputs."""
    activation: Activation = "relu"
    """Activation after each layer, one of ``ACTIVATIONS``."""
    dropout: float = 0.0
    """Probability after each layer, in [0, 1)."""
    layer_norm: bool = False
    """Ba et al. 2016."""
    batch_norm: bool = False
    """Ioffe & Szegedy 2015."""

    def __post_init__(self) -> None:
        _check_layers(self)


@dataclass(frozen=True, kw_only=True)
class ConvLayerSpec:
    """A convolution, its activation, and a pooling where ``pool`` names one. Sizes are in pixels, square."""

    channels: int
    """Number of output channels."""
    kernel: int
    """Side of the kernel."""
    stride: int = 1
    """Step of the kernel."""
    padding: int = 0
    """Zeros on each side, fewer than ``kernel``."""
    pool: Pooling | None = None
    """Pooling after the activation: ``max``, ``avg`` or None."""
    pool_size: int = 2
    """Side of a pool, and its stride."""

    def __post_init__(self) -> None:
        for name, least in (("channels", 1), ("kernel", 1), ("stride", 1), ("padding", 0), ("pool_size", 1)):
            assign(self, **{name: whole(f"a convolution's {name}", getattr(self, name), least=least)})
        if self.padding >= self.kernel:
            raise SpecError(f"a convolution's padding must be below its kernel ({self.kernel}), got {self.padding}")
        if self.pool is not None:
            choice("a convolution's pool", self.pool, ("max", "avg"))

    def output_size(self, size: int) -> int:
        """Return the output side, in pixels, for an input side of ``size``; 0 or less where the layer does not fit."""
        size = self.convolved_size(size)
        return size // self.pool_size if self.pool is not None else size

    def convolved_size(self, size: int) -> int:
        """Return the output side before the pooling, in pixels."""
        return (size + 2 * self.padding - self.kernel) // self.stride + 1

    def min_input_size(self, size: int) -> int:
        """Return the smallest input side for an output side of ``size``, in pixels."""
        if self.pool is not None:
            size *= self.pool_size
        return max(1, (size - 1) * self.stride + self.kernel - 2 * self.padding)


@dataclass(frozen=True, kw_only=True)
class ConvNetSpec:
    """Convolutional network: convolutions, then fully connected layers, as LeNet and the Nature DQN network."""

    convs: tuple[ConvLayerSpec, ...]
    """At least one convolution."""
    hidden: tuple[int, ...] = ()
    """Widths of the fully connected layers."""
    activation: Activation = "relu"
    """Activation after each layer, one of ``ACTIVATIONS``."""
    dropout: float = 0.0
    """Probability before each fully connected layer and before the head, in [0, 1)."""
    layer_norm: bool = False
    """As in `MLPSpec`; after a convolution, over what ``layer_norm_kind`` says."""
    batch_norm: bool = False
    """As in `MLPSpec`; after a convolution, per channel."""
    layer_norm_kind: LayerNormKind = field(default="image", metadata=LATER)
    """Layer norm after a convolution. image: over channels and pixels together, with a scale and an offset for each
    channel (epsilon 1e-5). channels: over the channels of each pixel, with a scale and an offset for each channel
    (epsilon 1e-6), flax's and that of PQN's authors (Gallici et al. 2024). elements: over channels and pixels together,
    with a scale and an offset for each element [C, H, W] (epsilon 1e-5), PyTorch's and CleanRL's. After a fully
    connected layer all three are the same, over its features."""

    def __post_init__(self) -> None:
        if not isinstance(self.convs, (list, tuple)) or not self.convs:
            raise SpecError(
                f"convs must hold at least one convolution, got {shown(self.convs)}; without any, use an mlp"
            )
        if len(self.convs) > MAX_LAYERS:
            raise SpecError(f"convs must hold at most {MAX_LAYERS} convolutions, got {len(self.convs)}")
        convs = tuple(from_fields(ConvLayerSpec, c, "a convolution") if isinstance(c, dict) else c for c in self.convs)
        assign(self, convs=convs)
        for conv in convs:
            if not isinstance(conv, ConvLayerSpec):
                raise SpecError(f"each of convs must be a ConvLayerSpec, got {shown(conv)}")
        _check_layers(self)
        require_layer_norm_kind(self.layer_norm_kind, layer_norm=self.layer_norm)
        if self.layer_norm_kind == "channels" and any(conv.channels == 1 for conv in convs):
            raise SpecError(
                "each of convs must have more than one channel with layer_norm_kind='channels', got 1: of one value it "
                "leaves 0; use more channels, or layer_norm_kind='image'"
            )

    @property
    def min_input_size(self) -> int:
        """Side of the smallest image that fits, in pixels."""
        side = 1
        for conv in reversed(self.convs):
            side = conv.min_input_size(side)
        return side


def require_layer_norm_kind(kind: object, *, layer_norm: bool) -> None:
    """Raise SpecError for an unknown kind of layer norm, or for one that is chosen without a layer norm."""
    choice("layer_norm_kind", kind, LAYER_NORM_KINDS)
    if kind != "image" and not layer_norm:
        raise SpecError(f"layer_norm_kind must be left out without layer_norm, got {kind!r}; give layer_norm=True")


def _check_layers(spec: MLPSpec | ConvNetSpec) -> None:
    assign(
        spec,
        hidden=each("hidden", spec.hidden, whole),
        dropout=fraction("dropout", spec.dropout),
        layer_norm=flag("layer_norm", spec.layer_norm),
        batch_norm=flag("batch_norm", spec.batch_norm),
    )
    if len(spec.hidden) > MAX_LAYERS:
        raise SpecError(f"hidden must hold at most {MAX_LAYERS} widths, got {len(spec.hidden)}")
    choice("activation", spec.activation, ACTIVATIONS)
    if spec.layer_norm and spec.batch_norm:
        raise SpecError("layer_norm and batch_norm must not both be True, as they stand in the same place; choose one")
    if spec.layer_norm and 1 in spec.hidden:
        raise SpecError(
            f"hidden must hold widths above 1 with layer_norm, got {spec.hidden}: of one value it leaves 0; use wider "
            "layers, or no layer_norm"
        )


register_torso("mlp", MLPSpec, "torso.nets.modules.torsos:MLP")
register_torso("convnet", ConvNetSpec, "torso.nets.modules.torsos:ConvNet")
