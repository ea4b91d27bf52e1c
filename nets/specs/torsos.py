"""Torso specifications: fully connected layers, and convolutions before them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torso.checks import assign, choice, each, flag, fraction, whole
from torso.errors import SpecError
from torso.nets.specs.registry import register_torso
from torso.plain import from_fields, shown

Activation = Literal["sigmoid", "tanh", "relu", "leaky_relu", "gelu", "identity"]
Pooling = Literal["max", "avg"]

ACTIVATIONS = ("sigmoid", "tanh", "relu", "leaky_relu", "gelu", "identity")  # identity: a deep linear network


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
    pool: Pooling | None = None
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


register_torso("mlp", MLPSpec, "torso.nets.modules.torsos:MLP")
register_torso("convnet", ConvNetSpec, "torso.nets.modules.torsos:ConvNet")
