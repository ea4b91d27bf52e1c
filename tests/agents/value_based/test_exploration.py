"""Epsilon-greedy actions: frequency, legality, and order of random draws."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from torso.agents.value_based.exploration import epsilon_greedy


def greedy() -> NDArray[np.int64]:
    return np.array([7, 8, 9])


def never() -> NDArray[np.int64]:
    pytest.fail("no env needs a greedy action")


def test_random_actions_are_even_among_the_legal_ones() -> None:
    mask = np.array([[True, False, True], [False, True, False], [True, True, True]])
    rng = np.random.default_rng(0)
    drawn = np.stack(
        [epsilon_greedy(never, epsilon=1.0, num_envs=3, num_actions=3, mask=mask, rng=rng) for _ in range(3_000)]
    )
    counts = np.stack([(drawn == action).mean(axis=0) for action in range(3)], axis=1)  # [env, action]
    np.testing.assert_allclose(counts, [[0.5, 0, 0.5], [0, 1, 0], [1 / 3] * 3], atol=0.03)


def test_epsilon_is_the_share_of_random_actions() -> None:
    rng = np.random.default_rng(0)
    drawn = np.stack(
        [epsilon_greedy(greedy, epsilon=0.3, num_envs=3, num_actions=2, mask=None, rng=rng) for _ in range(3_000)]
    )
    np.testing.assert_allclose((drawn < 2).mean(axis=0), 0.3, atol=0.03)
    assert set(np.unique(drawn)) == {0, 1, 7, 8, 9}


@pytest.mark.parametrize("masked", [False, True])
def test_the_order_of_draws_is_the_runs(masked: bool) -> None:
    """random(E), the forward, then one call of integers for the envs that explore: what a resume repeats."""
    mask = np.ones((3, 4), dtype=bool) if masked else None
    for seed in range(20):
        rng, again = np.random.default_rng(seed), np.random.default_rng(seed)
        actions = epsilon_greedy(greedy, epsilon=0.5, num_envs=3, num_actions=4, mask=mask, rng=rng)
        explore = again.random(3) < 0.5
        count = int(explore.sum())
        expected = greedy()
        if count:
            expected[explore] = again.integers(np.full(count, 4)) if masked else again.integers(4, size=count)
        assert actions.tolist() == expected.tolist()
        assert rng.random() == again.random()
