"""Reward scale: the running standard deviation of discounted returns, by which targets divide rewards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from torso.agents.optim.observation_moments import RunningMoments
from torso.agents.protocols import StepRows

_CONSTANT = 1e-6  # share of the mean below which a deviation is rounding


class RewardScale:
    """Running standard deviation of each env's discounted return, G <- gamma G + r, over the steps of all envs.

    G begins at 0 in each of the learner's episodes, as in the ``VecNormalize`` of Stable-Baselines3. clip_rewards: r is
    clipped to [-1, 1] first, as it is in targets.
    """

    def __init__(self, num_envs: int, *, gamma: float, clip_rewards: bool) -> None:
        self._gamma, self._clip_rewards = gamma, clip_rewards
        self._returns = np.zeros(num_envs)  # float64 [E]
        self._moments = RunningMoments(1, min_std=0.0)

    @property
    def deviation(self) -> float:
        """Divisor of rewards, above 0.

        Where all returns were equal it is their magnitude, and 1 where that is 0 or before the first step.
        """
        [mean], [std] = self._moments.mean, self._moments.std
        return std if std > _CONSTANT * abs(mean) else abs(mean) or 1.0

    def update(self, rows: StepRows) -> None:
        """Add the returns of the envs that took an action."""
        rewards = np.clip(rows.reward, -1.0, 1.0) if self._clip_rewards else rows.reward
        self._returns = self._gamma * self._returns + rewards
        self._moments.update(self._returns[~rows.is_reset])
        self._returns[rows.terminated | rows.truncated | rows.is_reset] = 0.0

    def begin_episodes(self) -> None:
        """Begin an episode in every env."""
        self._returns[:] = 0.0

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint, at which new episodes begin, as JSON."""
        return self._moments.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Load what `state` returned."""
        self._moments.restore(state)
        self.begin_episodes()
