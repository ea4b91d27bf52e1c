"""L1 and L2 penalties (weight regularisation), added to the loss."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from torso.errors import ConfigError
from torso.nets.modules.layers import weights_of


def penalty(network: nn.Module, *, l1: float = 0.0, l2: float = 0.0) -> Tensor:
    """Return ``l1`` times the weights' sum of absolute values plus ``l2``/2 times their sum of squares, a scalar.

    Its gradient is l1 sign(w) + l2 w, and 0 for l1 where w is 0 (Tibshirani 1996; Hoerl & Kennard 1970). It covers
    trainable parameters of more than one axis: biases, norms and frozen parameters are excluded.

    Raises:
        ConfigError: an ``l1`` or ``l2`` below 0 or not finite.
    """
    for name, value in (("l1", l1), ("l2", l2)):
        if not 0 <= value < math.inf:
            raise ConfigError(f"{name} must be at least 0 and finite, got {value}")
    weights = [weight for weight in weights_of(network) if weight.requires_grad]
    if not weights or not (l1 or l2):
        return torch.zeros((), device=next((parameter.device for parameter in network.parameters()), None))
    total: Tensor = _Penalty.apply(l1, l2, *weights)  # type: ignore[no-untyped-call]
    return total


class _Penalty(torch.autograd.Function):
    """Sum over weights, with a backward of one or two passes over each: autograd's own takes up to three."""

    @staticmethod
    def forward(ctx: Any, l1: float, l2: float, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(*weights)
        ctx.l1, ctx.l2 = l1, l2
        total = weights[0].new_zeros(())
        for weight in weights:
            if l1:
                total += l1 * weight.abs().sum()
            if l2:
                total += l2 / 2 * torch.linalg.vector_norm(weight).square()
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), weights = grads, ctx.saved_tensors
        if not ctx.l1:
            return None, None, *(weight * (grad * ctx.l2) for weight in weights)
        signs = [weight.sign() * (grad * ctx.l1) for weight in weights]
        if ctx.l2:
            signs = [sign + weight * (grad * ctx.l2) for sign, weight in zip(signs, weights, strict=True)]
        return None, None, *signs
