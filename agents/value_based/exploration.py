"""Exploration: epsilon-greedy action selection, with legal-action masks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from torso.nets.prediction.choosing import random_legal


def epsilon_greedy(
    greedy: Callable[[], NDArray[np.int64]],
    *,
    epsilon: float,
    num_envs: int,
    num_actions: int,
    mask: NDArray[np.bool_] | None,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Select each env's greedy action or, with probability ``epsilon``, a uniformly random legal one.

    greedy: returns every env's greedy action, int64 [E]; it is called once, and not at all where every env explores, so
        that a warm-up costs no forward. mask: bool [E, A], the legal actions; None: all are. The order of draws is part
        of a run's bits: ``rng.random(E)``, the forward, ``rng.integers``. Returns int64 [E], counted from 0.
    """
    explore = rng.random(num_envs) < epsilon
    num_explore = np.count_nonzero(explore)

    def random_actions() -> NDArray[np.int64]:
        return rng.integers(num_actions, size=num_explore) if mask is None else random_legal(mask[explore], rng)

    if num_explore == num_envs:
        return random_actions()
    actions = greedy()
    if num_explore:
        actions[explore] = random_actions()
    return actions
