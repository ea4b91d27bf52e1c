"""L1 and L2 penalties against sums and gradients worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from torso.agents.optim.penalties import penalty
from torso.errors import ConfigError
from torso.nets.modules.layers import ElementLayerNorm


def network() -> nn.Sequential:
    layers = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 1)).double()
    with torch.no_grad():
        layers[0].weight.copy_(torch.tensor([[1.0, -2.0], [0.0, 3.0]]))
        layers[0].bias.fill_(100.0)
        layers[2].weight.copy_(torch.tensor([[-4.0, 0.5]]))
    return layers


def test_the_sums_by_hand_spare_biases_and_norms() -> None:
    layers = network()
    assert penalty(layers, l1=0.1).item() == pytest.approx(0.1 * 10.5)
    assert penalty(layers, l2=0.1).item() == pytest.approx(0.05 * (1 + 4 + 9 + 16 + 0.25))
    assert penalty(layers, l1=0.1, l2=0.2).item() == pytest.approx(1.05 + 0.1 * 30.25)
    assert penalty(layers).item() == 0.0


@pytest.mark.parametrize("norm", [nn.LayerNorm((2, 3, 3)), ElementLayerNorm(2, 3, 3), nn.RMSNorm((2, 3, 3))], ids=repr)
def test_norms_of_several_axes_are_spared_too(norm: nn.Module) -> None:
    layers = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), norm)
    with torch.no_grad():
        layers[0].weight.fill_(0.5)
    assert penalty(layers, l1=1.0).item() == pytest.approx(9.0)


def test_the_gradients_by_hand() -> None:
    layers = network()
    (3 * penalty(layers, l1=0.1, l2=0.2)).backward()  # type: ignore[no-untyped-call]
    expected = 3 * torch.tensor([[0.1 + 0.2, -0.1 - 0.4], [0.0, 0.1 + 0.6]], dtype=torch.float64)
    torch.testing.assert_close(layers[0].weight.grad, expected)
    torch.testing.assert_close(layers[2].weight.grad, 3 * torch.tensor([[-0.9, 0.2]], dtype=torch.float64))
    assert layers[0].bias.grad is None
    assert layers[1].weight.grad is None


@pytest.mark.parametrize(("l1", "l2"), [(0.3, 0.0), (0.0, 0.7), (0.3, 0.7)])
def test_the_gradients_are_those_of_the_sums(l1: float, l2: float) -> None:
    layers = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(3, 2)).double()
    layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    weights = [layers[0].weight, layers[2].weight]
    plain = sum(l1 * weight.abs().sum() + l2 / 2 * weight.square().sum() for weight in weights)
    assert isinstance(plain, torch.Tensor)
    torch.testing.assert_close(penalty(layers, l1=l1, l2=l2), plain)
    ours = torch.autograd.grad(penalty(layers, l1=l1, l2=l2), weights)
    torch.testing.assert_close(ours, torch.autograd.grad(plain, weights))

    def of_weights(*values: torch.Tensor) -> torch.Tensor:
        holder = nn.Module()
        for index, value in enumerate(values):
            holder.register_parameter(f"w{index}", value)  # type: ignore[arg-type]
        return penalty(holder, l1=l1, l2=l2)

    assert torch.autograd.gradcheck(of_weights, tuple(weights))


def test_what_is_frozen_does_not_count() -> None:
    layers = network()
    layers[0].requires_grad_(False)
    assert penalty(layers, l1=1.0).item() == pytest.approx(4.5)
    assert penalty(layers.requires_grad_(False), l1=1.0, l2=1.0).item() == 0.0


@pytest.mark.parametrize("value", [-0.1, math.inf, math.nan])
def test_negative_and_endless_penalties(value: float) -> None:
    with pytest.raises(ConfigError, match=r"l1 must be at least 0"):
        penalty(network(), l1=value)
    with pytest.raises(ConfigError, match=r"l2 must be at least 0"):
        penalty(network(), l2=value)
