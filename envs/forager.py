"""Forager: a room with food and poison, and an agent with a fan of eyes that goes about in it.

The world of the course, after the deep Q-learning demo of ConvNetJS (Karpathy 2014) and its successor WaterWorld in
REINFORCEjs. Registered as ``torso/Forager-v0`` with a limit of 1,000 steps.

Actions: Discrete(5): 0 straight ahead; 1 and 2 ahead while veering to the left and to the right; 3 and 4 turn to the
left and to the right, almost on the spot.

Observations: Box(0, 1, [num_eyes * 3], float32), the eyes from the left to the right, three channels each: wall, food,
poison. An eye reports the nearest thing on its ray in that thing's channel: 1 where it touches the agent, less with
distance, 0 at ``eye_range`` and beyond. What lies behind something else is not seen.

Reward: +1 for each food and -1 for each poison that the agent touches; it is eaten, and another appears elsewhere.
Both drift slowly. ``forward_reward`` (0 by default) adds a little for going straight ahead where no wall is near, as
the demo has it. Episodes never terminate. infos hold ``food`` and ``poison``, what was eaten so far in the episode.

Settings: see ``ForagerSettings`` in forager_world.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from torso.envs.forager_world import FORWARD, WALL, ForagerSettings, ForagerWorld, forager_settings
from torso.errors import ConfigError, EnvError, MissingExtraError

Array = NDArray[Any]

MAX_EPISODE_STEPS = 1_000
_NUM_ACTIONS = 5
_METADATA: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 30}


class ForagerEnv(gym.Env[Array, np.int64]):
    """One Forager. It has no limit of its own: its registration, or ``TimeLimit``, truncates its episodes."""

    metadata: dict[str, Any] = _METADATA

    def __init__(self, render_mode: str | None = None, **env_kwargs: Any) -> None:
        _require_render_mode(render_mode)
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
        """Go on by one step; returns (observation, reward, terminated, truncated, info)."""
        _require_begun(self._begun)
        actions = _checked_actions(np.array([action]), np.zeros(1, np.bool_))
        rewards, seen = _advance(self._world, actions, np.ones(1, np.bool_), [self.np_random])
        return seen.reshape(-1), float(rewards[0]), False, False, self._info()

    def render(self) -> Array | None:
        """The room as uint8 [512, 480, 3], or None without a render mode."""
        return None if self.render_mode is None else _draw(self._world, 0)

    def _info(self) -> dict[str, Any]:
        return {"food": int(self._world.food_eaten[0]), "poison": int(self._world.poison_eaten[0])}


class ForagerVector(VectorEnv[Array, Array, Array]):
    """Foragers stepped together, in ``NEXT_STEP`` autoreset; bit for bit what a ``SyncVectorEnv`` of them gives.

    name: its id. seeds: one for each env; the first ``reset()`` begins from them, and an env's episodes depend on its
    own alone. max_episode_steps: truncates episodes, None after 1,000 steps. Other arguments are Forager's settings.
    The arrays that ``reset`` and ``step`` return are the caller's to keep.

    Raises ``ConfigError`` for settings that cannot be, ``EnvError`` for another render mode than ``"rgb_array"``.
    """

    metadata: dict[str, Any] = {**_METADATA, "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        name: str,
        seeds: Sequence[int],
        *,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        **env_kwargs: Any,
    ) -> None:
        if len(seeds) == 0:
            raise ConfigError("seeds must hold one seed for each env, got none")
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ConfigError(f"max_episode_steps must be at least 1, got {max_episode_steps}")
        _require_render_mode(render_mode)
        self.name = name
        self.num_envs = len(seeds)
        self.seeds: tuple[int, ...] = tuple(int(seed) for seed in seeds)
        self.render_mode = render_mode
        self._settings = forager_settings(env_kwargs)
        self.single_observation_space = _observation_space(self._settings)
        self.single_action_space = gym.spaces.Discrete(_NUM_ACTIONS)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._max_episode_steps = MAX_EPISODE_STEPS if max_episode_steps is None else max_episode_steps
        self._world = ForagerWorld(self.num_envs, self._settings)
        self._rngs = [seeding.np_random(seed)[0] for seed in self.seeds]
        self._ended = np.zeros(self.num_envs, np.bool_)
        self._begun = False

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin an episode in every env; returns (observations, infos). An int seeds env i with seed + i."""
        if seed is not None:
            seeds = range(seed, seed + self.num_envs) if isinstance(seed, (int, np.integer)) else seed
            if len(seeds) != self.num_envs:
                raise ConfigError(f"seed must hold one for each of {self.num_envs} envs, got {len(seeds)}")
            for env, given in enumerate(seeds):
                if given is not None:
                    self._rngs[env] = seeding.np_random(given)[0]
        for env, rng in enumerate(self._rngs):
            self._world.begin(env, rng)
        self._ended = np.zeros(self.num_envs, np.bool_)
        self._begun = True
        return self._world.observe().reshape(self.num_envs, -1), self._infos()

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Go on by one step; returns (observations, rewards, terminated, truncated, infos)."""
        _require_begun(self._begun)
        actions = _checked_actions(actions, self._ended)
        rewards, seen = _advance(self._world, actions, ~self._ended, self._rngs)
        truncated = self._world.num_steps >= self._max_episode_steps
        self._ended = truncated
        no = np.zeros(self.num_envs, np.bool_)
        return seen.reshape(self.num_envs, -1), rewards, no, truncated.copy(), self._infos()

    def render(self) -> tuple[Array, ...]:
        """Each env's room as uint8 [512, 480, 3]. Raises ``EnvError`` when made without a render mode."""
        if self.render_mode is None:
            raise EnvError(f"{self.name} was made without a render mode; pass render_mode='rgb_array'")
        return tuple(_draw(self._world, env) for env in range(self.num_envs))

    def _infos(self) -> dict[str, Any]:
        infos: dict[str, Any] = {}
        for name, counts in (("food", self._world.food_eaten), ("poison", self._world.poison_eaten)):
            infos[name], infos[f"_{name}"] = counts.copy(), np.ones(self.num_envs, np.bool_)
        return infos


