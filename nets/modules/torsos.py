"""Torsos: feature extractors, fully connected or convolutional."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from torso.errors import SpecError
from torso.nets.modules.layers import (
    BatchNorm1d,
    BatchNorm2d,
    ChannelLayerNorm,
    Dropout,
    ElementLayerNorm,
    activation_module,
    is_monotone,
)
from torso.nets.modules.noisy import NoisyLinear
from torso.nets.specs.registry import State
from torso.nets.specs.torsos import ConvLayerSpec, ConvNetSpec, MLPSpec

LARGE_WEIGHTS = 16_384  # of a layer whose product is faster in bfloat16
Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class DenseStack(nn.Module):
    """Stack of fully connected layers with norm, activation and dropout; noisy ones where ``noisy_std`` is given."""

    def __init__(self, num_inputs: int, spec: MLPSpec | ConvNetSpec, *, noisy_std: float | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for width in spec.hidden:
            if noisy_std is None:
                self.layers.append(nn.Linear(num_inputs, width, bias=not spec.batch_norm))  # the norm has one
            else:
                self.layers.append(NoisyLinear(num_inputs, width, std=noisy_std))
            if spec.layer_norm:
                self.layers.append(nn.LayerNorm(width))
            elif spec.batch_norm:
                self.layers.append(BatchNorm1d(width))
            self.layers.append(activation_module(spec.activation))
            if spec.dropout > 0:
                self.layers.append(Dropout(spec.dropout))
            num_inputs = width
        self.num_features = num_inputs

    def forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Map ``[B, num_inputs]`` to ``[B, num_features]``, under autocast too in the weights' own precision."""
        device_type = x.device.type
        if not (torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)):
            return self._run(x, generator, product=functional.linear)
        with torch.autocast(device_type, enabled=False):
            return self.mixed(x.float(), generator)

    def mixed(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Compute `forward` with large products in bfloat16."""
        return self._run(x, generator, product=_bfloat16_product)

    def _run(self, x: Tensor, generator: torch.Generator | None, product: Product) -> Tensor:
        for layer in self.layers:
            if isinstance(layer, NoisyLinear):
                x = product(x, *layer.sample(generator))
            elif isinstance(layer, nn.Linear):
                x = product(x, layer.weight, layer.bias)
            elif isinstance(layer, Dropout):
                x = layer(x, generator)
            else:
                x = layer(x)
        return x


def _bfloat16_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute a fully connected layer, its product in bfloat16 if large; for small ones the casts cost more.

    Autocast would cast every small tensor as well, which costs CPUs what is gained.
    """
    if weight.numel() < LARGE_WEIGHTS:
        return functional.linear(x, weight, bias)
    product = functional.linear(x.bfloat16(), weight.bfloat16()).float()
    return product if bias is None else product + bias


def linear_product(x: Tensor, layer: nn.Linear, *, bfloat16: bool) -> Tensor:
    """Compute a fully connected layer of x [..., in], [..., out]; ``bfloat16``: its product in that if large."""
    product = _bfloat16_product if bfloat16 else functional.linear
    return product(x, layer.weight, layer.bias)


class MLP(nn.Module):
    """Multi-layer perceptron on a flat vector; images are flattened first."""

    def __init__(self, spec: MLPSpec, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.dense = DenseStack(math.prod(input_shape), spec)
        self.num_features = self.dense.num_features

    def forward(self, inputs: Tensor, state: State, generator: torch.Generator | None) -> tuple[Tensor, State]:
        """Map ``[B, *input_shape]`` to features ``[B, num_features]``."""
        return self.dense(inputs.flatten(1), generator), state

    def mixed(self, inputs: Tensor, state: State, generator: torch.Generator | None) -> tuple[Tensor, State]:
        """Compute `forward` with large products in bfloat16."""
        return self.dense.mixed(inputs.flatten(1), generator), state


class ConvNet(nn.Module):
    """Convolutional network: convolutions, then fully connected layers of a computed input size."""

    def __init__(self, spec: ConvNetSpec, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        if len(input_shape) != 3:
            raise SpecError(
                f"a convolutional torso takes images (layout hw, chw or hwc), this input is a vector of "
                f"{input_shape[0]} values; use net='mlp', or give the image's shape"
            )
        channels, height, width = input_shape
        if min(height, width) < spec.min_input_size:
            raise SpecError(
                f"an image of {height}x{width} pixels is too small for these convolutions, which need at least "
                f"{spec.min_input_size}x{spec.min_input_size}; use smaller kernels, strides or pools, or net='mlp'"
            )
        layers: list[nn.Module] = []
        for conv in spec.convs:
            layers += _conv_layers(spec, conv, channels, conv.convolved_size(height), conv.convolved_size(width))
            channels, height, width = conv.channels, conv.output_size(height), conv.output_size(width)
        self.convs = nn.Sequential(*layers)
        self.dropout = Dropout(spec.dropout)
        self.dense = DenseStack(channels * height * width, spec)
        self.num_features = self.dense.num_features

    def forward(self, inputs: Tensor, state: State, generator: torch.Generator | None) -> tuple[Tensor, State]:
        """Map ``[B, C, H, W]`` to features ``[B, num_features]``."""
        x = self.convs(inputs).flatten(1)  # [B, channels * height * width]
        return self.dense(self.dropout(x, generator), generator), state

    def mixed(
        self, inputs: Tensor, state: State, generator: torch.Generator | None, scale: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Compute `forward` with convolutions and large products in bfloat16.

        ``inputs`` may be raw bytes, which bfloat16 holds exactly, and ``scale`` their factor: the first weights are
        multiplied by it instead, which saves two passes over the images.
        """
        x = inputs.bfloat16()
        for layer in self.convs:
            if isinstance(layer, nn.Conv2d):
                weight = layer.weight if scale is None else layer.weight * scale
                bias = None if layer.bias is None else layer.bias.bfloat16()
                x = functional.conv2d(x, weight.bfloat16(), bias, layer.stride, layer.padding)
                scale = None
            elif isinstance(layer, (nn.GroupNorm, nn.LayerNorm)):  # which take one precision on GPUs
                x = layer(x.float()).bfloat16()
            else:
                x = layer(x)
        x = self.dropout(x.flatten(1), generator)  # [B, channels * height * width]
        return self.dense.mixed(x.float(), generator), state


def round_large_weights(network: nn.Module) -> None:
    """Store in bfloat16, in place, the large weights that `mixed` would round in each of its calls.

    For a network that computes through ``mixed`` alone, to the same bits, and is copied into and not trained: a target
    network.
    """
    for module in network.modules():
        if isinstance(module, (DenseStack, ConvNet)):
            for layer in module.layers if isinstance(module, DenseStack) else module.convs:
                if isinstance(layer, NoisyLinear):  # the sum of mean and noise is rounded, not each
                    continue
                if isinstance(layer, (nn.Linear, nn.Conv2d)) and layer.weight.numel() >= LARGE_WEIGHTS:
                    layer.weight.data = layer.weight.data.bfloat16()


def _conv_layers(spec: ConvNetSpec, conv: ConvLayerSpec, channels: int, height: int, width: int) -> list[nn.Module]:
    """Build a convolution of ``channels`` channels to ``height`` x ``width`` pixels, its norm, activation and pool."""
    layers: list[nn.Module] = [
        nn.Conv2d(channels, conv.channels, conv.kernel, conv.stride, conv.padding, bias=not spec.batch_norm)
    ]
    if spec.layer_norm:
        if conv.channels * height * width == 1:
            raise SpecError(
                "a convolution must give more than one value with layer_norm, got one channel of one pixel, which "
                "would become 0; use more channels, or no layer_norm"
            )
        layers.append(_layer_norm(spec, conv.channels, height, width))
    elif spec.batch_norm:
        layers.append(BatchNorm2d(conv.channels))
    layers.append(activation_module(spec.activation))
    if conv.pool is not None:
        layers.append((nn.MaxPool2d if conv.pool == "max" else nn.AvgPool2d)(conv.pool_size))
    if conv.pool == "max" and is_monotone(spec.activation):
        layers[-2:] = reversed(layers[-2:])  # the same numbers from a quarter of the activations
    return layers


def _layer_norm(spec: ConvNetSpec, channels: int, height: int, width: int) -> nn.Module:
    """Build the layer norm of maps [B, channels, height, width]."""
    if spec.layer_norm_kind == "channels":
        return ChannelLayerNorm(channels)
    if spec.layer_norm_kind == "elements":
        return ElementLayerNorm(channels, height, width)
    return nn.GroupNorm(1, channels)
