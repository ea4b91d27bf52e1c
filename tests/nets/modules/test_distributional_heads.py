"""Distributional heads: targets, losses and gradients by hand and by oracles in NumPy, in float64."""

from __future__ import annotations

import math
from typing import Any

import distributions as oracle
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from torso.nets import CategoricalHeadSpec, ImplicitQuantileHeadSpec, Prediction, QuantileHeadSpec
from torso.nets.modules import losses
from torso.nets.modules.distributional_heads import CategoricalHead, ImplicitQuantileHead, QuantileHead


def tensor(*values: object) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float64))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gradient(loss: Tensor, by: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(loss.sum(), by)
    return result


def equal(got: Tensor, expected: Any) -> None:
    torch.testing.assert_close(got, torch.as_tensor(expected, dtype=got.dtype), rtol=1e-11, atol=1e-12)


# -- categorical -------------------------------------------------------------------------------------------------------


def categorical(**fields: Any) -> CategoricalHead:
    return CategoricalHead(CategoricalHeadSpec(**{"num_actions": 2, **fields}), num_features=3).double()


def test_a_projection_by_hand() -> None:
    """Atoms -1, 0, 1. A value between two of them is shared, one beyond the ends goes to the end."""
    values = tensor([-0.25, 0.5, 1.0], [-7.0, 0.0, 9.0], [0.25, 0.25, 0.25])
    probabilities = tensor([0.2, 0.4, 0.4], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5])
    projected = losses.categorical_projection(values, probabilities, -1.0, 1.0)
    equal(projected, [[0.05, 0.15 + 0.2, 0.2 + 0.4], [0.5, 0.3, 0.2], [0.0, 0.75, 0.25]])


@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 60),
    st.floats(-20, 20),
    st.floats(0, 1),
    st.floats(-50, 20),
    st.floats(0.01, 100),
)
def test_a_projection_is_the_papers_algorithm(
    seed: int, num_atoms: int, reward: float, discount: float, v_min: float, width: float
) -> None:
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(num_atoms))
    v_max = v_min + width
    returns = reward + discount * oracle.atoms(v_min, v_max, num_atoms)
    got = losses.categorical_projection(tensor(returns), tensor(probabilities), v_min, v_max)[0]
    expected = oracle.categorical_algorithm(reward, discount, probabilities, v_min, v_max)
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9)
    assert got.sum().item() == pytest.approx(1.0, abs=1e-9)


def test_a_projection_keeps_the_expectation_within_the_atoms() -> None:
    rng = np.random.default_rng(0)
    probabilities = tensor(*rng.dirichlet(np.ones(11), size=20))
    values = tensor(*rng.uniform(-5, 5, size=(20, 11)))
    projected = losses.categorical_projection(values, probabilities, -5.0, 5.0)
    equal(projected @ torch.linspace(-5, 5, 11).double(), (values * probabilities).sum(dim=1))


def test_a_categorical_heads_values_are_expectations() -> None:
    head = categorical(num_atoms=3, v_min=-2.0, v_max=4.0)
    logits = tensor([[math.log(1), math.log(2), math.log(1)], [0.0, -1000.0, -1000.0]])
    equal(head.values(Prediction(logits)), [[0.25 * -2 + 0.5 * 1 + 0.25 * 4, -2.0]])


def test_a_categorical_target_and_loss_by_hand() -> None:
    """Atoms 0, 1, 2. After s' action 1 has probabilities 0.5, 0, 0.5; reward 0.5, discount 0.5: returns 0.5, 1, 1.5."""
    head = categorical(num_atoms=3, v_min=0.0, v_max=2.0)
    nexts = Prediction(tensor([[0.0, 0.0, 0.0], [0.0, -math.inf, 0.0]]))
    target = head.target(tensor(0.5), tensor(0.5), nexts, tensor([0.0, 1.0]))
    equal(target, [[0.25, 0.5, 0.25]])
    logits = tensor([[math.log(1), math.log(1), math.log(2)], [5.0, 6.0, 7.0]]).requires_grad_()  # 1/4, 1/4, 1/2
    loss, priority = head.loss(Prediction(logits), torch.tensor([0]), target)
    equal(loss, [0.5 * math.log(2) + 0.25 * math.log(0.5)])
    assert torch.equal(priority, loss.detach())
    assert not priority.requires_grad
    equal(gradient(loss, logits), [[[0.0, -0.25, 0.25], [0.0, 0.0, 0.0]]])
    equal(head.target(tensor(0.5), tensor(0.0), nexts, tensor([0.0, 1.0])), [[0.5, 0.5, 0.0]])  # an end: the reward


