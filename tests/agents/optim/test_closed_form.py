"""The closed form of a network's gradient against autograd's; which networks have one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from torso.agents.optim.closed_form import ClosedForm, has_closed_form
from torso.agents.optim.devices import Precision
from torso.agents.optim.flat import FlatParameters
from torso.agents.optim.gradient_step import select_forward
from torso.agents.replay.batches import Batch
from torso.agents.value_based import learner as learner_module
from torso.agents.value_based.config import DQNConfig
from torso.agents.value_based.learner import DQNLearner
from torso.agents.value_based.network import q_network_spec
from torso.nets import (
    CategoricalHeadSpec,
    InputSpec,
    LogitsHeadSpec,
    MLPSpec,
    Network,
    NetworkSpec,
    ScalarHeadSpec,
    build_network,
    net_spec,
)
from torso.nets.models.transfer import freeze_torso
from torso.nets.specs.torsos import ACTIVATIONS

INPUT = InputSpec(shape=(5,))
PIXELS = InputSpec(shape=(3, 4), dtype="uint8", layout="hw", scale=1 / 255)
ACTIONS = 3


def network_of(
    hidden: tuple[int, ...] = (9, 7),
    activation: str = "relu",
    delta: float | None = 1.0,
    network_input: InputSpec = INPUT,
) -> Network:
    torso = MLPSpec(hidden=hidden, activation=activation)  # type: ignore[arg-type]
    head = ScalarHeadSpec(num_actions=ACTIONS, huber_delta=delta)
    spec = NetworkSpec(input=network_input, torso=torso, head=head)
    return build_network(spec, torch.Generator().manual_seed(0))


def minibatch(network: Network, rows: int = 33, seed: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Observations, actions, targets that are far and near, and weights of which some are 0."""
    generator, spec = torch.Generator().manual_seed(seed), network.spec.input
    dtype = network.head.linear.weight.dtype
    if spec.dtype == "uint8":
        obs = torch.randint(256, (rows, *spec.shape), generator=generator, dtype=torch.uint8)
    else:
        obs = torch.randn(rows, *spec.shape, generator=generator, dtype=dtype)
    target = 2 * torch.randn(rows, generator=generator, dtype=dtype)
    weight = torch.rand(rows, generator=generator, dtype=dtype) * (torch.rand(rows, generator=generator) < 0.8)
    return obs, torch.randint(ACTIONS, (rows,), generator=generator), target, weight.to(dtype)


def by_autograd(
    network: Network, precision: Precision, obs: Tensor, action: Tensor, target: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Loss, priorities, action values and gradients of the network's own forward and loss."""
    prediction, _ = select_forward(network, precision)(obs)
    losses, priority = network.head.loss(prediction, action, target)
    loss = (losses * weight).mean()
    return loss.detach(), priority, prediction.output.detach(), list(torch.autograd.grad(loss, network.parameters()))


def require_agreement(network: Network, precision: Precision = "float32", rtol: float | None = None) -> None:
    """Require the closed form's results for several minibatches of several sizes, relative to each tensor's norm."""
    closed = ClosedForm(network, FlatParameters(network), precision)
    if rtol is None:
        rtol = 1e-12 if network.head.linear.weight.dtype == torch.float64 else 1e-6
    for seed, rows in enumerate((33, 33, 8, 1)):
        given = minibatch(network, rows, seed)
        before = given[0].clone()
        *expected, gradients = by_autograd(network, precision, *given)
        loss, td_error, q = closed(*given)
        found = [loss, td_error.abs(), q, *(parameter.grad for parameter in network.parameters())]
        for value, other in zip(found, [*expected, *gradients], strict=True):
            assert value.shape == other.shape
            assert value.dtype == other.dtype
            assert torch.linalg.vector_norm(value - other) <= rtol * torch.linalg.vector_norm(other)
        assert torch.equal(given[0], before)  # the replay's observations


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("delta", [None, 0.5])
@pytest.mark.parametrize("hidden", [(), (9,), (9, 7), (6, 9, 7)], ids=len)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_depth_and_loss(
    activation: str, hidden: tuple[int, ...], delta: float | None, dtype: torch.dtype
) -> None:
    require_agreement(network_of(hidden, activation, delta).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "network_input",
    [PIXELS, replace(INPUT, mean=(0.5,) * 5, std=(2.0,) * 5), InputSpec(shape=()), InputSpec(shape=(2, 3), scale=0.1)],
    ids=["pixels", "normalised", "a scalar", "flattened"],
)
def test_every_kind_of_input(network_input: InputSpec, dtype: torch.dtype) -> None:
    require_agreement(network_of(network_input=network_input).to(dtype))


@pytest.mark.parametrize("hidden", [(160,), (160, 160), (160, 160, 160), (128, 8)])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "identity"])
def test_bfloat16_rounds_where_autograd_does(hidden: tuple[int, ...], activation: str) -> None:
    """Another place, or one less, would differ by 2^-9 of a factor."""
    wide = InputSpec(shape=(130,))  # the first layer is large as well
    require_agreement(network_of(hidden, activation, network_input=wide), "bfloat16")
    require_agreement(network_of(hidden, activation), "bfloat16")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bfloat16_of_every_activation(activation: str) -> None:
    """A derivative's last bit may round a factor the other way."""
    require_agreement(network_of((160, 160), activation), "bfloat16", rtol=2e-3)


