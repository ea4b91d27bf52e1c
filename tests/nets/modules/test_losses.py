"""Losses and targets against numbers worked by hand, in float64, values and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from torso.nets.modules import losses


def tensor(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def leaf(*values: object) -> Tensor:
    return tensor(*values).requires_grad_()


def gradient(loss: Tensor, by: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(loss.sum(), by)
    return result


def equal(got: Tensor, expected: Tensor, atol: float = 1e-15) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-14, atol=atol)


# -- cross-entropy -----------------------------------------------------------------------------------------------------


def test_cross_entropy_of_known_odds() -> None:
    logits = leaf([math.log(2), math.log(3), math.log(5)], [0.0, 0.0, 0.0])
    loss = losses.cross_entropy(logits, torch.tensor([2, 0]))
    equal(loss, tensor(-math.log(0.5), math.log(3)))
    equal(gradient(loss, logits), tensor([0.2, 0.3, -0.5], [1 / 3 - 1, 1 / 3, 1 / 3]))


def test_cross_entropys_gradient_is_probability_minus_one_hot() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(50, 7, dtype=torch.float64, generator=generator) * 5).requires_grad_()
    labels = torch.randint(7, (50,), generator=generator)
    odds = logits.detach().exp()
    one_hot = torch.eye(7, dtype=torch.float64)[labels]
    equal(gradient(losses.cross_entropy(logits, labels), logits), odds / odds.sum(dim=1, keepdim=True) - one_hot)
    assert torch.autograd.gradcheck(lambda x: losses.cross_entropy(x, labels), (logits,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cross_entropy_is_exact_at_huge_logits(dtype: torch.dtype) -> None:
    logits = torch.tensor(
        [[1000.0, -1000.0, -1000.0], [1000.0, -1000.0, -1000.0], [1000.0, 1000.0, -1000.0]], dtype=dtype
    ).requires_grad_()
    loss = losses.cross_entropy(logits, torch.tensor([0, 1, 0]))
    expected = torch.tensor([0.0, 2000.0, math.log(2)], dtype=dtype)
    assert torch.equal(loss[:2], expected[:2])
    torch.testing.assert_close(loss[2], expected[2])
    by_hand = torch.tensor([[0.0, 0, 0], [1, -1, 0], [-0.5, 0.5, 0]], dtype=dtype)
    torch.testing.assert_close(gradient(loss, logits), by_hand)


def test_cross_entropy_is_a_value_a_sample() -> None:
    assert losses.cross_entropy(torch.zeros(5, 3), torch.zeros(5, dtype=torch.int64)).shape == (5,)


def test_smoothed_cross_entropy_mixes_the_label_with_all_classes() -> None:
    logits = leaf([math.log(2), math.log(3), math.log(5)])  # probabilities 0.2, 0.3, 0.5
    loss = losses.cross_entropy(logits, torch.tensor([2]), label_smoothing=0.3)
    # the label, 0.7 of class 2, and 0.1 of each
    equal(loss, tensor(-0.1 * math.log(0.2) - 0.1 * math.log(0.3) - 0.8 * math.log(0.5)))
    equal(gradient(loss, logits), tensor([0.2 - 0.1, 0.3 - 0.1, 0.5 - 0.8]))
    assert torch.autograd.gradcheck(lambda x: losses.cross_entropy(x, torch.tensor([2]), 0.3), (logits,))


# -- two classes by one output -----------------------------------------------------------------------------------------

FLOATS = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def test_binary_cross_entropy_of_known_odds() -> None:
    logit = leaf(0.0, math.log(3), math.log(3), -math.log(4), math.log(3))
    label = tensor(1.0, 1.0, 0.0, 1.0, 0.25)
    loss = losses.binary_cross_entropy(logit, label)
    mixed = -0.25 * math.log(0.75) - 0.75 * math.log(0.25)
    equal(loss, tensor(math.log(2), -math.log(0.75), -math.log(0.25), -math.log(0.2), mixed))
    equal(gradient(loss, logit), tensor(0.5 - 1, 0.75 - 1, 0.75, 0.2 - 1, 0.75 - 0.25))


def test_binary_cross_entropy_takes_labels_of_any_dtype() -> None:
    logit = leaf(0.5, -2.0)
    expected = losses.binary_cross_entropy(logit, tensor(1.0, 0.0))
    for dtype in (torch.int64, torch.bool, torch.float32):
        assert torch.equal(losses.binary_cross_entropy(logit, torch.tensor([1, 0], dtype=dtype)), expected)


@FLOATS
def test_binary_cross_entropy_is_exact_at_huge_logits(dtype: torch.dtype) -> None:
    logit = torch.tensor([1000.0, 1000.0, -1000.0, -1000.0, 1000.0, -1000.0], dtype=dtype, requires_grad=True)
    label = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.5, 0.25], dtype=dtype)
    loss = losses.binary_cross_entropy(logit, label)
    assert loss.tolist() == [0, 1000, 1000, 0, 500, 250]
    assert gradient(loss, logit).tolist() == [0, 1, -1, 0, 0.5, -0.25]


@FLOATS
@pytest.mark.parametrize("size", [5.0, 17.0, 25.0, 80.0])
def test_what_little_is_left_of_a_sure_and_right_answers_loss_is_not_rounded_away(
    dtype: torch.dtype, size: float
) -> None:
    logit = torch.tensor([size, -size], dtype=dtype, requires_grad=True)
    expected = torch.full((2,), math.log1p(math.exp(-size)), dtype=dtype)
    probability = math.exp(-size) / (1 + math.exp(-size))
    by_hand = torch.tensor([-probability, probability], dtype=dtype)
    tolerance = 8 * torch.finfo(dtype).eps
    for loss in (
        losses.binary_cross_entropy(logit, torch.tensor([1, 0])),
        losses.logistic(logit, torch.tensor([1, -1])),
        losses.one_vs_rest(torch.stack((logit, torch.full_like(logit, -1e4)), dim=1)[:1], torch.tensor([0])),
    ):
        torch.testing.assert_close(loss, expected[: len(loss)], rtol=tolerance, atol=0)
        torch.testing.assert_close(gradient(loss, logit)[: len(loss)], by_hand[: len(loss)], rtol=tolerance, atol=0)


@FLOATS
@pytest.mark.parametrize("size", [5.0, 17.0, 21.0])
def test_nor_what_a_sure_and_wrong_answers_loss_has_beyond_its_size(dtype: torch.dtype, size: float) -> None:
    logit = torch.tensor([size, -size], dtype=dtype)
    expected = torch.full((2,), size + math.log1p(math.exp(-size)), dtype=dtype)
    for loss in (
        losses.binary_cross_entropy(logit, torch.tensor([0, 1])),
        losses.logistic(logit, torch.tensor([-1, 1])),
    ):
        torch.testing.assert_close(loss, expected, rtol=2 * torch.finfo(dtype).eps, atol=0)


def test_logistic_loss_is_binary_cross_entropy_for_signs() -> None:
    generator = torch.Generator().manual_seed(0)
    logit = (torch.randn(200, dtype=torch.float64, generator=generator) * 5).requires_grad_()
    label = torch.randint(2, (200,), generator=generator)
    loss = losses.logistic(logit, 2 * label - 1)
    equal(loss, losses.binary_cross_entropy(logit, label))
    equal(gradient(loss, logit), 1 / (1 + (-logit.detach()).exp()) - label, atol=1e-14)


def test_logistic_loss_by_hand() -> None:
    logit = leaf(0.0, math.log(3), math.log(3))
    loss = losses.logistic(logit, torch.tensor([1, 1, -1]))
    equal(loss, tensor(math.log(2), math.log(4 / 3), math.log(4)))
    equal(gradient(loss, logit), tensor(-0.5, -0.25, 0.75))


@FLOATS
def test_logistic_loss_is_exact_at_huge_logits(dtype: torch.dtype) -> None:
    logit = torch.tensor([1000.0, 1000.0, -1000.0, -1000.0], dtype=dtype, requires_grad=True)
    loss = losses.logistic(logit, torch.tensor([1, -1, 1, -1]))
    assert loss.tolist() == [0, 1000, 1000, 0]
    assert gradient(loss, logit).tolist() == [0, 1, -1, 0]


@FLOATS
def test_perceptron_loss_is_of_errors_alone_and_0_is_one(dtype: torch.dtype) -> None:
    values = [2.0, -3.0, 0.0, 0.0, 0.5, -0.5, 1000.0, -1000.0, 1000.0, -1000.0]
    logit = torch.tensor(values, dtype=dtype, requires_grad=True)
    sign = torch.tensor([1, 1, 1, -1, -1, -1, 1, 1, -1, -1])
    loss = losses.perceptron(logit, sign)
    assert loss.tolist() == [0, 3, 0, 0, 0.5, 0, 0, 1000, 1000, 0]
    assert gradient(loss, logit).tolist() == [0, -1, -1, 1, 1, 0, 0, -1, 1, 0]


def test_the_gradient_step_on_the_perceptron_loss_is_rosenblatts_rule() -> None:
    """w <- w + y x for each example that is not labelled rightly, from weights of 0."""
    rng = torch.Generator().manual_seed(0)
    examples = torch.randn(40, 3, dtype=torch.float64, generator=rng)
    signs = torch.where(examples @ tensor(1.0, -2.0, 0.5) > 0, 1.0, -1.0).double()
    by_rule, weight = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64, requires_grad=True)
    updates = 0
    for x, y in zip(examples, signs, strict=True):
        if y * (by_rule @ x) <= 0:
            by_rule, updates = by_rule + y * x, updates + 1
        step = gradient(losses.perceptron((weight @ x)[None], y[None]), weight)
        weight = (weight - step).detach().requires_grad_()
        assert torch.equal(weight, by_rule)
    assert updates > 1


# -- one against the rest ----------------------------------------------------------------------------------------------


def test_one_vs_rest_by_hand() -> None:
    logits = leaf([0.0, math.log(3), -math.log(4)])  # probabilities 1/2, 3/4, 1/5
    loss = losses.one_vs_rest(logits, torch.tensor([1]))
    equal(loss, tensor(-math.log(0.5) - math.log(0.75) - math.log(0.8)))
    equal(gradient(loss, logits), tensor([0.5, -0.25, 0.2]))


def test_smoothed_one_vs_rest_by_hand() -> None:
    logits = leaf([0.0, math.log(3), -math.log(4)])
    loss = losses.one_vs_rest(logits, torch.tensor([1]), label_smoothing=0.3)  # labels 0.1, 0.8, 0.1
    parts = [(0.5, 0.1), (0.75, 0.8), (0.2, 0.1)]
    equal(loss, tensor(sum(-y * math.log(p) - (1 - y) * math.log(1 - p) for p, y in parts)))
    equal(gradient(loss, logits), tensor([p - y for p, y in parts]))


@FLOATS
def test_one_vs_rest_is_exact_at_huge_logits(dtype: torch.dtype) -> None:
    rows = [[1000.0, -1000.0, -1000.0], [1000.0, -1000.0, -1000.0], [1000.0, 1000.0, -1000.0]]
    logits = torch.tensor(rows, dtype=dtype, requires_grad=True)
    loss = losses.one_vs_rest(logits, torch.tensor([0, 1, 0]))
    assert loss.tolist() == [0, 2000, 1000]
    assert gradient(loss, logits).tolist() == [[0, 0, 0], [1, -1, 0], [0, 1, 0]]


# -- squared errors ----------------------------------------------------------------------------------------------------


def test_sum_of_squared_errors_by_hand() -> None:
    output, target = (
        leaf([1.0, -2.0], [0.0, 0.5], [1000.0, -1000.0]),
        tensor([0.0, 1.0], [0.0, 0.5], [-1000.0, -1000.0]),
    )
    loss = losses.sum_of_squared_errors(output, target)
    equal(loss, tensor(1.0 + 9.0, 0.0, 4e6))
    equal(gradient(loss, output), tensor([2.0, -6.0], [0.0, 0.0], [4000.0, 0.0]))


# -- all of them -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["binary", "logistic", "perceptron", "one_vs_rest", "smoothed", "squares"])
def test_gradients_are_those_of_finite_differences_one_value_a_sample(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(20, 4, dtype=torch.float64, generator=generator) * 3).requires_grad_()
    logit = logits.detach()[:, 0].clone().requires_grad_()
    labels = torch.randint(4, (20,), generator=generator)
    sign = 2 * (labels % 2) - 1
    share = torch.rand(20, dtype=torch.float64, generator=generator)
    targets = torch.randn(20, 4, dtype=torch.float64, generator=generator)
    loss, by = {
        "binary": (lambda z: losses.binary_cross_entropy(z, share), logit),
        "logistic": (lambda z: losses.logistic(z, sign), logit),
        "perceptron": (lambda z: losses.perceptron(z, sign), logit),
        "one_vs_rest": (lambda z: losses.one_vs_rest(z, labels), logits),
        "smoothed": (lambda z: losses.one_vs_rest(z, labels, 0.2), logits),
        "squares": (lambda z: losses.sum_of_squared_errors(z, targets), logits),
    }[name]
    assert loss(by).shape == (20,)
    assert (loss(by) >= 0).all()
    assert torch.autograd.gradcheck(loss, (by,))


# -- huber -------------------------------------------------------------------------------------------------------------


def test_huber_by_hand() -> None:
    error = leaf(-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 100.0)
    loss = losses.huber(error, delta=1.0)
    equal(loss, tensor(2.5, 0.5, 0.125, 0.0, 0.125, 0.5, 1.0, 99.5))
    equal(gradient(loss, error), tensor(-1.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.0, 1.0))


def test_hubers_delta_is_where_it_becomes_linear() -> None:
    error = leaf(-5.0, -2.0, 1.0, 3.0)
    loss = losses.huber(error, delta=2.0)
    equal(loss, tensor(8.0, 2.0, 0.5, 4.0))
    equal(gradient(loss, error), tensor(-2.0, -2.0, 1.0, 2.0))


def test_hubers_gradient_is_the_clipped_error() -> None:
    generator = torch.Generator().manual_seed(0)
    error = (torch.randn(200, dtype=torch.float64, generator=generator) * 3).requires_grad_()
    equal(gradient(losses.huber(error, 0.7), error), error.detach().clamp(-0.7, 0.7))
    assert torch.autograd.gradcheck(lambda x: losses.huber(x, 0.7), (error,))


def test_squared_error_is_halved() -> None:
    error = leaf(-3.0, 0.0, 2.0)
    equal(losses.squared_error(error), tensor(4.5, 0.0, 2.0))
    equal(gradient(losses.squared_error(error), error), error.detach())


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0, 3.0])
def test_an_importance_weight_scales_the_gradient_in_both_of_hubers_branches(weight: float) -> None:
    error = leaf(-3.0, -0.5, 0.25, 100.0)
    slopes = tensor(-1.0, -0.5, 0.25, 1.0)  # of weight 1; the outer two are in the linear branch
    equal(gradient(losses.huber(error, delta=1.0) * weight, error), weight * slopes)
    equal(gradient(losses.squared_error(error) * weight, error), weight * error.detach())


# -- dueling -----------------------------------------------------------------------------------------------------------


def test_dueling_streams_by_hand() -> None:
    value, advantage = leaf([2.0], [-1.0]), leaf([1.0, 2.0, 6.0], [0.0, 0.0, -3.0])
    q = losses.dueling(value, advantage)
    equal(q, tensor([0.0, 1.0, 5.0], [0.0, 0.0, -3.0]))  # of mean V
    # of the second action alone: the whole to V; to A what is left once a third was given to each
    by_value, by_advantage = torch.autograd.grad(q[:, 1].sum(), (value, advantage), retain_graph=True)
    equal(by_value, tensor([1.0], [1.0]))
    equal(by_advantage, tensor([-1 / 3, 2 / 3, -1 / 3], [-1 / 3, 2 / 3, -1 / 3]))


def test_what_all_advantages_share_says_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    value, advantage = (torch.randn(30, width, dtype=torch.float64, generator=generator) for width in (1, 5))
    value.requires_grad_()
    advantage.requires_grad_()
    q = losses.dueling(value, advantage)
    equal(q.mean(dim=1, keepdim=True), value, atol=1e-14)
    equal(losses.dueling(value, advantage + 7.0), q, atol=1e-14)
    slope = torch.randn(30, 5, dtype=torch.float64, generator=generator)
    by_value, by_advantage = torch.autograd.grad((q * slope).sum(), (value, advantage))
    equal(by_value, slope.sum(dim=1, keepdim=True), atol=1e-14)
    equal(by_advantage.sum(dim=1), torch.zeros(30, dtype=torch.float64), atol=1e-14)
    assert torch.autograd.gradcheck(losses.dueling, (value, advantage))


# -- targets -----------------------------------------------------------------------------------------------------------

Q_T = [[1.0, 4.0, 2.0], [-1.0, -3.0, -2.0], [5.0, 5.0, 8.0]]


def test_bootstrapped_target_by_hand() -> None:
    r_t, discount_t = tensor(1.0, -1.0, 0.5), tensor(0.5, 0.9, 0.0)  # the last row terminates
    greedy = tensor([0, 1, 0], [1, 0, 0], [0, 0, 1])
    target = losses.bootstrapped_target(r_t, discount_t, tensor(*Q_T), greedy.double())
    equal(target, tensor(1 + 0.5 * 4, -1 + 0.9 * -1, 0.5))


def test_bootstrapped_target_takes_the_policys_expectation() -> None:
    policy = tensor([0.5, 0.25, 0.25], [0.0, 0.5, 0.5], [0.1, 0.2, 0.7])
    target = losses.bootstrapped_target(tensor(0, 0, 0).double(), tensor(1, 1, 0.5).double(), tensor(*Q_T), policy)
    equal(target, tensor(0.5 + 1 + 0.5, -1.5 - 1.0, 0.5 * (0.5 + 1.0 + 5.6)))


def test_nothing_is_learned_through_a_target() -> None:
    q_t = leaf(*Q_T)
    policy = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    assert not losses.bootstrapped_target(tensor(1, 1, 1).double(), tensor(1, 1, 1).double(), q_t, policy).requires_grad


def test_a_target_after_n_steps_discounts_by_gammas_nth_power() -> None:
    """Three rewards and Q after them: r0 + g r1 + g^2 r2 + g^3 Q, cut where the episode ends."""
    gamma, rewards = 0.5, (1.0, -2.0, 8.0)
    whole = sum(gamma**k * reward for k, reward in enumerate(rewards))  # 1 - 1 + 2
    cut = rewards[0] + gamma * rewards[1]  # it ended with the second reward
    r_t, discount_t = tensor(whole, cut, whole), tensor(gamma**3, 0.0, gamma**3)
    policy = tensor([0, 1, 0], [1, 0, 0], [0, 0, 1]).double()
    target = losses.bootstrapped_target(r_t, discount_t, tensor(*Q_T), policy)
    equal(target, tensor(2 + 0.125 * 4, 0.0, 2 + 0.125 * 8))


def test_chosen_picks_each_rows_own_action() -> None:
    q = leaf(*Q_T)
    values = losses.chosen(q, torch.tensor([2, 0, 1]))
    equal(values, tensor(2.0, -1.0, 5.0))
    equal(gradient(values, q), tensor([0, 0, 1], [1, 0, 0], [0, 1, 0]).double())


def test_chosen_of_one_row_and_one_action() -> None:
    assert losses.chosen(torch.tensor([[3.0]]), torch.tensor([0])).tolist() == [3.0]
