"""The optimal stimulus of a unit: the input that excites it most, found by gradient ascent (Erhan et al. 2009)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from torso.insight.units.bounds import Bounds
from torso.insight.units.layers import find_layer, unit_drives
from torso.nets.modules.network import Network

_FIRST_STEP = 0.15  # of the allowed distance from the ground; steps shrink linearly to none
_FIRST_DECAY = 0.06  # of the way back to the ground, in each step; it shrinks as the square of the steps


class Stimulus(NamedTuple):
    """Inputs and how much each excites its unit. ``inputs``: float [U, *shape], raw; ``drives``: float [U]."""

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
    furthest: Tensor | float | None = None,
    num_starts: int = 4,
    num_steps: int = 150,
) -> Stimulus:
    """For each unit of a layer, the input within ``bounds`` that excites it most, as far as ascent finds it.

    The ascent follows the gradient of the unit's drive in normalised steps, from ``num_starts`` points of noise (from
    ``generator``, on the CPU) and from ``start`` (an input for each unit, [U, *shape]), and keeps the best that it has
    seen, so the stimulus scores at least as high as its start. ``furthest`` is the largest distance from the ground
    (`Bounds.distance`), one for each unit or for all; with it, what does not help decays to the ground (Simonyan et al.
    2014), so that a distance is not spent on it; without it only the bounds hold.

    Raises:
        InputError: no such layer or unit.
    """
    for unit in units:
        find_layer(network, layer, unit)
    device = network.scaling.scale.device
    bounds = Bounds(*(part.to(device) for part in (bounds.low, bounds.high, bounds.ground)))
    noise = torch.rand((num_starts, len(units), *network.spec.input.shape), generator=generator).to(device)
    inputs = bounds.low + noise * bounds.span  # [S, U, *shape]
    if start is not None:
        inputs = torch.cat([inputs, start.float().to(device).unsqueeze(0)])
    starts = len(inputs)
    inputs = inputs.flatten(0, 1)  # [S * U, *shape]
    limit = None if furthest is None else torch.as_tensor(furthest, device=device).expand(len(units)).repeat(starts)
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
    """Projected gradient ascent; the best of each row's way."""
    ones = [1] * (inputs.dim() - 1)
    reach = bounds.distance(bounds.high.unsqueeze(0)) + bounds.distance(bounds.low.unsqueeze(0))  # [1]
    scale = _FIRST_STEP * (reach if limit is None else limit).expand(len(inputs)).reshape(-1, *ones)
    inputs = _within(inputs, bounds, limit)
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
        gradient = torch.where(_pushes_out(gradient, inputs, bounds), 0.0, gradient * bounds.span)
        norm = gradient.flatten(1).norm(dim=1).clamp_min(1e-30).reshape(-1, *ones)
        way = scale * (1 - step / num_steps) * gradient / norm
        inputs = inputs.detach() + way * bounds.span
        if limit is not None:
            inputs = inputs + _FIRST_DECAY * (1 - step / num_steps) ** 2 * (bounds.ground - inputs)
        inputs = _within(inputs, bounds, limit)
    return best


def _pushes_out(gradient: Tensor, inputs: Tensor, bounds: Bounds) -> Tensor:
    """Which features can go no further: bool [B, *shape]."""
    return ((gradient > 0) & (inputs >= bounds.high)) | ((gradient < 0) & (inputs <= bounds.low))


def _within(inputs: Tensor, bounds: Bounds, limit: Tensor | None) -> Tensor:
    inputs = bounds.clip(inputs)
    return inputs if limit is None else bounds.draw_near(inputs, limit)
