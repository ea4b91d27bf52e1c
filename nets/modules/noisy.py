"""Noisy linear layer: weights with a learnt mean and a learnt deviation (Fortunato et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional


class NoisyLinear(nn.Linear):
    """Linear layer whose weights are ``mean + std * noise``, the noise factorised (Fortunato et al. 2018, sec. 3a).

    ``weight`` and ``bias`` are the means, with a linear layer's own initial values, which are the paper's;
    ``weight_std`` and ``bias_std`` begin at ``std / sqrt(in_features)``. A generator draws the noise, one draw for all
    rows of a call; without one the noise is at its mean of 0 and the layer is a linear layer.
    """

    stds: ClassVar[frozenset[str]] = frozenset({"weight_std", "bias_std"})
    """Names of the parameters that are deviations, which `initialise` leaves as they are."""

    bias: nn.Parameter

    def __init__(self, in_features: int, out_features: int, *, std: float) -> None:
        super().__init__(in_features, out_features)
        first = std / in_features**0.5
        self.weight_std = nn.Parameter(torch.full((out_features, in_features), first))
        self.bias_std = nn.Parameter(torch.full((out_features,), first))

    def sample(self, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Draw the weights [out, in] and biases [out] of one call; their means where ``generator`` is None."""
        if generator is None:
            return self.weight, self.bias
        size = self.in_features + self.out_features
        noise = torch.randn(size, generator=generator, device=self.weight.device, dtype=self.weight.dtype)
        noise = noise.sign() * noise.abs().sqrt()  # f of eq. 10 and 11
        column, row = noise[self.in_features :], noise[: self.in_features]
        weight = torch.addcmul(self.weight, self.weight_std, torch.outer(column, row))
        return weight, torch.addcmul(self.bias, self.bias_std, column)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map [..., in_features] to [..., out_features] by weights that `sample` draws."""
        return functional.linear(x, *self.sample(generator))


def linear_layer(noisy_std: float | None) -> Callable[[int, int], nn.Linear]:
    """Return what builds a layer of ``(in_features, out_features)``: a noisy one, or a linear one for None."""
    return nn.Linear if noisy_std is None else lambda inputs, outputs: NoisyLinear(inputs, outputs, std=noisy_std)