@pytest.mark.parametrize("policy", ["one-hot", "soft"])
def test_a_categorical_heads_update_agrees_with_an_oracle(policy: str) -> None:
    rng = np.random.default_rng(3)
    rows, actions, num_atoms, v_min, v_max = 12, 3, 11, -2.0, 3.0  # a gap of 1/2, which float32 holds
    head = CategoricalHead(CategoricalHeadSpec(num_actions=3, num_atoms=11, v_min=-2, v_max=3), num_features=1).double()
    logits_t, logits = rng.normal(size=(2, rows, actions, num_atoms)) * 2
    r_t, discount_t = rng.normal(size=rows), rng.choice([0.0, 0.9], size=rows)
    a_tm1 = rng.integers(actions, size=rows)
    policy_t = (
        np.eye(actions)[rng.integers(actions, size=rows)] if policy == "one-hot" else rng.dirichlet([1] * 3, rows)
    )
    target = head.target(tensor(*r_t), tensor(*discount_t), Prediction(tensor(*logits_t)), tensor(*policy_t))
    leaf = tensor(*logits).requires_grad_()
    loss, _ = head.loss(Prediction(leaf), torch.tensor(a_tm1), target)
    slopes = gradient(loss, leaf)
    for b in range(rows):
        mixed = policy_t[b] @ oracle.softmax(logits_t[b])
        expected = oracle.categorical_algorithm(r_t[b], discount_t[b], mixed, v_min, v_max)
        equal(target[b], expected)
        by_hand, slope = oracle.divergence_and_gradient(expected, logits[b, a_tm1[b]])
        equal(loss[b], by_hand)
        by_action = np.zeros((actions, num_atoms))
        by_action[a_tm1[b]] = slope
        equal(slopes[b], by_action)
    assert torch.autograd.gradcheck(lambda x: head.loss(Prediction(x), torch.tensor(a_tm1), target)[0], (leaf,))


def test_logits_of_any_size_give_a_finite_loss() -> None:
    head = CategoricalHead(CategoricalHeadSpec(num_actions=1, num_atoms=3), num_features=1)
    logits = torch.tensor([[[1000.0, -1000.0, 0.0]]], requires_grad=True)
    loss, _ = head.loss(Prediction(logits), torch.tensor([0]), torch.tensor([[0.0, 1.0, 0.0]]))
    assert loss.tolist() == [2000.0]
    assert gradient(loss, logits).tolist() == [[[1.0, -1.0, 0.0]]]


# -- quantiles ---------------------------------------------------------------------------------------------------------


def test_a_quantile_huber_loss_by_hand() -> None:
    """Quantiles 0 and 2 at fractions 1/4 and 3/4, samples 0.5 and -3 of the target."""
    quantiles = tensor([0.0, 2.0]).requires_grad_()
    loss = losses.quantile_huber(quantiles, tensor(0.25, 0.75), tensor([0.5, -3.0]), 1.0)
    first = (0.25 * 0.5**2 / 2 + 0.75 * (3 - 0.5)) / 2
    second = (0.25 * (1.5 - 0.5) + 0.25 * (5 - 0.5)) / 2
    equal(loss, [first + second])
    equal(gradient(loss, quantiles), [[(-0.25 * 0.5 + 0.75 * 1) / 2, (0.25 * 1 + 0.25 * 1) / 2]])


