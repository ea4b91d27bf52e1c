"""Fast gradient sign method: directions, bounds, accuracy by epsilon."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from torso.envs import load_dataset
from torso.errors import InputError
from torso.insight.units.adversarial import accuracy_by_epsilon, fgsm, fgsm_direction
from torso.insight.units.bounds import Bounds, input_bounds
from torso.nets import (
    ImageSpec,
    InputSpec,
    LogitsHeadSpec,
    MLPSpec,
    Network,
    NetworkSpec,
    OneVsRestHeadSpec,
    ScalarHeadSpec,
    SigmoidHeadSpec,
    StepHeadSpec,
    build_network,
)

EPSILONS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2)  # as torso.insight.inspect.settings has them


def build(torso: MLPSpec, head: Any, features: int = 4) -> Network:
    spec = NetworkSpec(input=InputSpec(shape=(features,)), torso=torso, head=head)
    return build_network(spec, torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    "head", [LogitsHeadSpec(num_classes=3), OneVsRestHeadSpec(num_classes=3), SigmoidHeadSpec(), StepHeadSpec()]
)
def test_the_direction_is_the_sign_of_the_gradient_of_the_cross_entropy(head: Any) -> None:
    network = build(MLPSpec(hidden=(8,), activation="tanh"), head).double()
    inputs = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % network.spec.num_outputs
    x = inputs.clone().requires_grad_()
    prediction, _ = network(x)
    functional.cross_entropy(network.head.readout(prediction), labels, reduction="sum").backward()
    assert x.grad is not None
    assert torch.equal(fgsm_direction(network, inputs, labels), x.grad.sign())


@pytest.mark.parametrize("head", [LogitsHeadSpec(num_classes=2), SigmoidHeadSpec(), StepHeadSpec()])
@pytest.mark.parametrize("right", [0, 1])
def test_certainty_hides_no_direction(head: Any, right: int) -> None:
    """At a logit of 1,000 the cross-entropy's own gradient is 0 in float32, and even in float64."""
    network = build(MLPSpec(hidden=()), head)
    weights = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
    weights["head.linear.weight"][-1] = torch.tensor([1.0, -1.0, 2.0, -2.0])
    network.load_state_dict(weights)
    sign = 2 * right - 1
    inputs = sign * 1000 * torch.tensor([[1.0, -1.0, 2.0, -2.0]])
    assert int(network.readout(inputs).argmax()) == right
    direction = fgsm_direction(network, inputs, torch.tensor([right]))
    assert direction.tolist() == [[-sign, sign, -sign, sign]]


def test_inputs_move_by_a_share_of_each_features_range_and_stay_within() -> None:
    network = build(MLPSpec(hidden=(8,)), LogitsHeadSpec(num_classes=2), features=3)
    bounds = Bounds(torch.tensor([0.0, -10.0, 5.0]), torch.tensor([1.0, 10.0, 5.0]), torch.zeros(3))
    inputs = torch.tensor([[0.5, 0.0, 5.0], [0.99, -9.99, 5.0]])
    labels = torch.tensor([0, 1])
    direction = fgsm_direction(network, inputs, labels)
    moved = fgsm(network, inputs, labels, 0.1, bounds)
    expected = inputs + direction * torch.tensor([0.1, 2.0, 0.0])
    torch.testing.assert_close(moved, torch.minimum(torch.maximum(expected, bounds.low), bounds.high))
    assert bool(direction.abs().sum() > 0)
    assert torch.equal(fgsm(network, inputs, labels, 0.0, bounds), inputs)


def test_pixels_of_whole_numbers_move_as_floats() -> None:
    image = ImageSpec(channels=1, height=2, width=2, max_value=16.0)
    spec_input = InputSpec(shape=(2, 2), dtype="uint8", layout="hw", scale=1 / 16, image=image)
    network = build_network(
        NetworkSpec(input=spec_input, torso=MLPSpec(hidden=()), head=LogitsHeadSpec(num_classes=2)),
        torch.Generator().manual_seed(0),
    )
    inputs = torch.tensor([[[0, 16], [8, 3]]], dtype=torch.uint8)
    moved = fgsm(network, inputs, torch.tensor([1]), 0.05, input_bounds(spec_input))
    assert moved.dtype == torch.float32
    assert float((moved[0, 1] - inputs[0, 1].float()).abs().min()) == pytest.approx(0.8)
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 16


def test_the_network_is_left_as_it_was() -> None:
    network = build(MLPSpec(hidden=(8,), dropout=0.5, batch_norm=True), LogitsHeadSpec(num_classes=2))
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    inputs, labels = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1] * 3)
    once, again = (fgsm_direction(network, inputs, labels) for _ in range(2))
    assert torch.equal(once, again)
    accuracy_by_epsilon(network, inputs, labels, (0.1,), input_bounds(network.spec.input, inputs))
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not inputs.requires_grad


@pytest.fixture(scope="module")
def digits() -> tuple[Network, Tensor, Tensor]:
    data = load_dataset("digits")
    image = ImageSpec(channels=1, height=8, width=8, max_value=16.0)
    spec_input = InputSpec(shape=(8, 8), dtype="uint8", layout="hw", scale=1 / 16, image=image)
    spec = NetworkSpec(input=spec_input, torso=MLPSpec(hidden=(64,)), head=LogitsHeadSpec(num_classes=10))
    network = build_network(spec, torch.Generator().manual_seed(0))
    inputs, labels = torch.tensor(data.train.inputs), torch.tensor(data.train.labels)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(100):
        loss = functional.cross_entropy(network.readout(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network, torch.tensor(data.test.inputs), torch.tensor(data.test.labels)


def test_accuracy_falls_with_every_epsilon(digits: tuple[Network, Tensor, Tensor]) -> None:
    network, inputs, labels = digits
    bounds = input_bounds(network.spec.input)
    found = accuracy_by_epsilon(network, inputs, labels, EPSILONS, bounds)
    with torch.no_grad():
        right = network.readout(inputs).argmax(dim=1) == labels
    assert found[0] == pytest.approx(float(right.float().mean()))
    assert found[0] > 0.93
    assert all(later < earlier for earlier, later in pairwise(found)), found
    assert found[-1] < 0.1
    # And noise of the same size, which is no attack, does next to nothing.
    noise = torch.randint(0, 2, inputs.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        noisy = network.readout(bounds.clip(inputs + 0.1 * 16 * noise)).argmax(dim=1) == labels
    assert float(noisy.float().mean()) > found[EPSILONS.index(0.1)] + 0.2


def test_what_cannot_be_attacked(digits: tuple[Network, Tensor, Tensor]) -> None:
    network, inputs, labels = digits
    bounds = input_bounds(network.spec.input)
    for epsilon in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match=r"epsilon must be a share of the input's range, in \[0, 1\]"):
            fgsm(network, inputs[:1], labels[:1], epsilon, bounds)
    with pytest.raises(InputError, match="inputs must be at least 1 row, got 0"):
        accuracy_by_epsilon(network, inputs[:0], labels[:0], (0.1,), bounds)
    policy = build(MLPSpec(hidden=(4,)), ScalarHeadSpec(num_actions=2))
    with pytest.raises(InputError, match="model must be a classifier, got a policy, which predicts no labels"):
        fgsm_direction(policy, torch.zeros(1, 4), torch.tensor([0]))
