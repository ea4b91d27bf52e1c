"""The gradient step: its arithmetic against equations, its settings against their promises."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from torso.agents.gradient import (
    GradientStep,
    make_optimizer,
    resolve_device,
    resolve_precision,
    scheduled_learning_rate,
)
from torso.errors import ConfigError

CPU = torch.device("cpu")


def linear(weights: list[float]) -> nn.Linear:
    layer = nn.Linear(len(weights), 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([weights]))
    return layer


def test_adam_takes_the_steps_of_its_paper() -> None:
    """Kingma & Ba 2015, algorithm 1, by hand, in double precision."""
    network = linear([1.0, -2.0]).double()
    inputs = torch.tensor([[3.0, 0.5]], dtype=torch.float64)
    step = GradientStep(network, make_optimizer(network, learning_rate=0.1, eps=0.01))
    weights, m, v = torch.tensor([1.0, -2.0], dtype=torch.float64), torch.zeros(2), torch.zeros(2)
    for t in range(1, 6):
        value = step(lambda: network(inputs).square().sum())
        output = (weights * inputs[0]).sum()
        assert value.item() == pytest.approx(output.item() ** 2)
        gradient = 2 * output * inputs[0]
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        weights = weights - 0.1 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 0.01)
        torch.testing.assert_close(network.weight[0], weights)
    assert not value.requires_grad


def test_the_gradient_norm_is_clipped() -> None:
    network = linear([0.0, 0.0])
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    GradientStep(network, optimizer, max_grad_norm=0.5)(lambda: network(torch.tensor([[3.0, 4.0]])).sum())
    torch.testing.assert_close(network.weight[0], torch.tensor([-0.3, -0.4]))


def test_weight_decay_spares_biases() -> None:
    network = nn.Linear(2, 2)
    nn.init.ones_(network.weight)
    nn.init.ones_(network.bias)
    optimizer = make_optimizer(network, learning_rate=0.1, weight_decay=0.5)
    GradientStep(network, optimizer)(lambda: 0.0 * (network.weight.sum() + network.bias.sum()))
    torch.testing.assert_close(network.weight, torch.full((2, 2), 0.95))
    torch.testing.assert_close(network.bias, torch.ones(2))


def test_frozen_parameters_stay() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    network[0].requires_grad_(False)
    before = network[0].weight.clone()
    GradientStep(network, make_optimizer(network))(lambda: network(torch.ones(1, 2)).sum())
    assert torch.equal(network[0].weight, before)
    assert network[0].weight.grad is None


def test_bfloat16_runs_the_forward_in_bfloat16_and_keeps_float32_weights() -> None:
    network = nn.Linear(4, 2)
    seen = []

    def loss() -> torch.Tensor:
        output = network(torch.ones(3, 4))
        seen.append(output.dtype)
        return output.float().square().sum()

    GradientStep(network, make_optimizer(network), precision="bfloat16")(loss)
    GradientStep(network, make_optimizer(network))(loss)
    assert seen == [torch.bfloat16, torch.float32]
    assert network.weight.dtype == torch.float32


def test_schedules() -> None:
    def rates(name: str) -> list[float]:
        return [scheduled_learning_rate(name, 2.0, step, 10) for step in range(11)]

    assert rates("constant") == [2.0] * 11
    assert rates("cosine") == pytest.approx([1 + math.cos(math.pi * step / 10) for step in range(11)])
    one_cycle = rates("one-cycle")
    assert one_cycle[0] == pytest.approx(2 / 25)
    assert one_cycle[3] == pytest.approx(2.0)
    assert one_cycle[10] == pytest.approx(0.0)
    assert one_cycle[:4] == sorted(one_cycle[:4])
    assert one_cycle[3:] == sorted(one_cycle[3:], reverse=True)
    assert scheduled_learning_rate("cosine", 2.0, 15, 10) == pytest.approx(0.0)


def test_names_that_are_unknown() -> None:
    network = nn.Linear(1, 1)
    with pytest.raises(ConfigError, match=r"optimizer.*'adma'"):
        make_optimizer(network, "adma")
    with pytest.raises(ConfigError, match=r"schedule.*'cosinus'"):
        scheduled_learning_rate("cosinus", 1.0, 0, 1)
    with pytest.raises(ConfigError, match=r"precision.*'float8'"):
        resolve_precision("float8", CPU, convolutional=True)
    for device in ("gpu", "mps", "meta", "cuda:99"):
        with pytest.raises(ConfigError, match=device):
            resolve_device(device)


def test_precision_is_resolved_once() -> None:
    assert resolve_precision("auto", CPU, convolutional=False) == "float32"
    assert resolve_precision("auto", CPU, convolutional=True) in ("float32", "bfloat16")
    assert resolve_precision("bfloat16", CPU, convolutional=False) == "bfloat16"
    assert resolve_device("cpu") == CPU
    assert resolve_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