def test_bfloat16_is_not_float32() -> None:
    network = network_of((160, 160))
    given = minibatch(network)
    [exact, rounded] = (
        ClosedForm(network, FlatParameters(network), each)(*given)[2] for each in ("float32", "bfloat16")
    )
    assert 1e-5 < (exact - rounded).abs().max() < 0.1


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_predicting_is_the_networks_forward(activation: str) -> None:
    network = network_of((160, 160), activation)
    closed, obs = ClosedForm(network, FlatParameters(network), "bfloat16"), minibatch(network)[0]
    with torch.inference_mode():
        prediction, state = closed.predict(obs, ("state",))  # type: ignore[arg-type]
    assert torch.equal(prediction.output, network(obs)[0].output)
    assert state == ("state",)


def test_results_outlive_the_next_minibatch() -> None:
    network = network_of()
    closed = ClosedForm(network, FlatParameters(network), "float32")
    results = closed(*minibatch(network, seed=1))
    kept = [each.clone() for each in results]
    closed(*minibatch(network, seed=2))
    assert all(torch.equal(each, other) for each, other in zip(results, kept, strict=True))


# -- which networks have one ------------------------------------------------------------------------------------------

SCALAR = ScalarHeadSpec(num_actions=ACTIONS)


@pytest.mark.parametrize(
    ("torso", "head", "expected"),
    [
        (MLPSpec(), SCALAR, True),
        (MLPSpec(hidden=()), SCALAR, True),
        (MLPSpec(hidden=(9, 7), activation="gelu"), SCALAR, True),
        (MLPSpec(layer_norm=True), SCALAR, False),
        (MLPSpec(batch_norm=True), SCALAR, False),
        (MLPSpec(dropout=0.1), SCALAR, False),
        (MLPSpec(), replace(SCALAR, dueling=True), False),
        (MLPSpec(), replace(SCALAR, dueling=True, hidden=(8,)), False),
        (MLPSpec(), replace(SCALAR, noisy=True), False),
        (MLPSpec(), replace(SCALAR, noisy=True, hidden=(8,)), False),
        (MLPSpec(), CategoricalHeadSpec(num_actions=ACTIONS), False),
        (MLPSpec(), LogitsHeadSpec(num_classes=ACTIONS), False),
        (net_spec("cnn", PIXELS), SCALAR, False),
    ],
    ids=lambda each: repr(each)[:60],
)
def test_which_networks_have_a_closed_form(torso: Any, head: Any, expected: bool) -> None:
    network = build_network(NetworkSpec(input=PIXELS, torso=torso, head=head), torch.Generator().manual_seed(0))
    assert has_closed_form(network) == expected
    if not expected:
        with pytest.raises(ValueError, match="plain multi-layer perceptron"):
            ClosedForm(network, FlatParameters(network), "float32")


def test_a_network_with_frozen_parameters_has_none() -> None:
    frozen, head_alone = network_of(), network_of()
    freeze_torso(frozen)
    head_alone.head.linear.bias.requires_grad_(False)
    assert not has_closed_form(frozen)
    assert not has_closed_form(head_alone)


# -- in the learner ---------------------------------------------------------------------------------------------------


def learner_of(config: DQNConfig, precision: Precision = "float32") -> DQNLearner:
    network = build_network(q_network_spec(config, INPUT, ACTIONS), torch.Generator().manual_seed(0))
    return DQNLearner(config, network, device=torch.device("cpu"), precision=precision)


def transitions(rows: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        s_tm1=torch.randn(rows, 5, generator=generator),
        a_tm1=torch.randint(ACTIONS, (rows,), generator=generator),
        r_t=3 * torch.randn(rows, generator=generator),
        discount_t=0.9 * torch.randint(2, (rows,), generator=generator),
        s_t=torch.randn(rows, 5, generator=generator),
        weight=torch.rand(rows, generator=generator),
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "settings",
    [
        {"algorithm": "dqn"},
        {"algorithm": "double", "max_grad_norm": 0.1},
        {"algorithm": "prioritized", "max_grad_norm": None},
        {"algorithm": "n-step", "huber_delta": None},
        {"algorithm": "munchausen", "learning_rate_end": 1e-4},
    ],
    ids=lambda settings: settings["algorithm"],
)
def test_a_learner_learns_as_with_autograd(
    settings: dict[str, Any], precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DQNConfig(hidden=(128, 128), batch_size=16, target_update_period=10, **settings)
    closed = learner_of(config, precision)
    monkeypatch.setattr(learner_module, "has_closed_form", lambda _network: False)
    graph = learner_of(config, precision)
    for seed in range(5):
        updates = []
        for learner in (closed, graph):
            learner.advance(10 * seed, 10 * seed)
            updates.append(learner.update(transitions(64, seed)))
        torch.testing.assert_close(updates[0].priority, updates[1].priority, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(dict(updates[0].metrics), dict(updates[1].metrics), rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(closed.online.parameters(), graph.online.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_rows_that_make_no_whole_minibatch() -> None:
    learner = learner_of(DQNConfig(hidden=(9,), batch_size=16))
    update = learner.update(transitions(40, 0))
    assert learner.num_updates == 3
    assert update.priority is not None
    assert update.priority.shape == (40,)
