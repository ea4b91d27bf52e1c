"""Torsos by the names that the command line and the estimators use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torso.errors import ConfigError
from torso.nets.spec import Activation, ConvLayerSpec, ConvNetSpec, InputSpec, MLPSpec

NETS = ("mlp", "cnn", "lenet", "nature")


def net_spec(
    name: str,
    network_input: InputSpec,
    *,
    hidden: Sequence[int] | None = None,
    activation: Activation | None = None,
    dropout: float | None = None,
    layer_norm: bool = False,
) -> MLPSpec | ConvNetSpec:
    """The torso that a name stands for; a setting that is given replaces the preset's own.

    mlp: one hidden layer of 128. cnn: 3x3 convolutions of 32, 64 and 128 channels, pooled, dropout and a layer of 128;
    for images below 16 pixels two convolutions.
    lenet: LeNet-5 (LeCun et al. 1998) for 28x28 and larger. nature: Mnih et al. 2015's network for 84x84.
    An unknown name is a ConfigError.
    """
    settings: dict[str, Any] = {"layer_norm": layer_norm}
    if hidden is not None:
        settings["hidden"] = tuple(hidden) if isinstance(hidden, Sequence) else hidden  # which the spec refuses
    if activation is not None:
        settings["activation"] = activation
    if dropout is not None:
        settings["dropout"] = dropout
    if name == "mlp":
        return MLPSpec(**settings)
    if name == "cnn":
        return _small_cnn(network_input, settings)
    if name == "lenet":
        convs: tuple[ConvLayerSpec, ...] = (
            ConvLayerSpec(channels=6, kernel=5, padding=2, pool="avg"),
            ConvLayerSpec(channels=16, kernel=5, pool="avg"),
        )
        return ConvNetSpec(**{"convs": convs, "hidden": (120, 84), "activation": "tanh", **settings})
    if name == "nature":
        convs = (
            ConvLayerSpec(channels=32, kernel=8, stride=4),
            ConvLayerSpec(channels=64, kernel=4, stride=2),
            ConvLayerSpec(channels=64, kernel=3, stride=1),
        )
        return ConvNetSpec(**{"convs": convs, "hidden": (512,), **settings})
    raise ConfigError(f"unknown net {name!r}; known are {', '.join(NETS)}")


def _small_cnn(network_input: InputSpec, settings: dict[str, Any]) -> ConvNetSpec:
    shape = network_input.tensor_shape
    large = len(shape) == 3 and min(shape[1:]) >= 16
    if large:
        convs = tuple(ConvLayerSpec(channels=channels, kernel=3, padding=1, pool="max") for channels in (32, 64, 128))
        return ConvNetSpec(**{"convs": convs, "hidden": (128,), "dropout": 0.3, **settings})
    # 8x8 scans keep their pixels for a layer. Chosen by cross-validation on digits' training and validation scans.
    convs = (
        ConvLayerSpec(channels=32, kernel=3, padding=1),
        ConvLayerSpec(channels=64, kernel=3, padding=1, pool="max"),
    )
    return ConvNetSpec(**{"convs": convs, "hidden": (128,), "dropout": 0.5, **settings})
