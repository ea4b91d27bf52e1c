"""A torso that learnt one task as the first torso of another: a classifier's in an agent, an agent's in a classifier.

The head is always new. What a torso knows is of inputs scaled as it saw them, so its input scaling goes with it.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np

from torso.errors import SpecError
from torso.nets.models.card import ModelCard, read_card
from torso.nets.models.directory import find_model
from torso.nets.models.loading import load_model
from torso.nets.modules.layers import RUNNING_NORMS
from torso.nets.modules.network import Network
from torso.nets.specs.inputs import InputSpec
from torso.nets.specs.network import NetworkSpec
from torso.nets.specs.torsos import MLPSpec

TorsoSource = str | os.PathLike[str]


def read_source(source: TorsoSource) -> ModelCard:
    """The card of the model that a torso would be taken from; its ``weights_sha256`` says which weights those are.

    ``source`` is a model directory or a run directory (its ``best/``, or else its ``model/``), of any kind.

    Raises:
        ModelNotFoundError, ModelDamagedError, ModelFormatError: see `torso.errors`.
    """
    return read_card(find_model(source))


def take_torso(spec: NetworkSpec, source: TorsoSource, *, dropout: float | None = None) -> NetworkSpec:
    """``spec`` with the source's torso in place of its own; the head, and what one input is, stay ``spec``'s.

    Where both tasks' inputs have the same dtype (or are both floats), scale, mean and std are the source's too: the
    torso learnt on inputs so scaled. Otherwise the same thing is written in other numbers, and ``spec``'s own hold.
    ``dropout`` None keeps the source's; another share is the new task's own choice, since no weight depends on it. An
    agent gives 0: with dropout, the values that it acts and learns by would be drawn.

    Raises:
        SpecError: inputs of another ``tensor_shape``; a torso without layers; a dropout that the torso has no place
            for.
        ModelNotFoundError, ModelDamagedError, ModelFormatError: see `torso.errors`.
    """
    known = read_source(source).network
    if known.input.tensor_shape != spec.input.tensor_shape:
        raise SpecError(
            f"the torso of {source} takes inputs of shape {list(known.input.tensor_shape)}, these are of shape "
            f"{list(spec.input.tensor_shape)}; give inputs of its shape, or another init_torso"
        )
    if isinstance(known.torso, MLPSpec) and not known.torso.hidden:
        raise SpecError(f"{source} is linear in its inputs: its torso has no layer to take; give another init_torso")
    network_input = spec.input
    if _same_numbers(known.input, spec.input):
        network_input = replace(spec.input, scale=known.input.scale, mean=known.input.mean, std=known.input.std)
    return replace(spec, input=network_input, torso=_with_dropout(known.torso, dropout))


def load_torso(network: Network, source: TorsoSource) -> dict[str, str]:
    """Copy the weights and buffers of the source's torso into the network's, in place.

    The network is one that was built from what `take_torso` gave, on any device. Returns what a provenance keeps of it:
    ``path``, and the ``weights_sha256`` that were read.

    Raises:
        SpecError: the network's torso is another than the source's.
        ModelNotFoundError, ModelDamagedError, ModelFormatError: see `torso.errors`.
    """
    card, known = load_model(source)
    own, taken = network.torso.state_dict(), known.torso.state_dict()
    same = _with_dropout(card.network.torso, _dropout(network.spec.torso)) == network.spec.torso
    if not same or card.network.input.tensor_shape != network.spec.input.tensor_shape:
        raise SpecError(
            f"the torso of {source} is {card.network.torso} on {list(card.network.input.tensor_shape)}, the network's "
            f"is {network.spec.torso} on {list(network.spec.input.tensor_shape)}; build it from take_torso's spec"
        )
    # By order: without dropout, the layers behind it have other numbers in their names.
    network.torso.load_state_dict(dict(zip(own, taken.values(), strict=True)))
    return {"path": os.fspath(source), "weights_sha256": card.weights_sha256}


def freeze_torso(network: Network) -> None:
    """Keep the torso as it is: its weights learn no more, and it stays in evaluation mode whatever ``train()`` says.

    So the statistics of a batch norm do not move, and nothing drops out. Neither its forward builds a graph nor does
    backward compute anything of it. To be called before an optimizer is made.
    """
    network.torso.requires_grad_(False)
    network.torso_is_frozen = True
    network.train(network.training)


def has_running_statistics(network: Network) -> bool:
    """Whether the torso moves statistics of its own while it trains (a batch norm), which no optimizer knows of."""
    return any(isinstance(part, RUNNING_NORMS) and part.track_running_stats for part in network.torso.modules())


def _same_numbers(one: InputSpec, other: InputSpec) -> bool:
    kinds = one.numpy_dtype, other.numpy_dtype
    return one.dtype == other.dtype or all(np.issubdtype(kind, np.floating) for kind in kinds)


def _dropout(torso: Any) -> float | None:
    return getattr(torso, "dropout", None)


def _with_dropout(torso: Any, dropout: float | None) -> Any:
    if dropout is None or _dropout(torso) == dropout:
        return torso
    if hasattr(torso, "dropout"):
        return replace(torso, dropout=dropout)
    if dropout:
        raise SpecError(f"the torso {torso} has no dropout to set to {dropout}; leave it out")
    return torso
