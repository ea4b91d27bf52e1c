"""Layers: input scaling, dropout from an explicit generator, batch and layer norms, activations."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from torso.errors import ConfigError
from torso.nets.specs.inputs import InputSpec
from torso.nets.specs.torsos import Activation

MemoryFormat = Literal["contiguous", "channels-last"]  # of images [B, C, H, W]: which axis is the innermost in memory

_ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,  # slope 0.01 below 0 (Maas et al. 2013)
    "gelu": nn.GELU,  # Hendrycks & Gimpel 2016
    "identity": nn.Identity,
}

# Layers that normalise by running statistics; a subclass of one, such as a lazy one, is one too.
RUNNING_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
NORMS = (*RUNNING_NORMS, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


class InputScaling(nn.Module):
    """Input scaling of raw ``[B, *shape]``, any dtype, to float ``[B, F]`` or ``[B, C, H, W]``.

    It computes ``(x * scale - mean) / std``; of normalised float64 inputs in float64, before float32 could blur them.
    ``channels_last``: images leave it with their channels innermost in memory.
    """

    channels_last = False
    mean: Tensor
    std: Tensor
    scale: Tensor

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.layout = spec.layout
        self.identity = spec.scale == 1.0
        self.normalised = spec.mean is not None
        self.wide = self.normalised and spec.dtype == "float64"
        # Not in the weights file: the spec holds them. As buffers they follow the network's device and precision.
        self.register_buffer("scale", torch.tensor(float(spec.scale)), persistent=False)
        self.per_channel = (-1,) if spec.layout is None else (-1, 1, 1)
        dtype = torch.float64 if self.wide else None
        for name, values in (("mean", spec.mean or (0.0,)), ("std", spec.std or (1.0,))):
            statistics = torch.tensor(values, dtype=dtype).reshape(self.per_channel)
            self.register_buffer(name, statistics, persistent=False)

    @torch.no_grad()
    def set_statistics(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Set another mean and std in place, in the buffers' memory; one value a feature or channel each.

        The copy to a GPU does not wait for what runs there.
        """
        for buffer, values in ((self.mean, mean), (self.std, std)):
            statistics = torch.tensor(values, dtype=buffer.dtype).reshape(self.per_channel)
            buffer.copy_(statistics, non_blocking=True)

    def forward(self, obs: Tensor) -> Tensor:
        """Scale ``[B, *shape]`` raw to ``[B, F]`` or ``[B, C, H, W]`` in the network's precision."""
        x = self.rearrange(obs.to(self.mean.dtype if self.wide else self.scale.dtype))
        if not self.identity:
            x = x * self.scale
        if self.normalised:
            x = (x - self.mean) / self.std
        return x.to(self.scale.dtype) if self.wide else x

    def lay_out(self, obs: Tensor) -> Tensor:
        """Lay raw ``[B, *shape]`` out in memory as `forward` does, once for several forwards; the tensor is equal."""
        is_one_copy = self.channels_last and self.layout == "chw"  # other layouts are arranged in each forward
        return obs.to(memory_format=torch.channels_last) if is_one_copy else obs

    def rearrange(self, obs: Tensor) -> Tensor:
        """Flatten or permute ``[B, *shape]`` to ``[B, F]`` or ``[B, C, H, W]``, values unchanged."""
        x = self._arranged(obs)
        # Not contiguous(), which takes the strides of one channel as they are, and convolutions do not.
        return x.to(memory_format=torch.channels_last) if self.channels_last and self.layout is not None else x

    def _arranged(self, obs: Tensor) -> Tensor:
        if self.layout is None:
            return obs.flatten(1) if obs.dim() > 1 else obs.unsqueeze(1)  # [B, F]
        if self.layout == "hw":
            return obs.unsqueeze(1)  # [B, 1, H, W]
        if self.layout == "thwc":
            obs = obs.permute(0, 1, 4, 2, 3)  # [B, T, C, H, W]
        if "t" in self.layout:
            return obs.flatten(1, 2)  # [B, T * C, H, W]
        return obs.permute(0, 3, 1, 2) if self.layout == "hwc" else obs  # [B, C, H, W]


class Dropout(nn.Module):
    """Inverted dropout whose mask is drawn from the generator that is passed in (Srivastava et al. 2014)."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Drop out values of ``x``, of any shape; in evaluation mode, or at probability 0, it is returned unchanged."""
        if not self.training or self.probability == 0.0:
            return x
        keep = 1.0 - self.probability
        return x * torch.empty_like(x).bernoulli_(keep, generator=generator).div_(keep)


class BatchNorm1d(nn.BatchNorm1d):
    """Batch norm of features [B, F]; in training mode a minibatch of one row is a ConfigError."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, [B, F]; returns the same shape."""
        _require_several_values(self, x)
        return super().forward(x)


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm of channels [B, C, H, W]; in training mode a single pixel a channel is a ConfigError."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, [B, C, H, W]; returns the same shape."""
        _require_several_values(self, x)
        return super().forward(x)


class ChannelLayerNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel, [B, C, H, W], with a scale and an offset [C]; epsilon 1e-6.

    It is flax's LayerNorm of an image. The memory format of the input is kept.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, [B, C, H, W]; returns the same shape."""
        pixels = x.permute(0, 2, 3, 1)  # [B, H, W, C], without a copy where images are channels-last
        y = functional.layer_norm(pixels.contiguous(), self.normalized_shape, self.weight, self.bias, self.eps)
        y = y.permute(0, 3, 1, 2)  # [B, C, H, W]
        return y.contiguous() if x.is_contiguous() else y


class ElementLayerNorm(nn.LayerNorm):
    """Layer norm over channels and pixels, [B, C, H, W], with a scale and an offset [C, H, W]; epsilon 1e-5.

    The memory format of the input is kept, which ``nn.LayerNorm`` does not do.
    """

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__((channels, height, width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, [B, C, H, W]; returns the same shape."""
        if x.is_contiguous():
            return super().forward(x)
        weight, bias = self.weight.permute(1, 2, 0), self.bias.permute(1, 2, 0)  # [H, W, C]
        y = functional.layer_norm(x.permute(0, 2, 3, 1).contiguous(), weight.shape, weight, bias, self.eps)
        return y.permute(0, 3, 1, 2)


def weights_of(network: nn.Module) -> list[nn.Parameter]:
    """List a network's weights: its parameters of two or more axes, without those of norms."""
    norms = {id(each) for part in network.modules() if isinstance(part, NORMS) for each in part.parameters()}
    return [each for each in network.parameters() if each.dim() > 1 and id(each) not in norms]


def _require_several_values(layer: BatchNorm1d | BatchNorm2d, x: Tensor) -> None:
    if layer.training and x.numel() == layer.num_features:
        raise ConfigError(
            f"a minibatch must have two rows or more for a batch norm of {layer.num_features} features, got one row, "
            "whose deviation is 0; use larger minibatches, or layer_norm"
        )


def activation_module(name: Activation) -> nn.Module:
    """Build the module of an activation by name."""
    return _ACTIVATIONS[name]()


def is_monotone(name: Activation) -> bool:
    """Return whether an activation is monotone, so that max pooling may come before it."""
    return name != "gelu"
