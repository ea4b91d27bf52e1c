"""The optimal stimulus of a unit: the input that excites it most, found by gradient ascent (Erhan et al. 2009)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from torso.insight.units.bounds import Bounds
from torso.insight.units.layers import find_layer, unit_drives
from torso.nets.modules.network import Network

_INITIAL_STEP = 0.15  # of the allowed distance from the baseline; steps shrink linearly to 0
_INITIAL_DECAY = 0.06  # of the way back to the baseline, in each step; it shrinks as the square of the steps


class Stimulus(NamedTuple):
    """Optimal inputs and the drive of each. ``inputs``: float [U, *shape], raw; ``drives``: float [U]."""

    inputs: Tensor
    drives: Tensor


def optimal_stimulus(
    network: Network,
    layer: str,
    units: Sequence[int],
    bounds: Bounds,
    generator: torch.Generator,
    *,
    start: Tensor | None = None,
    max_distance: Tensor | float | None = None,
    num_starts: int = 4,
    num_steps: int = 150,
) -> Stimulus:
    """Find the input within ``bounds`` that excites each unit of a layer most, by gradient ascent.

    The ascent follows the gradient of the unit's drive in normalised steps, from ``num_starts`` points of noise (from
    ``generator``, on the CPU) and from ``start`` (an input for each unit, [U, *shape]), and keeps the best input
    of all steps, so the stimulus scores at least as high as its start. ``max_distance`` limits the distance from the
    baseline (`Bounds.distance`), one for each unit or for all; with it, features that do not help decay to the baseline
    (Simonyan et al. 2014), so that no distance is spent on them; without it only the bounds hold.

    Raises:
        InputError: no such layer or unit.
    """
    for unit in units:
        find_layer(network, layer, unit)
    device = network.scaling.scale.device
    bounds = Bounds(*(part.to(device) for part in (bounds.low, bounds.high, bounds.baseline)))
    noise = torch.rand((num_starts, len(units), *network.spec.input.shape), generator=generator).to(device)
    inputs = bounds.low + noise * bounds.span  # [S, U, *shape]
    if start is not None:
        inputs = torch.cat([inputs, start.float().to(device).unsqueeze(0)])
    starts = len(inputs)
    inputs = inputs.flatten(0, 1)  # [S * U, *shape]
    limit = (
        None if max_distance is None else torch.as_tensor(max_distance, device=device).expand(len(units)).repeat(starts)
    )
    index = torch.as_tensor(units, device=device).repeat(starts).unsqueeze(1)  # [S * U, 1]
    best = _ascend(network, layer, index, bounds, limit, inputs, num_steps)
    drives = best.drives.reshape(starts, len(units))
    winner = drives.argmax(dim=0)  # [U]
    found = best.inputs.reshape(starts, len(units), *network.spec.input.shape)
    each = torch.arange(len(units), device=device)
    return Stimulus(found[winner, each].cpu(), drives[winner, each].cpu())


def _ascend(
    network: Network, layer: str, index: Tensor, bounds: Bounds, limit: Tensor | None, inputs: Tensor, num_steps: int
) -> Stimulus:
    """Run projected gradient ascent; return the best input of each row over all steps."""
    ones = [1] * (inputs.dim() - 1)
    reach = bounds.distance(bounds.high.unsqueeze(0)) + bounds.distance(bounds.low.unsqueeze(0))  # [1]
    scale = _INITIAL_STEP * (reach if limit is None else limit).expand(len(inputs)).reshape(-1, *ones)
    inputs = _project(inputs, bounds, limit)
    best = Stimulus(inputs, torch.full((len(inputs),), -torch.inf, device=inputs.device))
    for step in range(num_steps + 1):
        inputs = inputs.detach().requires_grad_()
        drives = unit_drives(network, inputs, layer).gather(1, index).squeeze(1)  # [B]
        better = drives.detach() > best.drives
        best = Stimulus(
            torch.where(better.reshape(-1, *ones), inputs.detach(), best.inputs),
            torch.where(better, drives.detach(), best.drives),
        )
        if step == num_steps:
            break
        (gradient,) = torch.autograd.grad(drives.sum(), inputs)
        # In widths of each feature's range, so that a feature in thousands moves as far as one in thousandths.
        gradient = torch.where(_points_outside(gradient, inputs, bounds), 0.0, gradient * bounds.span)
        norm = gradient.flatten(1).norm(dim=1).clamp_min(1e-30).reshape(-1, *ones)
        movement = scale * (1 - step / num_steps) * gradient / norm
        inputs = inputs.detach() + movement * bounds.span
        if limit is not None:
            inputs = inputs + _INITIAL_DECAY * (1 - step / num_steps) ** 2 * (bounds.baseline - inputs)
        inputs = _project(inputs, bounds, limit)
    return best


def _points_outside(gradient: Tensor, inputs: Tensor, bounds: Bounds) -> Tensor:
    """Mask features at a bound whose gradient points outside: bool [B, *shape]."""
    return ((gradient > 0) & (inputs >= bounds.high)) | ((gradient < 0) & (inputs <= bounds.low))


def _project(inputs: Tensor, bounds: Bounds, limit: Tensor | None) -> Tensor:
    inputs = bounds.clip(inputs)
    return inputs if limit is None else bounds.limit_distance(inputs, limit)
