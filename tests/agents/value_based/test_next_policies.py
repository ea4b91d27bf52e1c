"""Next-policy rules and their targets against numbers worked by hand and oracles in NumPy, in float64."""

from __future__ import annotations

import math
from typing import Any

import distributions as oracle
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from torso.agents.value_based.next_policies import (
    GREEDY_ONLINE,
    GREEDY_TARGET,
    Forwards,
    NextPolicy,
    SoftmaxPolicy,
    one_hot_greedy,
)
from torso.nets import Prediction, QuantileHeadSpec, ScalarHeadSpec
from torso.nets.modules.distributional_heads import QuantileHead
from torso.nets.modules.value_heads import ScalarHead

Array = np.ndarray[Any, Any]

TARGET_T = [[1.0, 4.0, 2.0], [-1.0, -3.0, -2.0], [5.0, 5.0, 8.0]]
ONLINE_T = [[0.0, 1.0, 3.0], [-9.0, -8.0, -7.0], [2.0, 2.0, 0.0]]
MASK_T = [[True, False, True], [False, True, True], [True, True, False]]
R_T, DISCOUNT_T = [1.0, -1.0, 0.5], [0.5, 0.729, 0.0]  # the second after three steps at gamma 0.9, the third an end


def tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def forwards(*, online: bool = False, mask: bool = False) -> Forwards:
    return Forwards(
        target_t=tensor(TARGET_T),
        online_t=tensor(ONLINE_T) if online else None,
        target_tm1=None,
        a_tm1=torch.tensor([0, 1, 2]),
        discount_t=tensor(DISCOUNT_T),
        mask_t=torch.tensor(MASK_T) if mask else None,
    )


def target_of(rule: NextPolicy, seen: Forwards, r_t: Tensor) -> Tensor:
    """Compute a learner's target from a rule: the bonus is added to the reward, the head does the rest."""
    head = ScalarHead(ScalarHeadSpec(num_actions=seen.target_t.shape[1]), num_features=1)
    policy_t, bonus = rule(seen)
    return head.target(r_t + bonus, seen.discount_t, Prediction(seen.target_t), policy_t)


def equal(got: Tensor, expected: object) -> None:
    torch.testing.assert_close(got, tensor(expected), rtol=1e-12, atol=1e-12)


# -- greedy ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "mask", "actions", "values"),
    [
        (GREEDY_TARGET, False, [1, 0, 2], [4.0, -1.0, 8.0]),
        (GREEDY_TARGET, True, [2, 2, 0], [2.0, -2.0, 5.0]),
        (GREEDY_ONLINE, False, [2, 2, 0], [2.0, -2.0, 5.0]),  # the online network picks, the target network values
        (GREEDY_ONLINE, True, [2, 2, 0], [2.0, -2.0, 5.0]),
    ],
)
def test_greedy_rules_and_their_targets_by_hand(
    rule: NextPolicy, mask: bool, actions: list[int], values: list[float]
) -> None:
    seen = forwards(online="online_t" in rule.needs, mask=mask)
    policy_t, bonus = rule(seen)
    equal(policy_t, np.eye(3)[actions].tolist())
    equal(bonus, [0.0, 0.0, 0.0])
    by_hand = [1.0 + 0.5 * values[0], -1.0 + 0.729 * values[1], 0.5]
    equal(target_of(rule, seen, tensor(R_T)), by_hand)


def test_a_mask_is_the_online_networks_too() -> None:
    seen = forwards(online=True)._replace(mask_t=torch.tensor([[True, True, False]] * 3))
    assert GREEDY_ONLINE(seen)[0].argmax(dim=1).tolist() == [1, 1, 0]


def test_what_the_greedy_rules_need() -> None:
    assert GREEDY_TARGET.needs == frozenset()
    assert GREEDY_ONLINE.needs == {"online_t"}
    with pytest.raises(ValueError, match="without online_t, which it needs"):
        GREEDY_ONLINE(forwards())


rows_of_values = hnp.arrays(
    np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=5), elements=st.sampled_from([-2.0, -1.0, 0.0, 3.0])
)