@pytest.mark.parametrize("kappa", [None, 0.25, 1.0])
@pytest.mark.parametrize(("offset", "spread"), [(0.0, 1.0), (5_000.0, 1.0), (-30.0, 100.0)])
def test_many_quantiles_have_the_loss_of_all_their_pairs(kappa: float | None, offset: float, spread: float) -> None:
    """In float32, with samples that are equal to one another, to quantiles, and to the ends of the quadratic part."""
    rng = np.random.default_rng(3)
    quantiles, samples = (rng.integers(-40, 40, (3, size)) / 16 * spread + offset for size in (200, 150))
    fractions = rng.uniform(size=(3, 200)).astype(np.float32)
    leaf = torch.tensor(quantiles, dtype=torch.float32, requires_grad=True)
    loss = losses.quantile_huber(leaf, torch.from_numpy(fractions), torch.tensor(samples).float(), kappa)
    assert loss.dtype == torch.float32
    slopes = gradient(loss, leaf)
    for row in range(3):
        by_hand, slope = oracle.quantile_huber_and_gradient(quantiles[row], fractions[row], samples[row], kappa)
        np.testing.assert_allclose(loss[row].item(), by_hand, rtol=1e-6)
        np.testing.assert_allclose(slopes[row], slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kappa", [None, 1.0])
def test_quantiles_that_are_the_samples_have_no_loss(kappa: float | None) -> None:
    """Not less than none either: a replay's priorities are losses."""
    same = torch.tensor(np.random.default_rng(0).normal(1e4, 1e-3, size=(50, 1))).float().expand(-1, 32)
    loss = losses.quantile_huber(same, torch.linspace(0, 1, 32), same, kappa)
    assert loss.tolist() == [0.0] * 50


def test_the_quantile_losses_least_value_is_at_the_quantile() -> None:
    """By the plain quantile loss the quartiles of 0, 1, ..., 99 are 24.5, 49.5 and 74.5, up to a gap of 1."""
    samples = torch.arange(100).double().unsqueeze(0)
    quantiles = tensor([0.0, 0.0, 0.0]).requires_grad_()
    optimizer = torch.optim.SGD([quantiles], lr=20.0)
    for step in range(600):
        optimizer.param_groups[0]["lr"] = 20.0 / (1 + step / 20)
        optimizer.zero_grad()
        losses.quantile_huber(quantiles, tensor(0.25, 0.5, 0.75), samples, None).sum().backward()
        optimizer.step()
    torch.testing.assert_close(quantiles.detach(), tensor([24.5, 49.5, 74.5]), rtol=0, atol=1.0)


@pytest.mark.parametrize("kappa", [None, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("soft", [False, True])
def test_a_quantile_heads_update_agrees_with_an_oracle(kappa: float | None, soft: bool) -> None:
    rng = np.random.default_rng(5)
    rows, actions, num_quantiles = 10, 3, 4
    spec = QuantileHeadSpec(num_actions=3, num_quantiles=4, huber_delta=kappa)
    head = QuantileHead(spec, num_features=1).double()
    equal(head.fractions, [1 / 8, 3 / 8, 5 / 8, 7 / 8])
    nexts, quantiles = rng.normal(size=(2, rows, actions, num_quantiles)) * 2
    r_t, discount_t = rng.normal(size=rows), rng.choice([0.0, 0.9], size=rows)
    a_tm1 = rng.integers(actions, size=rows)
    policy_t = rng.dirichlet([1] * 3, rows) if soft else np.eye(actions)[rng.integers(actions, size=rows)]
    target = head.target(tensor(*r_t), tensor(*discount_t), Prediction(tensor(*nexts)), tensor(*policy_t))
    leaf = tensor(*quantiles).requires_grad_()
    equal(head.values(Prediction(leaf)).detach(), quantiles.mean(axis=2))
    loss, priority = head.loss(Prediction(leaf), torch.tensor(a_tm1), target)
    slopes = gradient(loss, leaf)
    for b in range(rows):
        expected = [r_t[b] + discount_t[b] * sum(policy_t[b] * nexts[b, :, n]) for n in range(num_quantiles)]
        equal(target[b], expected)
        by_hand, slope = oracle.quantile_huber_and_gradient(
            quantiles[b, a_tm1[b]], (np.arange(4) + 0.5) / 4, np.array(expected), kappa
        )
        equal(loss[b], by_hand)
        by_action = np.zeros((actions, num_quantiles))
        by_action[a_tm1[b]] = slope
        equal(slopes[b], by_action)
    assert torch.equal(priority, loss.detach())


# -- implicit quantiles ------------------------------------------------------------------------------------------------


def implicit(**fields: Any) -> ImplicitQuantileHead:
    spec = ImplicitQuantileHeadSpec(
        **{"num_actions": 3, "num_fractions": 5, "num_fixed_fractions": 4, "num_cosines": 6, "hidden": (8,), **fields}
    )
    head = ImplicitQuantileHead(spec, num_features=7).double()
    with torch.no_grad():
        for index, parameter in enumerate(head.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=seeded(index)))
    return head


def test_implicit_quantiles_at_the_drawn_fractions_agree_with_an_oracle() -> None:
    head, features = implicit(), torch.randn(4, 7, dtype=torch.float64, generator=seeded(9))
    output, draws = head.predict(features, seeded(1))
    assert draws is not None
    assert output.shape == (4, 3, 5)
    equal(draws, torch.rand(4, 5, dtype=torch.float64, generator=seeded(1)))
    w = {name: value.numpy() for name, value in head.state_dict().items()}
    for b in range(4):
        for n in range(5):
            equal(output[b, :, n], oracle.implicit_quantiles(features[b].numpy(), draws[b, n].item(), w, 6))


def test_fractions_are_uniform_and_anew_for_each_row_and_call() -> None:
    head = implicit(num_fractions=64)
    features = torch.zeros(500, 7, dtype=torch.float64)
    generator = seeded(0)
    first, second = (head.predict(features, generator).draws for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.unique().numel() == first.numel()
    assert not torch.equal(first, second)
    assert first.min() >= 0
    assert first.max() < 1
    counts = torch.histc(first.flatten(), bins=10, min=0, max=1) / first.numel()
    torch.testing.assert_close(counts, torch.full((10,), 0.1).double(), rtol=0, atol=0.01)


def test_without_a_generator_the_fractions_are_midpoints() -> None:
    head, features = implicit(), torch.randn(4, 7, dtype=torch.float64, generator=seeded(9))
    for mode in (head.train(), head.eval()):
        output, draws = mode.predict(features, None)
        assert draws is not None
        equal(draws, [[1 / 8, 3 / 8, 5 / 8, 7 / 8]] * 4)
        w = {name: value.numpy() for name, value in head.state_dict().items()}
        for b in range(4):
            by_hand = [oracle.implicit_quantiles(features[b].numpy(), tau, w, 6) for tau in draws[b].tolist()]
            equal(head.values(Prediction(output))[b], np.mean(by_hand, axis=0))


def test_an_implicit_quantile_heads_loss_is_at_its_own_fractions() -> None:
    """As many fractions of the online as of the target network need not be the same ones, nor of one number."""
    head, features = implicit(), torch.randn(4, 7, dtype=torch.float64, generator=seeded(9))
    prediction = head.predict(features, seeded(1))
    assert prediction.draws is not None
    a_tm1 = torch.tensor([0, 2, 1, 1])
    nexts = head.predict(-features, None)
    target = head.target(tensor(1.0, 0.0, -1.0, 0.5), tensor(0.9, 0.0, 0.9, 0.9), nexts, torch.eye(3).double()[a_tm1])
    assert target.shape == (4, 4)
    output = prediction.output.detach().requires_grad_()
    loss, _ = head.loss(Prediction(output, prediction.draws), a_tm1, target)
    slopes = gradient(loss, output)
    for b, a in enumerate(a_tm1.tolist()):
        by_hand, slope = oracle.quantile_huber_and_gradient(
            output.detach()[b, a].numpy(), prediction.draws[b].numpy(), target[b].numpy(), 1.0
        )
        equal(loss[b], by_hand)
        equal(slopes[b, a], slope)
    assert slopes.count_nonzero() <= 4 * 5


def test_an_implicit_quantile_heads_gradients_are_those_of_finite_differences() -> None:
    head = implicit(dueling=True, noisy=True, hidden=(3,), num_cosines=2)
    names = [name for name, _ in head.named_parameters()]
    features = torch.randn(3, 7, dtype=torch.float64, generator=seeded(9), requires_grad=True)
    a_tm1, target = torch.tensor([0, 2, 1]), torch.randn(3, 4, dtype=torch.float64, generator=seeded(2)) * 3

    class Loss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = head

        def forward(self, x: Tensor) -> Tensor:
            return self.head.loss(self.head.predict(x, seeded(4)), a_tm1, target)[0]

    def loss(x: Tensor, *values: Tensor) -> Tensor:
        weights = {f"head.{name}": value for name, value in zip(names, values, strict=True)}
        return torch.func.functional_call(Loss(), weights, (x,))

    assert torch.autograd.gradcheck(loss, (features, *(p.detach().requires_grad_() for p in head.parameters())))


# -- what all have in common -------------------------------------------------------------------------------------------

SPECS = [CategoricalHeadSpec(num_actions=3, num_atoms=5, dueling=True, hidden=(4,))]
SPECS += [QuantileHeadSpec(num_actions=3, num_quantiles=5, dueling=True, hidden=(4,))]
SPECS += [ImplicitQuantileHeadSpec(num_actions=3, num_fixed_fractions=5, dueling=True, hidden=(4,))]
HEADS = {CategoricalHeadSpec: CategoricalHead, QuantileHeadSpec: QuantileHead}
HEADS[ImplicitQuantileHeadSpec] = ImplicitQuantileHead


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)
def test_a_dueling_heads_advantages_have_mean_0_for_each_atom_or_quantile(spec: Any) -> None:
    """So the mean over actions of the output is the value stream's own, at each of them."""
    head = HEADS[type(spec)](spec, num_features=6).double()
    features = torch.randn(7, 6, dtype=torch.float64, generator=seeded(0))
    output = head.predict(features, None).output  # [B, A, K]
    assert output.shape == (7, 3, 5)
    x = features.unsqueeze(1)
    if isinstance(head, ImplicitQuantileHead):
        cosines = torch.cos(math.pi * head.fractions.unsqueeze(1) * head.multiples)
        x = x * head.embedding(cosines).relu()
    state = head.state_dict()
    hidden = (x @ state["value.dense.layers.0.weight"].T + state["value.dense.layers.0.bias"]).relu()
    value = hidden @ state["value.linear.weight"].T + state["value.linear.bias"]  # [B, 1, K] or [B, K, 1]
    equal(output.mean(dim=1), value.flatten(1))
    assert output.std(dim=1).min() > 0


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)
def test_figures_are_in_units_of_returns(spec: Any) -> None:
    head = HEADS[type(spec)](spec, num_features=6).double()
    features = torch.randn(7, 6, dtype=torch.float64, generator=seeded(0))
    prediction = head.predict(features, None)
    target = head.target(torch.full((7,), 2.5).double(), torch.zeros(7).double(), prediction, torch.eye(3)[[0] * 7])
    figures = head.figures(prediction, target)
    equal(figures["target"], 2.5)
    equal(figures["max_q"], head.values(prediction).amax(dim=1).mean())


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)
def test_mixed_precision_is_near_and_its_output_in_float32(spec: Any) -> None:
    wide = {**vars(spec), "hidden": (128,)}
    head = HEADS[type(spec)](type(spec)(**wide), num_features=256)
    features = torch.randn(16, 256, generator=seeded(0))
    exact, mixed = head.predict(features, None).output, head.mixed(features, None).output
    assert mixed.dtype == torch.float32
    assert not torch.equal(exact, mixed)
    torch.testing.assert_close(mixed, exact, rtol=0, atol=0.05)
