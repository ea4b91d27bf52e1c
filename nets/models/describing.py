"""One-line description of a model for people: kind, outputs, network, and where it was trained."""

from __future__ import annotations

import torch

from torso.nets.models.card import ModelCard
from torso.nets.modules.network import Network, count_parameters

_TRAINED = {"total_steps": "step", "epoch": "epoch"}
_OUTPUTS = {"classifier": "classes", "policy": "actions", "regressor": "targets"}
_MAX_LABELS = 10  # that are named


def describe(card: ModelCard) -> str:
    """Describe a model, such as ``policy: 2 actions, mlp, 67,586 parameters, CartPole-v1, 50,000 steps``."""
    spec, known = card.network, card.provenance
    with torch.device("meta"):  # without weights
        num_parameters = count_parameters(Network(spec))
    outputs = f"{spec.num_outputs} {_OUTPUTS[card.kind]}"
    if card.labels is not None and len(card.labels) <= _MAX_LABELS:
        outputs += f" ({', '.join(map(str, card.labels))})"
    parts = [outputs, spec.to_json()["torso"]["kind"], f"{num_parameters:,} parameters"]
    parts += [str(known[name]) for name in ("env_id", "dataset") if known.get(name)]
    for name, unit in _TRAINED.items():
        if isinstance(count := known.get(name), int):
            parts.append(f"{count:,} {unit}{'' if count == 1 else 's'}")
    return f"{card.kind}: {', '.join(parts)}"
