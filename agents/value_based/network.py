"""Q-network specification from settings and an env's spaces, and its initial weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from torso.agents.value_based.training_config import TrainingConfig
from torso.envs.vector.world import WorldSpec
from torso.errors import ConfigError
from torso.image_layout import LEGACY, chosen_layout, image_sides, pixel_scale
from torso.image_spec import Layout
from torso.nets import InputSpec, Network, NetworkSpec, build_network, net_spec
from torso.nets.models.transfer import load_torso, take_torso
from torso.nets.specs.named_heads import head_spec
from torso.nets.specs.named_torsos import is_convolutional, registered_fields, registered_nets

_NATURE_MIN_SIDE_PX = 36  # of its three convolutions


def input_spec(env: WorldSpec, config: TrainingConfig | None = None) -> InputSpec:
    """Input specification for an env's raw observations, as ``layout`` and ``net`` of a configuration read them.

    Without a configuration they are read by their shape and the space's bounds.

    Raises:
        ConfigError: a layout for observations of another number of axes.
    """
    given, net = (None, "auto") if config is None else (config.layout, config.net)
    if given == LEGACY:
        layout = _legacy_layout(env.shape)
        scale = pixel_scale(env.values) if layout is not None and env.dtype == "uint8" else 1.0
    else:
        layout = chosen_layout(env.shape, given, env.layout, convolutional=is_convolutional(net))
        scale = 1.0 if layout is None else pixel_scale(env.values)
    return InputSpec(shape=env.shape, dtype=env.dtype, layout=layout, scale=scale)


def resolved_net(config: TrainingConfig, network_input: InputSpec) -> str:
    """Name of the torso architecture: the setting ``net``, or else a convolutional one for images, mlp for vectors."""
    if config.net != "auto":
        return config.net
    if network_input.layout is None:
        return "mlp"
    return "nature" if min(image_sides(network_input.shape, network_input.layout)) >= _NATURE_MIN_SIDE_PX else "cnn"


def _legacy_layout(shape: tuple[int, ...]) -> Layout | None:
    if len(shape) == 2:
        return "hw"
    if len(shape) == 3:
        return "chw" if shape[0] < min(shape[1:]) else "hwc"
    return None


def q_network_spec(
    config: TrainingConfig, network_input: InputSpec, num_actions: int, initial: Network | None = None
) -> NetworkSpec:
    """Build the network specification of a configuration, for an env's observations and number of actions.

    With ``dueling`` the last hidden layer is the head's, one for each stream (Wang et al. 2016), and so it is in a
    noisy head (Fortunato et al. 2018) and in an implicit quantile head (Dabney et al. 2018). With
    ``normalise_observations`` the input has a mean and a standard deviation to be set. With ``init_torso`` the torso is
    that model's, whatever ``net`` is; or that of ``initial``, a network with the initial weights, which has it already.

    Raises:
        ConfigError, SpecError: settings that do not fit the observations, or another model's torso that does not.
    """
    if initial is not None and config.layout is None:  # as the model was trained to read them
        network_input = replace(network_input, layout=initial.spec.input.layout, scale=initial.spec.input.scale)
    net = resolved_net(config, network_input)
    hidden, streams = config.hidden, config.hidden[:0]
    if config.head_has_layers and config.init_torso is None:
        hidden, streams = config.hidden[:-1], config.hidden[-1:]
    if config.normalise_observations:
        if network_input.layout is not None:
            raise ConfigError(
                f"normalise_observations must be False for images, which are scaled by their range, got observations "
                f"{network_input.reading}; leave it out, or give layout='flat'"
            )
        zeros, ones = (0.0,) * network_input.size, (1.0,) * network_input.size
        network_input = replace(network_input, mean=zeros, std=ones)
    settings: dict[str, Any] = {"hidden": hidden, "activation": config.activation, "layer_norm": config.layer_norm}
    if config.layer_norm:
        settings["layer_norm_kind"] = config.layer_norm_kind
    if net in registered_nets():  # it takes what it has fields for; a preset's widths are for the named ones
        settings = {name: value for name, value in settings.items() if name in registered_fields(net)}
    torso = net_spec(
        net,
        network_input,
        dropout=0.0,
        batch_norm=False,  # its statistics would be the replay's in updates, and those of one state in acting
        **settings,
    )
    head = head_spec(config.head_name, {"num_actions": num_actions, "hidden": streams, **config.head_settings})
    spec = NetworkSpec(input=network_input, torso=torso, head=head)
    if config.init_torso is None:
        return spec
    if initial is not None:
        known = initial.spec.input
        scaled = replace(network_input, scale=known.scale, mean=known.mean, std=known.std)
        return replace(spec, input=scaled, torso=initial.spec.torso)
    return take_torso(spec, config.init_torso, dropout=0.0)


def initial_network(config: TrainingConfig, spec: NetworkSpec, seed: int) -> Network:
    """Build the initial network: a function of the seed, and of ``init_torso`` where there is one."""
    network = build_network(spec, torch.Generator().manual_seed(seed), config.init)
    if config.init_torso is not None:
        load_torso(network, config.init_torso)
    return network
