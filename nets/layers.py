"""Layers whose randomness comes from a generator, and the network's own first step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torso.nets.spec import Activation, InputSpec


class InputScaling(nn.Module):
    """Raw inputs ``[B, *shape]`` of any dtype to float ``[B, F]`` or ``[B, C, H, W]``: ``(x * scale - mean) / std``."""

    mean: Tensor
    std: Tensor
    scale: Tensor

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.layout = spec.layout
        self.identity = spec.scale == 1.0
        self.normalised = spec.mean is not None
        # Not in the weights file: the spec holds them. As buffers they follow the network's device and precision.
        self.register_buffer("scale", torch.tensor(float(spec.scale)), persistent=False)
        per_channel = (-1,) if spec.layout is None else (-1, 1, 1)
        self.register_buffer("mean", torch.tensor(spec.mean or (0.0,)).reshape(per_channel), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std or (1.0,)).reshape(per_channel), persistent=False)

    def forward(self, obs: Tensor) -> Tensor:
        """``[B, *shape]`` raw to ``[B, F]`` or ``[B, C, H, W]`` in the network's precision."""
        x = obs.to(self.scale.dtype)
        if self.layout is None:
            x = x.flatten(1) if x.dim() > 1 else x.unsqueeze(1)  # [B, F]
        elif self.layout == "hw":
            x = x.unsqueeze(1)  # [B, 1, H, W]
        elif self.layout == "hwc":
            x = x.permute(0, 3, 1, 2)  # [B, C, H, W]
        if not self.identity:
            x = x * self.scale
        if self.normalised:
            x = (x - self.mean) / self.std
        return x


class Dropout(nn.Module):
    """Inverted dropout whose mask is drawn from the generator that is passed in (Srivastava et al. 2014)."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """``x`` of any shape; in evaluation, or at probability 0, it is handed on as it is."""
        if not self.training or self.probability == 0.0:
            return x
        keep = 1.0 - self.probability
        return x * torch.empty_like(x).bernoulli_(keep, generator=generator).div_(keep)


def activation_module(name: Activation) -> nn.Module:
    """A module for an activation's name."""
    return {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}[name]()
