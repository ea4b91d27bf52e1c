"""Adversarial examples by the fast gradient sign method (Goodfellow et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torso.errors import InputError
from torso.insight.units.bounds import Bounds
from torso.insight.units.layers import evaluation_mode
from torso.nets.modules.network import Network

_BATCH_ROWS = 512  # of one forward


def fgsm(network: Network, inputs: Tensor, labels: Tensor, epsilon: float, bounds: Bounds) -> Tensor:
    """Move inputs by ``epsilon`` of each feature's range, in the direction that raises the loss fastest.

    inputs: [B, *shape] raw, in any dtype; labels: [B] int64. Returns float [B, *shape] within ``bounds``:
    ``clip(x + epsilon span sign(dloss / dx))``, of the cross-entropy of the readout.

    Raises:
        InputError: an ``epsilon`` outside [0, 1]; a network that is no classifier.
    """
    return _perturbed(inputs, fgsm_direction(network, inputs, labels), epsilon, bounds)


def fgsm_direction(network: Network, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return the sign of the cross-entropy's gradient for the raw input: float [B, *shape] of -1, 0 and 1.

    Raises:
        InputError: a network that is no classifier.
    """
    if network.spec.kind != "classifier":
        raise InputError("model", expected="a classifier", got=f"a {network.spec.kind}, which predicts no labels")
    with evaluation_mode(network):
        signs = [
            _gradient_sign(network, rows, truth)
            for rows, truth in zip(torch.split(inputs, _BATCH_ROWS), torch.split(labels, _BATCH_ROWS), strict=True)
        ]
    return torch.cat(signs)


def _gradient_sign(network: Network, inputs: Tensor, labels: Tensor) -> Tensor:
    device = network.scaling.scale.device
    x = inputs.to(device, network.scaling.scale.dtype, copy=True).requires_grad_()
    prediction, _ = network(x)
    readout = network.head.readout(prediction)  # [B, K]
    index = labels.to(device).unsqueeze(1)  # [B, 1]
    # The cross-entropy's gradient is (1 - p) times that of the other classes' mean readout, weighed by their odds, less
    # the right one's. Without the factor the sign is the same, and does not vanish where p rounds to 1.
    odds = readout.detach().scatter(1, index, -torch.inf).softmax(dim=1)
    others = torch.where(odds > 0, odds * readout, 0.0).sum(dim=1)
    (gradient,) = torch.autograd.grad((others - readout.gather(1, index).squeeze(1)).sum(), x)
    return gradient.sign().to(inputs.device)


def _perturbed(inputs: Tensor, direction: Tensor, epsilon: float, bounds: Bounds) -> Tensor:
    if not 0 <= epsilon <= 1:
        raise InputError("epsilon", expected="a share of the input's range, in [0, 1]", got=str(epsilon))
    moved = inputs.to(direction.dtype) + epsilon * bounds.span.to(direction.device) * direction
    low, high = bounds.low.to(direction.device), bounds.high.to(direction.device)
    return torch.minimum(torch.maximum(moved, low), high)


@torch.no_grad()
def accuracy_by_epsilon(
    network: Network, inputs: Tensor, labels: Tensor, epsilons: Sequence[float], bounds: Bounds
) -> list[float]:
    """Compute the accuracy under attack, the share of inputs still labelled right, for each epsilon.

    inputs: [N, *shape] raw; labels: [N] int64.

    Raises:
        InputError: an epsilon outside [0, 1]; no inputs; a network that is no classifier.
    """
    if len(inputs) == 0:
        raise InputError("inputs", expected="at least 1 row", got="0")
    with torch.enable_grad():
        direction = fgsm_direction(network, inputs, labels)
    device = network.scaling.scale.device
    found = []
    with evaluation_mode(network):
        for epsilon in epsilons:
            num_right = 0
            for rows, truth in zip(
                torch.split(_perturbed(inputs, direction, epsilon, bounds), _BATCH_ROWS),
                torch.split(labels, _BATCH_ROWS),
                strict=True,
            ):
                num_right += int((network.readout(rows.to(device)).argmax(dim=1).cpu() == truth.cpu()).sum())
            found.append(num_right / len(inputs))
    return found