@given(rows_of_values, st.data())
def test_greedy_is_one_hot_on_the_first_best_legal_action(q: Array, data: st.DataObject) -> None:
    mask = data.draw(hnp.arrays(np.bool_, q.shape))
    mask[:, data.draw(st.integers(0, q.shape[1] - 1))] = True
    policy = one_hot_greedy(torch.from_numpy(q), torch.from_numpy(mask))
    assert policy.dtype == torch.float64
    for row, legal, chosen in zip(q.tolist(), mask.tolist(), policy.tolist(), strict=True):
        best = max(value for value, may in zip(row, legal, strict=True) if may)
        first = next(a for a, value in enumerate(row) if legal[a] and value == best)
        assert chosen == [float(a == first) for a in range(len(row))]
    assert torch.equal(
        one_hot_greedy(torch.from_numpy(q), torch.ones(q.shape, dtype=torch.bool)), one_hot_greedy(torch.from_numpy(q))
    )


# -- softmax, with Munchausen's bonus ----------------------------------------------------------------------------------

MUNCHAUSEN = SoftmaxPolicy(tau=0.5)


def test_munchausens_policy_and_bonus_by_hand() -> None:
    """Values tau ln 2 apart make a policy of 1/2, 1/4, 1/4; before the step it is 1/4, 3/4 and next to nothing."""
    step = 0.5 * math.log(2)
    seen = Forwards(
        target_t=tensor([[step, 0.0, 0.0], [step, 0.0, 0.0]]),
        online_t=None,
        target_tm1=tensor([[0.0, 0.5 * math.log(3), -1e9], [0.0, 0.5 * math.log(3), -1e9]]),
        a_tm1=torch.tensor([0, 2]),
        discount_t=tensor([0.9, 0.0]),
    )
    policy_t, bonus = MUNCHAUSEN(seen)
    equal(policy_t, [[0.5, 0.25, 0.25]] * 2)
    entropy = 1.5 * math.log(2)
    equal(bonus, [0.9 * 0.5 * math.log(1 / 4) + 0.9 * 0.5 * entropy, 0.9 * -1.0])  # the second is clipped
    _, soft = SoftmaxPolicy(tau=0.5, alpha=0.0)(seen)  # soft Q-learning
    equal(soft, [0.9 * 0.5 * entropy, 0.0])
    assert SoftmaxPolicy() == SoftmaxPolicy(alpha=0.9, tau=0.03, clip=-1.0, network="target")  # Vieillard et al. 2020


def test_the_bonus_may_be_from_the_online_network() -> None:
    by_target, by_online = SoftmaxPolicy(tau=0.5), SoftmaxPolicy(tau=0.5, network="online")
    assert (by_target.needs, by_online.needs) == ({"target_tm1"}, {"online_tm1"})
    before = tensor([[1.0, 0.5, 0.2], [0.0, -0.2, 0.1], [0.3, 0.2, 0.1]])
    one = by_target(forwards()._replace(target_tm1=before))
    other = by_online(forwards()._replace(online_tm1=before))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    with pytest.raises(ValueError, match="without online_tm1, which it needs"):
        by_online(forwards()._replace(target_tm1=before))
    with pytest.raises(ValueError, match="without target_tm1, which it needs"):
        by_target(forwards()._replace(online_tm1=before))


def test_tiny_temperatures_and_large_values_are_finite() -> None:
    seen = Forwards(
        target_t=torch.tensor([[1e4, -1e4, 9_999.0]]),
        online_t=None,
        target_tm1=torch.tensor([[1e4, -1e4, 0.0]]),
        a_tm1=torch.tensor([1]),
        discount_t=torch.tensor([0.99]),
    )
    policy_t, bonus = SoftmaxPolicy()(seen)
    assert policy_t.tolist() == [[1.0, 0.0, pytest.approx(math.exp(-1 / 0.03), rel=1e-3)]]
    assert bonus.item() == pytest.approx(-0.9)


def munchausen_target(
    rule: SoftmaxPolicy,
    rewards: Array,
    gamma: float,
    ended: bool,
    q_tm1: Array,
    a_tm1: int,
    q_t: Array,
    legal: tuple[Array, Array],
) -> float:
    """One row's target by the paper's equation 2, the logarithm clipped, with n rewards for its one."""

    def log_policy(q: Array, may: Array) -> dict[int, float]:
        actions = np.flatnonzero(may)
        scaled = q[actions] / rule.tau
        most = scaled.max()
        return dict(zip(actions, scaled - most - np.log(np.exp(scaled - most).sum()), strict=True))

    target = sum(gamma**k * reward for k, reward in enumerate(rewards))
    target += rule.alpha * min(max(rule.tau * log_policy(q_tm1, legal[0])[a_tm1], rule.clip), 0.0)
    if not ended:
        for action, log_pi in log_policy(q_t, legal[1]).items():
            target += gamma ** len(rewards) * np.exp(log_pi) * (q_t[action] - rule.tau * log_pi)
    return float(target)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("n_step", [1, 3])