def _advance(
    world: ForagerWorld, actions: Array, awake: Array, rngs: Sequence[np.random.Generator]
) -> tuple[Array, Array]:
    """One step of the rooms that are awake; the others begin an episode. Returns rewards [E] and what the eyes see."""
    world.move(actions)
    rewards = world.eat(awake, rngs)
    for env in np.flatnonzero(~awake).tolist():
        world.begin(env, rngs[env])
    seen = world.observe()
    if world.settings.forward_reward > 0:
        clear = 1.0 - seen[:, :, WALL].max(axis=1).astype(np.float64)
        rewards = rewards + world.settings.forward_reward * clear * (awake & (actions == FORWARD))
    return rewards, seen


def _observation_space(settings: ForagerSettings) -> gym.spaces.Box:
    return gym.spaces.Box(0.0, 1.0, (settings.num_eyes * 3,), np.float32)


def _draw(world: ForagerWorld, env: int) -> Array:
    try:
        from torso.envs.forager_rendering import draw
    except ModuleNotFoundError as error:
        raise MissingExtraError("drawing Forager", "video") from error
    return draw(world, env)


def _require_render_mode(render_mode: str | None) -> None:
    if render_mode not in (None, "rgb_array"):
        raise EnvError(f"Forager cannot be rendered as {render_mode!r}; it has rgb_array")


def _checked_actions(actions: Array, ignored: Array) -> Array:
    """The actions [E], straight ahead where they are ignored (bool [E]). Raises ``EnvError`` for what is none."""
    chosen = np.asarray(actions)
    fits = chosen.shape == ignored.shape and chosen.dtype.kind in "iu"
    if fits and ignored.any():
        chosen = np.where(ignored, FORWARD, chosen)
    if not fits or chosen.min() < 0 or chosen.max() >= _NUM_ACTIONS:
        raise EnvError(f"expected {len(ignored)} whole numbers from 0 to {_NUM_ACTIONS - 1} as actions, got {actions}")
    return chosen


def _require_begun(begun: bool) -> None:
    if not begun:
        raise gym.error.ResetNeeded("call reset() before step()")
