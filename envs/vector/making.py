"""Make vector environments: any Gymnasium environment with Discrete actions, with the interface torso learns from.

Every single env is checked as it runs (`checked_env.py`): an error of its own code or of its protocol is an
``EnvError`` that names the env and the method.

The interface is that of Gymnasium's ``SyncVectorEnv`` with ``NEXT_STEP`` autoreset. When an episode ends at step t,
step t returns its true last observation; the action of step t + 1 is ignored by that env, which resets instead and
returns the new episode's first observation with reward 0 and both flags False (the *reset row*). No observation is
found in ``info`` alone.

A vector env may have an int ``frame_stack`` above 1: its observations are [E, frame_stack, ...], the newest plane last,
zeros before an episode's first. Its infos may hold ``action_mask`` (see ``action_masks``) and ``life_lost``, bool [E]:
an end for the learner, not for the env.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from torso.envs.vector.registry import import_module_of, missing_extra, vector_class_of
from torso.envs.vector.single_envs import EnvSource, Wrapper, append_env
from torso.errors import ConfigError, EnvError, TorsoError


class SeededVectorEnv(SyncVectorEnv):
    """A ``SyncVectorEnv`` whose first ``reset()`` uses the seeds that it was built with.

    ``reset(seed=...)`` overrides them, as everywhere in Gymnasium; a later ``reset()`` without a seed continues the
    envs' own generators. The observations that ``reset`` and ``step`` return are copies, which the caller may keep or
    write to.
    """

    def __init__(self, env_fns: Sequence[Callable[[], gym.Env[Any, Any]]], seeds: Sequence[int]) -> None:
        super().__init__(env_fns, copy=True, autoreset_mode=AutoresetMode.NEXT_STEP)
        self.seeds: tuple[int, ...] = tuple(seeds)
        self._seeds_pending = True

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in every env; returns (observations, infos)."""
        if seed is None and self._seeds_pending:
            seed = list(self.seeds)
        result: tuple[Any, dict[str, Any]] = super().reset(seed=seed, options=options)
        self._seeds_pending = False
        return result

    def render(self) -> tuple[Any, ...]:
        """Render each env; with ``render_mode="rgb_array"`` uint8 [H, W, 3] each.

        Raises ``EnvError`` for frames of another kind, ``MissingExtraError`` where drawing needs an extra.
        """
        try:
            frames = super().render()
        except gym.error.DependencyNotInstalled as error:
            name = str(self.envs[0].spec.id if self.envs[0].spec else self.envs[0])
            raise missing_extra(f"drawing {name}", error) or EnvError(f"drawing {name}: {error}") from error
        if self.render_mode == "rgb_array":
            for frame in frames:
                _require_frame(frame)
        return frames


def make_vector(
    env_id: EnvSource,
    num_envs: int = 1,
    seed: int | Sequence[int] = 0,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    wrappers: Sequence[Wrapper] = (),
    max_episode_steps: int | None = None,
    render_mode: str | None = None,
) -> VectorEnv[Any, Any, Any]:
    """Make ``num_envs`` copies of an environment, stepped together, not yet reset.

    env_id: a Gymnasium id (``"CartPole-v1"``, or ``"module:Env-v0"``, which imports the module first); an env class, or
        any function that returns a new env at each call; or, for ``num_envs=1``, a constructed env, which ``close()``
        closes.
    seed: an int, from which ``env_seeds(seed, num_envs, 0)`` are drawn, or one seed for each env. The first ``reset()``
        uses them, so it equals ``reset(seed=[...])`` with the same list. The vector env has them as ``seeds``.
    env_kwargs: given to the env's constructor; for an id to ``gymnasium.make``, which takes ``max_episode_steps`` too.
    wrappers: applied to each env in order, the first innermost, after the time limit.
    max_episode_steps: truncates episodes. For an id it replaces the registered limit; for anything else it is added.
    render_mode: what ``render()`` gives, one value an env in a tuple: with ``"rgb_array"`` uint8 [H, W, 3]. A class or
        function is given it where it takes it; a constructed env must have it.

    Observations that are not arrays (Discrete, MultiDiscrete, MultiBinary, Dict, Tuple, and Boxes without a dimension)
    are flattened to a vector by Gymnasium's ``FlattenObservation``; Discrete values become one-hot.

    Infos are reduced to ``action_mask``, which may also stand in a Dict observation, and ``life_lost``: others differ
    from env to env. Wrappers with running statistics (``NormalizeObservation``, ``NormalizeReward``) are refused, since
    each copy would have its own; settings of the agents do their work.

    ``ALE/``, ``MinAtar/`` and ``torso/Forager-v0`` have custom vector envs, which are faster. With wrappers,
    these too are stepped one by one: an ``ALE/`` id then observes the screen as in Gymnasium, uint8 [210, 160, 3].

    Raises ``EnvError`` for an env that is unknown, cannot be made, acts in anything but a Discrete space, cannot be
    rendered as asked, or observes what cannot become an array; ``MissingExtraError`` for one that needs an extra of
    torso; ``ConfigError`` for arguments that cannot work. No env is left open then, other than a constructed one that
    was passed in.
    """
    _check_arguments(env_id, num_envs, env_kwargs, max_episode_steps)
    seeds = _checked_seeds(seed, num_envs)
    if isinstance(env_id, str) and not wrappers:
        name = import_module_of(env_id)
        vector_class = vector_class_of(name)
        if vector_class is not None:
            limits = {"max_episode_steps": max_episode_steps, "render_mode": render_mode}
            overrides = {key: value for key, value in limits.items() if value is not None}
            return _make_custom_vector(vector_class, name, seeds, {**(env_kwargs or {}), **overrides})
    envs: list[gym.Env[Any, Any]] = []
    try:
        for _ in range(num_envs):
            append_env(envs, env_id, dict(env_kwargs or {}), wrappers, max_episode_steps, render_mode)
        _require_same_spaces(envs)
        return SeededVectorEnv([lambda made=made: made for made in envs], seeds)  # type: ignore[misc]
    except BaseException:
        if not isinstance(env_id, gym.Env):
            for made in envs:
                made.close()
        raise


