"""Transfer learning: initialise a torso from another model's, a classifier's in an agent or an agent's in a classifier.

The head is always new. A torso has learnt from inputs scaled in one way, so its input scaling is transferred with it.
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
    """Read the card of the model that a torso is taken from; its ``weights_sha256`` identifies the weights.

    ``source`` is a model directory or a run directory (its ``best/``, or else its ``model/``), of any kind.

    Raises:
        ModelNotFoundError, ModelDamagedError, ModelFormatError: see `torso.errors`.
    """
    return read_card(find_model(source))


def take_torso(spec: NetworkSpec, source: TorsoSource, *, dropout: float | None = None) -> NetworkSpec:
    """Replace the torso of ``spec`` by the source's; the head, and the shape and dtype of inputs, stay ``spec``'s.

    Where both tasks' inputs have the same dtype (or are both floats), scale, mean and std are the source's too: the
    torso learnt on inputs so scaled. Otherwise the same input is encoded in other numbers, and ``spec``'s own are
    kept. ``dropout`` None keeps the source's; the new task may choose another, since no weight depends on it. An agent
    passes 0: with dropout, the values that it acts and learns by would be random.

    Raises:
        SpecError: inputs of another ``tensor_shape``; a torso without layers; a dropout that the torso has no place
            for.
        ModelNotFoundError, ModelDamagedError, ModelFormatError: see `torso.errors`.
    """
    trained = read_source(source).network
    if trained.input.tensor_shape != spec.input.tensor_shape:
        raise SpecError(
            f"the torso of {source} takes inputs of shape {list(trained.input.tensor_shape)}, these are of shape "
            f"{list(spec.input.tensor_shape)}; give inputs of its shape, or another init_torso"
        )
    if isinstance(trained.torso, MLPSpec) and not trained.torso.hidden:
        raise SpecError(f"{source} is linear in its inputs: its torso has no layer to take; give another init_torso")
    network_input = spec.input
    if _same_encoding(trained.input, spec.input):
        network_input = replace(spec.input, scale=trained.input.scale, mean=trained.input.mean, std=trained.input.std)
    return replace(spec, input=network_input, torso=_with_dropout(trained.torso, dropout))


def load_torso(network: Network, source: TorsoSource) -> dict[str, str]:
    """Copy the weights and buffers of the source's torso into the network's, in place.

    The network was built from the specification that `take_torso` returned, on any device. Returns the entries for a
    provenance: ``path``, and the ``weights_sha256`` that were read.

    Raises:
        SpecError: the network's torso is another than the source's.
        ModelNotFoundError, ModelDamagedError, ModelFormatError: see `torso.errors`.
    """
    card, trained = load_model(source)
    own, loaded = network.torso.state_dict(), trained.torso.state_dict()
    same = _with_dropout(card.network.torso, _dropout(network.spec.torso)) == network.spec.torso
    if not same or card.network.input.tensor_shape != network.spec.input.tensor_shape:
        raise SpecError(
            f"the torso of {source} is {card.network.torso} on {list(card.network.input.tensor_shape)}, the network's "
            f"is {network.spec.torso} on {list(network.spec.input.tensor_shape)}; build it from take_torso's spec"
        )
    # By order: without dropout, the layers behind it have other numbers in their names.
    network.torso.load_state_dict(dict(zip(own, loaded.values(), strict=True)))
    return {"path": os.fspath(source), "weights_sha256": card.weights_sha256}


def freeze_torso(network: Network) -> None:
    """Freeze the torso: its weights are not trained, and it stays in evaluation mode under ``train()``.

    So the statistics of a batch norm do not change, and nothing drops out. Neither its forward builds a graph nor does
    backward compute anything of it. Call it before an optimizer is made.
    """
    network.torso.requires_grad_(False)
    network.torso_is_frozen = True
    network.train(network.training)


def has_running_statistics(network: Network) -> bool:
    """Return whether the torso updates running statistics while it trains (a batch norm), outside of any optimizer."""
    return any(isinstance(part, RUNNING_NORMS) and part.track_running_stats for part in network.torso.modules())


def _same_encoding(one: InputSpec, other: InputSpec) -> bool:
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
