"""Epsilon-greedy actions: frequency, legality, and order of random draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from torso.agents import DQNConfig
from torso.agents.value_based.assembly import explorer_of
from torso.agents.value_based.exploration import EXPLORATIONS, Boltzmann, EpsilonGreedy, ladder

BEST = [7, 8, 9]


def values() -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(BEST), 10).float()


def never() -> torch.Tensor:
    pytest.fail("no env needs a greedy action")


def choose(
    q: Callable[[], torch.Tensor],
    epsilon: float,
    num_actions: int,
    mask: NDArray[np.bool_] | None,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    explorer = EpsilonGreedy(lambda step: epsilon, rng)
    return explorer.choose(q, mask, num_envs=3, num_actions=num_actions, step=5)


def test_random_actions_are_even_among_the_legal_ones() -> None:
    mask = np.array([[True, False, True], [False, True, False], [True, True, True]])
    rng = np.random.default_rng(0)
    drawn = np.stack([choose(never, 1.0, 3, mask, rng) for _ in range(3_000)])
    counts = np.stack([(drawn == action).mean(axis=0) for action in range(3)], axis=1)  # [env, action]
    np.testing.assert_allclose(counts, [[0.5, 0, 0.5], [0, 1, 0], [1 / 3] * 3], atol=0.03)


def test_epsilon_is_the_share_of_random_actions() -> None:
    rng = np.random.default_rng(0)
    drawn = np.stack([choose(values, 0.3, 2, None, rng) for _ in range(3_000)])
    np.testing.assert_allclose((drawn < 2).mean(axis=0), 0.3, atol=0.03)
    assert set(np.unique(drawn)) == {0, 1, 7, 8, 9}


@pytest.mark.parametrize("masked", [False, True])
def test_the_order_of_draws_is_the_runs(masked: bool) -> None:
    """random(E), the forward, then one call of integers for the envs that explore: what a resume repeats."""
    mask = np.ones((3, 10), dtype=bool) if masked else None
    for seed in range(20):
        rng, again = np.random.default_rng(seed), np.random.default_rng(seed)
        actions = choose(values, 0.5, 10, mask, rng)
        explore = again.random(3) < 0.5
        count = int(explore.sum())
        expected = np.array(BEST)
        if count:
            expected[explore] = again.integers(np.full(count, 10)) if masked else again.integers(10, size=count)
        assert actions.tolist() == expected.tolist()
        assert rng.random() == again.random()


def test_a_restored_explorer_draws_what_the_first_would_have_drawn() -> None:
    first, second = (EpsilonGreedy(lambda step: 1.0, np.random.default_rng(seed)) for seed in (1, 2))
    first.choose(never, None, num_envs=3, num_actions=50, step=0)
    second.restore(*first.state())
    drawn = [each.choose(never, None, num_envs=3, num_actions=50, step=1).tolist() for each in (first, second)]
    assert drawn[0] == drawn[1]


def test_epsilon_is_of_the_step_and_a_mask_holds_for_the_best_too() -> None:
    explorer = EpsilonGreedy({0: 1.0, 9: 0.0}.__getitem__, np.random.default_rng(0))
    mask = np.ones((3, 10), dtype=bool)
    mask[0, 7] = False
    assert explorer.choose(values, mask, num_envs=3, num_actions=10, step=9).tolist() == [0, 8, 9]
    explorer.choose(never, mask, num_envs=3, num_actions=10, step=0)


# -- by name -----------------------------------------------------------------------------------------------------------


def explorer(**settings: Any) -> Any:
    return explorer_of(DQNConfig(**settings), np.random.default_rng(0))


def test_every_exploration_has_an_explorer_that_draws_the_same_again() -> None:
    for name, kind in EXPLORATIONS.items():
        config = DQNConfig(exploration=name, noisy=kind.is_noise, num_envs=3)
        first, second = (explorer_of(config, np.random.default_rng(seed)) for seed in (1, 2))
        step = config.epsilon_decay_steps // 2
        first.choose(values, None, num_envs=3, num_actions=10, step=step)
        second.restore(*first.state())
        drawn = [
            [each.choose(values, None, num_envs=3, num_actions=10, step=step).tolist() for _ in range(5)]
            for each in (first, second)
        ]
        assert drawn[0] == drawn[1]
        assert set(first.figures(step)) == {"temperature" if name == "boltzmann" else "epsilon"}


def test_a_ladder_by_hand() -> None:
    """Horgan et al. 2018: epsilon 0.4, alpha 7: the exponents go from 1 to 8."""
    np.testing.assert_allclose(ladder(8, 0.4, 7.0), [0.4**power for power in range(1, 9)])
    np.testing.assert_allclose(ladder(3, 0.4, 7.0), [0.4, 0.4**4.5, 0.4**8])
    assert ladder(1, 0.4, 7.0).tolist() == [0.4]


def test_each_env_of_a_ladder_explores_by_its_own_share() -> None:
    made = explorer(exploration="ladder", num_envs=3, ladder_epsilon=0.5, ladder_alpha=2.0)
    drawn = np.stack([made.choose(values, None, num_envs=3, num_actions=2, step=0) for _ in range(4_000)])
    np.testing.assert_allclose((drawn < 2).mean(axis=0), [0.5, 0.25, 0.125], atol=0.03)
    assert made.figures(10**9) == {"epsilon": pytest.approx((0.5 + 0.25 + 0.125) / 3)}


def test_a_noisy_network_explores_by_its_values_alone() -> None:
    made = explorer(noisy=True, exploration="noisy")
    for step in (0, 10):
        assert made.choose(values, None, num_envs=3, num_actions=10, step=step).tolist() == BEST
    assert made.figures(0) == {"epsilon": 0.0}


@pytest.mark.parametrize("masked", [False, True])
def test_boltzmanns_actions_are_in_proportion_to_the_values_exponentials(masked: bool) -> None:
    q = torch.tensor([[0.0, 2 * math.log(3), 2 * math.log(4)], [1.0, 1.0, 1.0]])
    mask = np.array([[True, True, False], [False, True, False]]) if masked else None
    made = Boltzmann(2.0, np.random.default_rng(0))
    drawn = np.stack([made.choose(lambda: q, mask, num_envs=2, num_actions=3, step=0) for _ in range(8_000)])
    counts = np.stack([(drawn == action).mean(axis=0) for action in range(3)], axis=1)
    expected = [[1 / 4, 3 / 4, 0], [0, 1, 0]] if masked else [[1 / 8, 3 / 8, 4 / 8], [1 / 3] * 3]
    np.testing.assert_allclose(counts, expected, atol=0.02)
    assert made.figures(0) == {"temperature": 2.0}


def test_boltzmann_of_large_values_and_a_low_temperature_is_greedy() -> None:
    made = Boltzmann(1e-3, np.random.default_rng(0))
    assert made.choose(lambda: values() * 1e6, None, num_envs=3, num_actions=10, step=0).tolist() == BEST
