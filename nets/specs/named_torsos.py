"""Torso presets by name, as the command line and the estimators use them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from torso.errors import ConfigError, SpecError
from torso.nets.specs.inputs import InputSpec
from torso.nets.specs.registry import TORSOS
from torso.nets.specs.torsos import (
    Activation,
    ConvLayerSpec,
    ConvNetSpec,
    LayerNormKind,
    MLPSpec,
    require_layer_norm_kind,
)

NETS = ("mlp", "cnn", "lenet", "nature", "nips", "minatar", "linear", "vgg")
CONVOLUTIONAL = ("lenet", "cnn", "vgg", "nature", "nips", "minatar")
_BUILT_IN_KINDS = frozenset({"mlp", "convnet"})  # which the presets are made of

_VGG_MIN_SIDE_PX = 16


def net_spec(
    name: str,
    network_input: InputSpec,
    *,
    hidden: Sequence[int] | None = None,
    activation: Activation | None = None,
    dropout: float | None = None,
    layer_norm: bool = False,
    batch_norm: bool | None = None,
    layer_norm_kind: LayerNormKind = "image",
) -> Any:
    """Build the torso specification of a preset by name; a setting that is given replaces the preset's own.

    The name may also be one that `register_torso` registered: then the settings go to its specification class, which
    must have a field for each that is given.

    linear: no hidden layer. mlp: one hidden layer of 128. cnn: 3x3 convolutions of 32, 64 and 128 channels, pooled,
    dropout and a layer of 128; for images below 16 pixels two convolutions. lenet: LeNet-5 (LeCun et al. 1998) for
    28x28 and larger. vgg: five 3x3 convolutions in three pooled blocks (after Simonyan & Zisserman 2015) with batch
    norm and dropout, for 16x16 and larger. nature: Mnih et al. 2015's network for 84x84. nips: Mnih et al. 2013's for
    84x84, half as wide and without the third convolution. minatar: Young & Tian 2019's for 10x10, a 3x3 convolution of
    16 channels and a layer of 128.

    ``layer_norm_kind`` is that of `ConvNetSpec`; in an mlp all kinds are the same.

    Raises:
        ConfigError: an unknown name, or settings that the net does not use.
        SpecError: invalid settings, or images that are too small for vgg.
    """
    settings: dict[str, Any] = {"layer_norm": layer_norm}
    if hidden is not None:
        settings["hidden"] = tuple(hidden) if isinstance(hidden, Sequence) else hidden  # which the spec refuses
    if activation is not None:
        settings["activation"] = activation
    if dropout is not None:
        settings["dropout"] = dropout
    if batch_norm is not None:
        settings["batch_norm"] = batch_norm
    require_layer_norm_kind(layer_norm_kind, layer_norm=bool(layer_norm))
    if layer_norm_kind != "image" and name != "mlp":
        settings["layer_norm_kind"] = layer_norm_kind
    if name == "linear":
        return _linear(settings)
    if name == "mlp":
        return MLPSpec(**settings)
    if name == "cnn":
        return _small_cnn(network_input, settings)
    if name == "vgg":
        return _vgg(network_input, settings)
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
    if name == "nips":
        convs = (ConvLayerSpec(channels=16, kernel=8, stride=4), ConvLayerSpec(channels=32, kernel=4, stride=2))
        return ConvNetSpec(**{"convs": convs, "hidden": (256,), **settings})
    if name == "minatar":
        return ConvNetSpec(**{"convs": (ConvLayerSpec(channels=16, kernel=3),), "hidden": (128,), **settings})
    if name in registered_nets():
        return _registered(name, settings)
    raise unknown_net(name, NETS)


def registered_nets() -> tuple[str, ...]:
    """Names of the torsos that users registered, which a configuration's ``net`` may be."""
    return tuple(name for name in TORSOS.names if name not in _BUILT_IN_KINDS and name not in NETS)


def is_convolutional(name: str | None) -> bool:
    """Whether a torso preset, or a registered torso, is for images; False for None."""
    if name in registered_nets():
        return bool(getattr(TORSOS.spec_class(name or ""), "takes_images", False))
    return name in CONVOLUTIONAL


def unknown_net(name: object, presets: Sequence[str]) -> ConfigError:
    """Make the error for a ``net`` that is neither one of ``presets`` nor registered."""
    return ConfigError(
        f"unknown net {name!r}; known are {', '.join((*presets, *registered_nets()))}; one of your own must be "
        "registered first (register_torso, torso --import MODULE)"
    )


def registered_fields(name: str) -> frozenset[str]:
    """Names of the fields of a registered torso's specification."""
    return frozenset(field.name for field in fields(TORSOS.spec_class(name)))


def _registered(name: str, settings: dict[str, Any]) -> Any:
    known = registered_fields(name)
    unused = [setting for setting, value in settings.items() if setting not in known and value]
    if unused:
        raise ConfigError(
            f"net {name!r} has no setting {', '.join(unused)}; leave it out, or add a field to "
            f"{TORSOS.spec_class(name).__name__}"
        )
    return TORSOS.spec_class(name)(**{setting: value for setting, value in settings.items() if setting in known})


def _linear(settings: dict[str, Any]) -> MLPSpec:
    unused = [name for name, value in settings.items() if value]
    if unused:
        raise ConfigError(f"net='linear' has no hidden layer for {', '.join(unused)}; leave out, or use net='mlp'")
    return MLPSpec(hidden=())


def _small_cnn(network_input: InputSpec, settings: dict[str, Any]) -> ConvNetSpec:
    shape = network_input.tensor_shape
    large = len(shape) == 3 and min(shape[1:]) >= 16
    if large:  # few channels where the image is large, so that an epoch is short
        own = {"hidden": (), "dropout": 0.3, "batch_norm": not settings["layer_norm"]}
        return ConvNetSpec(**{"convs": _convs((16, True), (32, False), (48, True), (96, True)), **own, **settings})
    # 8x8 scans keep their pixels for a layer. Chosen by cross-validation on digits' training and validation scans.
    convs = (
        ConvLayerSpec(channels=32, kernel=3, padding=1),
        ConvLayerSpec(channels=64, kernel=3, padding=1, pool="max"),
    )
    return ConvNetSpec(**{"convs": convs, "hidden": (128,), "dropout": 0.5, **settings})


def _convs(*layers: tuple[int, bool]) -> tuple[ConvLayerSpec, ...]:
    """Specify 3x3 convolutions that keep the size; ``layers``: (channels, pooled or not) of each."""
    return tuple(
        ConvLayerSpec(channels=channels, kernel=3, padding=1, pool="max" if pooled else None)
        for channels, pooled in layers
    )


def _vgg(network_input: InputSpec, settings: dict[str, Any]) -> ConvNetSpec:
    shape = network_input.tensor_shape
    if len(shape) == 3 and min(shape[1:]) < _VGG_MIN_SIDE_PX:
        raise SpecError(
            f"net='vgg' is for images of at least {_VGG_MIN_SIDE_PX}x{_VGG_MIN_SIDE_PX} pixels, these have "
            f"{shape[1]}x{shape[2]}; use net='cnn'"
        )
    convs = _convs((32, True), (64, False), (64, True), (128, False), (128, True))
    own = {"hidden": (), "dropout": 0.4, "batch_norm": not settings["layer_norm"]}
    return ConvNetSpec(**{"convs": convs, **own, **settings})
