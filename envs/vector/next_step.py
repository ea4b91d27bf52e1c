"""Base class of the custom vector envs, which step all their copies at once, in ``NEXT_STEP`` autoreset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from torso.errors import ConfigError, EnvError


class NextStepVector(VectorEnv[Any, Any, Any]):
    """A vector env in ``NEXT_STEP`` autoreset, with a seed for each env that the first ``reset()`` uses.

    name: its id, for messages. It renders ``rgb_array`` or nothing.
    Raises ``EnvError`` for another render mode, ``ConfigError`` without seeds or for a limit below 1 step.
    """

    def __init__(
        self,
        name: str,
        seeds: Sequence[int],
        *,
        render_mode: str | None,
        render_fps: int,
        max_episode_steps: int | None,
    ) -> None:
        require_rgb_array(name, render_mode)
        if len(seeds) == 0:
            raise ConfigError(f"{name} must have a seed for each env, got none")
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ConfigError(f"max_episode_steps must be at least 1, got {max_episode_steps}")
        self.name = name
        self.seeds: tuple[int, ...] = tuple(self.checked_seed(seed) for seed in seeds)
        self.num_envs = len(self.seeds)
        self.render_mode = render_mode
        self.metadata = {
            "autoreset_mode": AutoresetMode.NEXT_STEP,
            "render_modes": ["rgb_array"],
            "render_fps": render_fps,
        }
        self.begun = False  # whether it was reset
        self.ended = np.zeros(self.num_envs, np.bool_)  # whose next step begins an episode instead

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the actions, in the order of their numbers; empty: they are numbers alone."""
        return ()

    def set_spaces(self, observations: gym.spaces.Box, actions: gym.spaces.Discrete) -> None:
        """Set the observation and action spaces of one env, and of the vector."""
        self.single_observation_space, self.single_action_space = observations, actions
        self.observation_space = batch_space(observations, self.num_envs)
        self.action_space = batch_space(actions, self.num_envs)
        self._num_actions = int(actions.n)

    def checked_seed(self, seed: Any) -> int:
        """Check that a seed is one that this env accepts; raises ``ConfigError``."""
        if not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ConfigError(f"a seed of {self.name} must be a whole number of at least 0, got {seed!r}")
        return int(seed)

    def begin(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        """Begin a reset; returns the seed of each env: passed, pending, or None, which continues its generator.

        An int seeds the envs with seed, seed + 1, ..., as everywhere in Gymnasium.
        """
        pending: Sequence[int | None] = (None,) * self.num_envs if self.begun else self.seeds
        if isinstance(seed, (int, np.integer)):
            seed = range(int(seed), int(seed) + self.num_envs)
        requested = pending if seed is None else seed
        if len(requested) != self.num_envs:
            raise ConfigError(f"seed must hold one for each of {self.num_envs} envs, got {len(requested)}")
        seeds = [own if one is None else self.checked_seed(one) for one, own in zip(requested, pending, strict=True)]
        self.begun = True
        self.ended = np.zeros(self.num_envs, np.bool_)
        return seeds

    def checked_actions(self, actions: Any) -> NDArray[np.int64]:
        """Check actions; returns int64 [E], 0 where an env begins an episode. Raises ``EnvError`` for invalid ones."""
        if not self.begun:
            raise EnvError(f"{self.name}: reset() comes before the first step()")
        chosen = np.asarray(actions)
        is_valid = chosen.shape == (self.num_envs,) and chosen.dtype.kind in "iu"
        if is_valid and self.ended.any():
            chosen = np.where(self.ended, 0, chosen)
        if not is_valid or chosen.min() < 0 or chosen.max() >= self._num_actions:
            expected = f"{self.num_envs} whole numbers from 0 to {self._num_actions - 1}"
            raise EnvError(f"actions of {self.name} must be {expected}, got {actions!r}")
        return chosen.astype(np.int64)

    def require_rendered(self) -> None:
        """Raise ``EnvError`` unless there is something to render."""
        if self.render_mode is None:
            raise EnvError(f"{self.name} was made without a render mode; pass render_mode='rgb_array'")
        if not self.begun:
            raise EnvError(f"{self.name}: reset() comes before render()")


def require_rgb_array(name: str, render_mode: str | None) -> None:
    """Raise ``EnvError`` for any render mode but ``rgb_array`` or None."""
    if render_mode not in (None, "rgb_array"):
        raise EnvError(f"{name} cannot be rendered as {render_mode!r}; it has rgb_array")