def test_a_soft_rule_with_a_bonus_has_all_it_needs(n_step: int, masked: bool) -> None:
    rng = np.random.default_rng(n_step)
    rule, gamma, rows, actions = MUNCHAUSEN, 0.9, 40, 4
    q_tm1, q_t = rng.normal(size=(2, rows, actions)) * 2
    rewards, ended = rng.normal(size=(rows, n_step)), rng.random(rows) < 0.3
    masks = rng.random((2, rows, actions)) < (0.6 if masked else 2.0)
    a_tm1 = rng.integers(actions, size=rows)
    masks[0, np.arange(rows), a_tm1] = masks[1, :, 0] = True
    seen = Forwards(
        target_t=tensor(q_t),
        online_t=None,
        target_tm1=tensor(q_tm1),
        a_tm1=torch.tensor(a_tm1),
        discount_t=tensor(gamma**n_step * ~ended),
        mask_t=torch.tensor(masks[1]) if masked else None,
        mask_tm1=torch.tensor(masks[0]) if masked else None,
    )
    policy_t, _ = rule(seen)
    torch.testing.assert_close(policy_t.sum(dim=1), torch.ones(rows).double())
    assert (policy_t[~torch.tensor(masks[1])] == 0).all()
    got = target_of(rule, seen, tensor(rewards @ gamma ** np.arange(n_step)))
    by_row = zip(rewards, ended, q_tm1, a_tm1, q_t, masks.swapaxes(0, 1), strict=True)
    expected = [
        munchausen_target(rule, r, gamma, end, before, a, after, legal) for r, end, before, a, after, legal in by_row
    ]
    torch.testing.assert_close(got, tensor(expected), rtol=1e-12, atol=1e-12)


def test_a_mixture_of_distributions_needs_no_more_than_a_mixture_of_values() -> None:
    """A head of distributions mixes probabilities by ``policy_t`` and moves their atoms by reward and bonus."""
    rng = np.random.default_rng(0)
    atoms = torch.linspace(-3, 3, 7).double()
    probabilities = tensor(rng.dirichlet(np.ones(7), size=(5, 4)))  # [B, A, atoms]
    seen = Forwards(
        target_t=probabilities @ atoms,
        online_t=None,
        target_tm1=tensor(rng.normal(size=(5, 4))),
        a_tm1=torch.tensor(rng.integers(4, size=5)),
        discount_t=tensor([0.9, 0.9, 0.0, 0.9, 0.0]),
    )
    r_t = tensor(rng.normal(size=5))
    policy_t, bonus = MUNCHAUSEN(seen)
    mixed = torch.einsum("ba,bak->bk", policy_t, probabilities)
    moved = (r_t + bonus).unsqueeze(1) + seen.discount_t.unsqueeze(1) * atoms  # [B, atoms]
    torch.testing.assert_close((mixed * moved).sum(dim=1), target_of(MUNCHAUSEN, seen, r_t), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n_step", [1, 3])
def test_a_soft_policys_quantiles_are_mixed_at_equal_fractions(n_step: int) -> None:
    rng = np.random.default_rng(n_step)
    rows, actions, num_quantiles, gamma = 20, 3, 4, 0.9
    head = QuantileHead(QuantileHeadSpec(num_actions=actions, num_quantiles=num_quantiles), num_features=1).double()
    quantiles_t, q_tm1 = rng.normal(size=(rows, actions, num_quantiles)), rng.normal(size=(rows, actions))
    rewards, ended = rng.normal(size=(rows, n_step)), rng.random(rows) < 0.3
    a_tm1 = rng.integers(actions, size=rows)
    prediction = Prediction(torch.from_numpy(quantiles_t))
    seen = Forwards(
        target_t=head.values(prediction),
        online_t=None,
        target_tm1=torch.from_numpy(q_tm1),
        a_tm1=torch.from_numpy(a_tm1),
        discount_t=torch.from_numpy(gamma**n_step * ~ended),
    )
    policy_t, bonus = MUNCHAUSEN(seen)
    r_t = torch.from_numpy(rewards @ gamma ** np.arange(n_step))
    got = head.target(r_t + bonus, seen.discount_t, prediction, policy_t)
    for b in range(rows):
        q_t, outcomes = quantiles_t[b].mean(axis=1), quantiles_t[b]
        _, _, expected = oracle.munchausen(
            rewards[b], gamma, ended[b], q_tm1[b], a_tm1[b], q_t, outcomes, alpha=0.9, tau=0.5, clip=-1.0
        )
        equal(got[b], expected.tolist())
