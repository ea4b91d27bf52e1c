"""Targets and losses against numbers worked by hand, in float64, values and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from torso.nets import LogitsHeadSpec, Prediction, ScalarHeadSpec, losses
from torso.nets.heads import LogitsHead, ScalarHead


def tensor(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def leaf(*values: object) -> Tensor:
    return tensor(*values).requires_grad_()


def gradient(loss: Tensor, by: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(loss.sum(), by)
    return result


def equal(came: Tensor, expected: Tensor, atol: float = 1e-15) -> None:
    torch.testing.assert_close(came, expected, rtol=1e-14, atol=atol)


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


def test_chosen_picks_each_rows_own_action() -> None:
    q = leaf(*Q_T)
    values = losses.chosen(q, torch.tensor([2, 0, 1]))
    equal(values, tensor(2.0, -1.0, 5.0))
    equal(gradient(values, q), tensor([0, 0, 1], [1, 0, 0], [0, 1, 0]).double())


def test_chosen_of_one_row_and_one_action() -> None:
    assert losses.chosen(torch.tensor([[3.0]]), torch.tensor([0])).tolist() == [3.0]


# -- heads -------------------------------------------------------------------------------------------------------------


def test_scalar_heads_loss_and_gradient_by_hand() -> None:
    head = ScalarHead(ScalarHeadSpec(num_actions=3), num_features=2).double()
    q = leaf(*Q_T)
    target = tensor(3.0, -1.25, 5.0)
    loss, priority = head.loss(Prediction(q), torch.tensor([1, 0, 2]), target)
    # TD errors: 3 - 4 = -1; -1.25 + 1 = -0.25; 5 - 8 = -3, beyond delta = 1
    equal(loss, tensor(0.5, 0.25**2 / 2, 2.5))
    equal(priority, tensor(1.0, 0.25, 3.0))
    assert not priority.requires_grad
    equal(gradient(loss, q), tensor([0, 1, 0], [0.25, 0, 0], [0, 0, 1]).double())


def test_scalar_head_without_delta_takes_the_squared_error() -> None:
    head = ScalarHead(ScalarHeadSpec(num_actions=3, huber_delta=None), num_features=2)
    q = leaf(*Q_T)
    loss, _ = head.loss(Prediction(q), torch.tensor([1, 0, 2]), tensor(3.0, -1.25, 5.0))
    equal(loss, tensor(0.5, 0.25**2 / 2, 4.5))
    equal(gradient(loss, q), tensor([0, 1, 0], [0.25, 0, 0], [0, 0, 3]).double())


def test_scalar_heads_delta_is_its_specs() -> None:
    head = ScalarHead(ScalarHeadSpec(num_actions=1, huber_delta=2.0), num_features=2)
    loss, _ = head.loss(Prediction(tensor([0.0])), torch.tensor([0]), tensor(5.0))
    equal(loss, tensor(8.0))


def test_scalar_heads_target_is_of_the_next_prediction() -> None:
    head = ScalarHead(ScalarHeadSpec(num_actions=3), num_features=2)
    policy = tensor([0, 1, 0], [1, 0, 0], [0, 0, 1]).double()
    target = head.target(tensor(1.0, -1.0, 0.5), tensor(0.5, 0.9, 0.0), Prediction(leaf(*Q_T)), policy)
    equal(target, tensor(3.0, -1.9, 0.5))
    assert not target.requires_grad


def test_logits_head_reads_its_logits_as_probabilities() -> None:
    head = LogitsHead(LogitsHeadSpec(num_classes=3), num_features=2)
    prediction = Prediction(leaf([math.log(2), math.log(3), math.log(5)]))
    equal(head.probabilities(prediction), tensor([0.2, 0.3, 0.5]))
    assert head.readout(prediction) is prediction.output
    equal(head.loss(prediction, torch.tensor([0])), tensor(-math.log(0.2)))
