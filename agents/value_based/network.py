"""Q-network specification from settings and an env's spaces, and its initial weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from torso.agents.value_based.config import DQNConfig
from torso.envs.vector.world import WorldSpec
from torso.errors import ConfigError
from torso.nets import InputSpec, Network, NetworkSpec, build_network, net_spec
from torso.nets.models.transfer import load_torso, take_torso
from torso.nets.specs.named_heads import head_spec
from torso.nets.specs.named_torsos import registered_fields, registered_nets


def input_spec(env: WorldSpec) -> InputSpec:
    """Input specification for an env's raw observations."""
    return InputSpec(shape=env.shape, dtype=env.dtype, layout=env.layout, scale=env.scale)


def q_network_spec(
    config: DQNConfig, network_input: InputSpec, num_actions: int, initial: Network | None = None
) -> NetworkSpec:
    """Build the network specification of a configuration, for an env's observations and number of actions.

    With ``dueling`` the last hidden layer is the head's, one for each stream (Wang et al. 2016). With
    ``normalise_observations`` the input has a mean and a standard deviation to be set. With ``init_torso`` the torso is
    that model's, whatever ``net`` is; or that of ``initial``, a network with the initial weights, which has it already.

    Raises:
        ConfigError, SpecError: settings that do not fit the observations, or another model's torso that does not.
    """
    hidden, streams = config.hidden, config.hidden[:0]
    if config.dueling and config.init_torso is None:
        hidden, streams = config.hidden[:-1], config.hidden[-1:]
    if config.normalise_observations:
        if network_input.layout is not None:
            raise ConfigError(
                f"normalise_observations must be False unless observations are flat, got images of shape "
                f"{network_input.shape}, which are scaled already; leave it out"
            )
        zeros, ones = (0.0,) * network_input.size, (1.0,) * network_input.size
        network_input = replace(network_input, mean=zeros, std=ones)
    settings: dict[str, Any] = {"hidden": hidden, "activation": config.activation, "layer_norm": config.layer_norm}
    if config.net in registered_nets():  # it takes what it has fields for; a preset's widths are for the named ones
        settings = {name: value for name, value in settings.items() if name in registered_fields(config.net)}
    torso = net_spec(
        config.net,
        network_input,
        dropout=0.0,
        batch_norm=False,  # its statistics would be the replay's in updates, and those of one state in acting
        **settings,
    )
    row = config.row
    head = head_spec(
        row.head,
        {
            "num_actions": num_actions,
            "huber_delta": config.huber_delta,
            "dueling": row.dueling,
            "hidden": streams,
            **row.head_settings,
        },
    )
    spec = NetworkSpec(input=network_input, torso=torso, head=head)
    if config.init_torso is None:
        return spec
    if initial is not None:
        known = initial.spec.input
        scaled = replace(network_input, scale=known.scale, mean=known.mean, std=known.std)
        return replace(spec, input=scaled, torso=initial.spec.torso)
    return take_torso(spec, config.init_torso, dropout=0.0)


def initial_network(config: DQNConfig, spec: NetworkSpec, seed: int) -> Network:
    """Build the initial network: a function of the seed, and of ``init_torso`` where there is one."""
    network = build_network(spec, torch.Generator().manual_seed(seed))
    if config.init_torso is not None:
        load_torso(network, config.init_torso)
    return network
