"""Identity environment: the smallest test of a learner, rewarded for naming the value it observes.

A learner that cannot solve it has a bug, which shows within a second. Registered as ``torso/Identity-v0``.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from torso.errors import ConfigError


class IdentityEnv(gym.Env[np.int64, np.int64]):
    """Show a value in 0..num_values-1, redrawn at each step; naming it is rewarded with 1, anything else with 0.

    An episode terminates after ``episode_steps`` steps, so the best return is ``episode_steps`` and that of a uniformly
    random policy ``episode_steps / num_values`` on average.

    Observations: Discrete(num_values). Actions: Discrete(num_values, start=action_start), where action ``action_start +
    v`` names value v.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own convention

    def __init__(
        self, num_values: int = 4, episode_steps: int = 8, action_start: int = 0, render_mode: None = None
    ) -> None:
        if num_values < 1 or episode_steps < 1:
            raise ConfigError(
                f"num_values and episode_steps must be at least 1, got num_values {num_values} and "
                f"episode_steps {episode_steps}"
            )
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Discrete(num_values)
        self.action_space = gym.spaces.Discrete(num_values, start=action_start)
        self._num_values = num_values
        self._action_start = action_start
        self._episode_steps = episode_steps
        self._step = 0
        self._value = np.int64(0)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        """Begin an episode; returns (observation, info)."""
        super().reset(seed=seed)
        self._step = 0
        self._value = self.np_random.integers(self._num_values)
        return self._value, {}

    def step(self, action: np.int64) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        """Name the value shown; returns (the next observation, reward, terminated, truncated, info)."""
        reward = float(int(action) - self._action_start == int(self._value))
        self._step += 1
        self._value = self.np_random.integers(self._num_values)
        return self._value, reward, self._step >= self._episode_steps, False, {}
