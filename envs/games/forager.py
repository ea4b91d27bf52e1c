"""Forager environment: an agent with a fan of eyes moves in a room with food and poison.

The environment of the course, after the deep Q-learning demo of ConvNetJS (Karpathy 2014) and its successor WaterWorld
in REINFORCEjs. Registered as ``torso/Forager-v0`` with a limit of 1,000 steps.

Actions: Discrete(5): 0 straight ahead; 1 and 2 ahead while veering to the left and to the right; 3 and 4 turn to the
left and to the right, almost on the spot.

Observations: Box(0, 1, [num_eyes * 3], float32), the eyes from the left to the right, three channels each: wall, food,
poison. An eye reports the nearest thing on its ray in that thing's channel: 1 where it touches the agent, less with
distance, 0 at ``eye_range`` and beyond. Occluded things are not seen.

Reward: +1 for each food and -1 for each poison that the agent touches; it is eaten, and another appears elsewhere.
Both drift slowly. ``forward_reward`` (0 by default) adds a little for going straight ahead where no wall is near, as
the demo does. Episodes never terminate. infos hold ``food`` and ``poison``, the counts eaten so far in the episode.

Settings: see ``ForagerSettings`` in forager_world.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding

from torso.arrays import Array
from torso.envs.games.forager_rendering import draw_forager
from torso.envs.games.forager_world import FORWARD, WALL, ForagerSettings, ForagerWorld, forager_settings
from torso.envs.vector.next_step import NextStepVector, require_rgb_array
from torso.errors import EnvError

MAX_EPISODE_STEPS = 1_000
_NUM_ACTIONS = 5
_FPS = 30
_ACTION_NAMES = ("UP", "UPLEFT", "UPRIGHT", "LEFT", "RIGHT")  # up is forward


class ForagerEnv(gym.Env[Array, np.int64]):
    """Forager as a Gymnasium env. It has no step limit: its registration, or ``TimeLimit``, truncates its episodes."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": _FPS}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None, **env_kwargs: Any) -> None:
        require_rgb_array("Forager", render_mode)
        self.render_mode = render_mode
        self._settings = forager_settings(env_kwargs)
        self._world = ForagerWorld(1, self._settings)
        self.observation_space = _observation_space(self._settings)
        self.action_space = gym.spaces.Discrete(_NUM_ACTIONS)
        self._begun = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin an episode; returns (observation, info)."""
        super().reset(seed=seed)
        self._world.begin(0, self.np_random)
        self._begun = True
        return self._world.observe().reshape(-1), self._info()

    def step(self, action: np.int64) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Step the env; returns (observation, reward, terminated, truncated, info)."""
        if not self._begun:
            raise gym.error.ResetNeeded("call reset() before step()")
        if not self.action_space.contains(action):
            raise EnvError(f"action must be a whole number from 0 to {_NUM_ACTIONS - 1}, got {action!r}")
        rewards, observations = _advance(self._world, np.array([action]), np.ones(1, np.bool_), [self.np_random])
        return observations.reshape(-1), float(rewards[0]), False, False, self._info()

    def render(self) -> Array | None:
        """Render the room as uint8 [512, 480, 3]; None without a render mode."""
        return None if self.render_mode is None else draw_forager(self._world, 0)

    def _info(self) -> dict[str, Any]:
        return {"food": int(self._world.food_eaten[0]), "poison": int(self._world.poison_eaten[0])}


class ForagerVector(NextStepVector):
    """Vector env of Foragers, in ``NEXT_STEP`` autoreset; bit-identical to a ``SyncVectorEnv`` of them.

    name: its id. seeds: one for each env; the first ``reset()`` begins from them, and an env's episodes depend on its
    own alone. max_episode_steps: truncates episodes, None after 1,000 steps. Other arguments are Forager's settings.
    The arrays that ``reset`` and ``step`` return are copies, which the caller may keep.

    Raises ``ConfigError`` for settings out of their range, ``EnvError`` for another render mode than ``"rgb_array"``.
    """

    def __init__(
        self,
        name: str,
        seeds: Sequence[int],
        *,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        **env_kwargs: Any,
    ) -> None:
        super().__init__(name, seeds, render_mode=render_mode, render_fps=_FPS, max_episode_steps=max_episode_steps)
        settings = forager_settings(env_kwargs)
        self.set_spaces(_observation_space(settings), gym.spaces.Discrete(_NUM_ACTIONS))
        self._max_episode_steps = MAX_EPISODE_STEPS if max_episode_steps is None else max_episode_steps
        self._world = ForagerWorld(self.num_envs, settings)
        self._rngs = [np.random.default_rng()] * self.num_envs

    @property
    def action_names(self) -> tuple[str, ...]:
        """See ``NextStepVector.action_names``."""
        return _ACTION_NAMES

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin an episode in every env; returns (observations, infos). An int seeds env i with seed + i."""
        for env, own in enumerate(self.begin(seed)):
            if own is not None:
                self._rngs[env] = seeding.np_random(own)[0]
            self._world.begin(env, self._rngs[env])
        return self._world.observe().reshape(self.num_envs, -1), self._infos()

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Step the env; returns (observations, rewards, terminated, truncated, infos)."""
        rewards, observations = _advance(self._world, self.checked_actions(actions), ~self.ended, self._rngs)
        truncated = self._world.num_steps >= self._max_episode_steps
        self.ended = truncated
        terminated = np.zeros(self.num_envs, np.bool_)
        return observations.reshape(self.num_envs, -1), rewards, terminated, truncated.copy(), self._infos()

    def render(self) -> tuple[Array, ...]:
        """Render each env's room as uint8 [512, 480, 3]. Raises ``EnvError`` when made without a render mode."""
        self.require_rendered()
        return tuple(draw_forager(self._world, env) for env in range(self.num_envs))

    def _infos(self) -> dict[str, Any]:
        infos: dict[str, Any] = {}
        for name, counts in (("food", self._world.food_eaten), ("poison", self._world.poison_eaten)):
            infos[name], infos[f"_{name}"] = counts.copy(), np.ones(self.num_envs, np.bool_)
        return infos


def _advance(
    world: ForagerWorld, actions: Array, active: Array, rngs: Sequence[np.random.Generator]
) -> tuple[Array, Array]:
    """Step the active rooms; the others begin an episode. Returns rewards [E] and observations."""
    world.move(actions)
    rewards = world.eat(active, rngs)
    for env in np.flatnonzero(~active).tolist():
        world.begin(env, rngs[env])
    observations = world.observe()
    if world.settings.forward_reward > 0:
        clear = 1.0 - observations[:, :, WALL].max(axis=1).astype(np.float64)
        rewards = rewards + world.settings.forward_reward * clear * (active & (actions == FORWARD))
    return rewards, observations


def _observation_space(settings: ForagerSettings) -> gym.spaces.Box:
    return gym.spaces.Box(0.0, 1.0, (settings.num_eyes * 3,), np.float32)
