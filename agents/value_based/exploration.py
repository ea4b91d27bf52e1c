"""Exploration: epsilon-greedy action selection, with legal-action masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torso.agents.optim.states import numpy_generator_state, restore_numpy_generator
from torso.agents.value_based.next_policies import greedy_actions
from torso.nets.prediction.choosing import random_legal


class EpsilonGreedy:
    """Explorer that takes the greedy action or, with a probability that follows a schedule, a random legal one.

    epsilon: the probability at a step. The order of draws is part of a run's bits: ``rng.random(E)``, the forward,
    ``rng.integers``.
    """

    def __init__(self, epsilon: Callable[[int], float], rng: np.random.Generator) -> None:
        self.epsilon = epsilon
        self.rng = rng

    def choose(
        self,
        values: Callable[[], Tensor],
        mask: NDArray[np.bool_] | None,
        *,
        num_envs: int,
        num_actions: int,
        step: int,
    ) -> NDArray[np.int64]:
        """Choose an action for each env, int64 [E], counted from 0.

        values: gives the action values [E, A]; it is called once, and not at all where every env explores, so that a
        warm-up costs no forward. mask: bool [E, A], the legal actions; None: all are.
        """
        rng = self.rng
        explore = rng.random(num_envs) < self.epsilon(step)
        num_explore = int(np.count_nonzero(explore))
        if num_explore == num_envs:
            return self._random_actions(mask, explore, num_explore, num_actions)
        q = values()
        legal = None if mask is None else torch.from_numpy(mask).to(q.device)
        actions: NDArray[np.int64] = greedy_actions(q, legal).cpu().numpy()
        if num_explore:
            actions[explore] = self._random_actions(mask, explore, num_explore, num_actions)
        return actions

    def figures(self, step: int) -> dict[str, float]:
        """Return the probability of a random action at a step."""
        return {"epsilon": self.epsilon(step)}

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the generator's state."""
        return {"rng": numpy_generator_state(self.rng)}, {}

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Load what `state` returned."""
        restore_numpy_generator(self.rng, state["rng"])

    def _random_actions(
        self, mask: NDArray[np.bool_] | None, explore: NDArray[np.bool_], num_explore: int, num_actions: int
    ) -> NDArray[np.int64]:
        if mask is None:
            return self.rng.integers(num_actions, size=num_explore)
        return random_legal(mask[explore], self.rng)