def has_raw_frames(source: EnvSource, wrappers: Sequence[Wrapper] = ()) -> bool:
    """Whether `make_vector` takes ``raw_frames`` in ``env_kwargs``, for Atari's (see ``torso.envs.games.atari``)."""
    return isinstance(source, str) and not wrappers and source.rpartition(":")[2].startswith("ALE/")


def env_seeds(seed: int, num_envs: int, step: int) -> list[int]:
    """Derive seeds for envs that are reset at ``step``: one for each env, from (seed, env index, step) alone.

    Drawn by NumPy's ``SeedSequence`` with (env index, step) as spawn key, so neighbouring seeds, envs and steps give
    unrelated streams. Each lies in [0, 2**31), which every environment's seeding accepts. Env i's seed does not depend
    on ``num_envs``.
    """
    if num_envs < 1:
        raise ConfigError(f"num_envs must be at least 1, got {num_envs}")
    if seed < 0 or step < 0:
        raise ConfigError(f"seed and step must not be negative, got seed {seed} and step {step}")
    sequences = (np.random.SeedSequence(seed, spawn_key=(index, step)) for index in range(num_envs))
    return [int(sequence.generate_state(1, np.uint32)[0]) >> 1 for sequence in sequences]


def action_start(space: gym.Space[Any]) -> int:
    """Get the env's number for action 0. torso counts actions from 0; an env of ``Discrete(n, start=k)`` from k.

    Raises ``EnvError`` when the space is not Discrete.
    """
    if not isinstance(space, gym.spaces.Discrete):
        raise EnvError(f"the action space must be Discrete, got {space}")
    return int(space.start)


def require_next_step(vector_env: VectorEnv[Any, Any, Any]) -> None:
    """Raise ``EnvError`` unless the vector env resets in ``NEXT_STEP`` mode (see this module's docstring)."""
    mode = (vector_env.metadata or {}).get("autoreset_mode")
    if mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.NEXT_STEP.value):
        got = "none" if mode is None else getattr(mode, "name", mode)
        raise EnvError(
            f"{vector_env} must have the autoreset mode NEXT_STEP, which returns an episode's last observation as any "
            f"other, got {got}; pass autoreset_mode=AutoresetMode.NEXT_STEP, or use make_vector"
        )


def _check_arguments(
    source: EnvSource, num_envs: int, env_kwargs: Mapping[str, Any] | None, max_episode_steps: int | None
) -> None:
    if num_envs < 1:
        raise ConfigError(f"num_envs must be at least 1, got {num_envs}")
    if max_episode_steps is not None and max_episode_steps < 1:
        raise ConfigError(f"max_episode_steps must be at least 1, got {max_episode_steps}")
    if not (isinstance(source, (str, gym.Env)) or callable(source)):
        raise ConfigError(
            f"env_id must be a Gymnasium id, an env class or a function that returns an env, or an env, got {source!r}"
        )
    if isinstance(source, gym.Env):
        if num_envs != 1:
            raise ConfigError(
                f"num_envs must be 1 for {source}, which is one constructed env, got {num_envs}; pass its id, its "
                "class or a function"
            )
        if env_kwargs:
            raise ConfigError(
                f"env_kwargs must be omitted for {source}, which is constructed already, got {dict(env_kwargs)}"
            )


def _checked_seeds(seed: int | Sequence[int], num_envs: int) -> list[int]:
    if isinstance(seed, (int, np.integer)):
        return env_seeds(int(seed), num_envs, 0)
    seeds = [int(each) for each in seed]
    if len(seeds) != num_envs:
        raise ConfigError(f"seed must hold one for each of {num_envs} envs, got {len(seeds)}")
    if any(each < 0 for each in seeds):
        raise ConfigError(f"seeds must not be negative, got {seeds}")
    return seeds


def _make_custom_vector(
    vector_class: Callable[..., Any], name: str, seeds: Sequence[int], kwargs: dict[str, Any]
) -> VectorEnv[Any, Any, Any]:
    try:
        vector_env: VectorEnv[Any, Any, Any] = vector_class(name, seeds, **kwargs)
    except TorsoError:
        raise
    except Exception as error:
        arguments = f" with {kwargs}" if kwargs else ""
        raise EnvError(f"{name} could not be made{arguments}: {type(error).__name__}: {error}") from error
    return vector_env


def _require_same_spaces(envs: Sequence[gym.Env[Any, Any]]) -> None:
    """Raise ``EnvError`` unless all envs of one vector have the same spaces."""
    first = envs[0]
    for index, env in enumerate(envs[1:], start=1):
        if (env.observation_space, env.action_space) != (first.observation_space, first.action_space):
            raise EnvError(
                f"the envs of one vector must have the same spaces: env 0 has {first.observation_space} and "
                f"{first.action_space}, env {index} has {env.observation_space} and {env.action_space}"
            )


def _require_frame(frame: Any) -> None:
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        got = f"{frame.dtype} {list(frame.shape)}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise EnvError(f"the env must render uint8 [H, W, 3], got {got}")
