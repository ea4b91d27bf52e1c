"""Vector environments: any Gymnasium environment with Discrete actions, in the one form that torso learns from.

The form is Gymnasium's ``SyncVectorEnv`` with ``NEXT_STEP`` autoreset. When an episode ends at step t, step t returns
its true last observation; the action of step t + 1 is ignored by that env, which resets instead and returns the new
episode's first observation with reward 0 and both flags False (the *reset row*). Nothing hides in ``info``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from torso.envs.observations import arrays_only
from torso.envs.registry import make_registered
from torso.errors import ConfigError, EnvError

EnvSource: TypeAlias = str | gym.Env[Any, Any] | Callable[..., gym.Env[Any, Any]]
Wrapper: TypeAlias = Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]


class SeededVectorEnv(SyncVectorEnv):
    """A ``SyncVectorEnv`` whose first ``reset()`` begins from the seeds it was built with.

    ``reset(seed=...)`` overrides them, as everywhere in Gymnasium; a later ``reset()`` without a seed goes on with the
    envs' own generators. The observations that ``reset`` and ``step`` return are copies, to keep or to write to.
    """

    def __init__(self, env_fns: Sequence[Callable[[], gym.Env[Any, Any]]], seeds: Sequence[int]) -> None:
        super().__init__(env_fns, copy=True, autoreset_mode=AutoresetMode.NEXT_STEP)
        self.seeds: tuple[int, ...] = tuple(seeds)
        self._seeds_are_due = True

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in every env; returns (observations, infos)."""
        if seed is None and self._seeds_are_due:
            seed = list(self.seeds)
        result: tuple[Any, dict[str, Any]] = super().reset(seed=seed, options=options)
        self._seeds_are_due = False
        return result


def make_vector(
    env_id: EnvSource,
    num_envs: int = 1,
    seed: int | Sequence[int] = 0,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    wrappers: Sequence[Wrapper] = (),
    max_episode_steps: int | None = None,
) -> SeededVectorEnv:
    """Make ``num_envs`` copies of an environment, stepped together, not yet reset.

    env_id: a Gymnasium id (``"CartPole-v1"``, or ``"module:Env-v0"``, which imports the module first); an env class, or
        any function that returns a new env at each call; or, for ``num_envs=1``, a constructed env, which ``close()``
        closes.
    seed: an int, from which ``env_seeds(seed, num_envs, 0)`` are drawn, or one seed for each env. The first ``reset()``
        uses them, so it equals ``reset(seed=[...])`` with the same list.
    env_kwargs: given to the env's constructor.
    wrappers: applied to each env in order, the first innermost, after the time limit.
    max_episode_steps: truncates episodes. For an id it replaces the registered limit; for anything else it is added.

    Observations that are not arrays (Discrete, MultiDiscrete, MultiBinary, Dict, Tuple, and Boxes without a dimension)
    are flattened to a vector by Gymnasium's ``FlattenObservation``; Discrete values become one-hot.

    Raises ``EnvError`` for an env that is unknown, cannot be made, acts in anything but a Discrete space, or observes
    what cannot become an array; ``ConfigError`` for arguments that cannot work. No env is left open then, other than a
    constructed one that was passed in.
    """
    _check_arguments(env_id, num_envs, env_kwargs, max_episode_steps)
    seeds = _checked_seeds(seed, num_envs)
    envs: list[gym.Env[Any, Any]] = []
    try:
        for _ in range(num_envs):
            _append_env(envs, env_id, dict(env_kwargs or {}), wrappers, max_episode_steps)
        _require_alike(envs)
        return SeededVectorEnv([lambda made=made: made for made in envs], seeds)  # type: ignore[misc]
    except BaseException:
        if not isinstance(env_id, gym.Env):
            for made in envs:
                made.close()
        raise


def env_seeds(seed: int, num_envs: int, step: int) -> list[int]:
    """Seeds for envs that begin anew at ``step``: one for each env, a function of (seed, env index, step) alone.

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
    """The env's number for action 0. torso counts actions from 0; an env of ``Discrete(n, start=k)`` from k.

    Raises ``EnvError`` when the space is not Discrete.
    """
    if not isinstance(space, gym.spaces.Discrete):
        raise EnvError(f"expected a Discrete action space, got {space}")
    return int(space.start)


def require_next_step(vector_env: VectorEnv[Any, Any, Any]) -> None:
    """Raise ``EnvError`` unless the vector env resets in ``NEXT_STEP`` mode (see this module's docstring)."""
    mode = (vector_env.metadata or {}).get("autoreset_mode")
    if mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.NEXT_STEP.value):
        came = "none" if mode is None else getattr(mode, "name", mode)
        raise EnvError(
            f"{vector_env} declares the autoreset mode {came}; torso needs NEXT_STEP, which returns an "
            "episode's last observation as any other: pass autoreset_mode=AutoresetMode.NEXT_STEP, or use make_vector"
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
            f"env_id must be a Gymnasium id, an env class or a function that returns an env, or an env; got {source!r}"
        )
    if isinstance(source, gym.Env):
        if num_envs != 1:
            raise ConfigError(
                f"num_envs is {num_envs}, but {source} is one constructed env: pass its id, its class or a function"
            )
        if env_kwargs:
            raise ConfigError(
                f"env_kwargs {dict(env_kwargs)} cannot be given to {source}, which is constructed already"
            )


def _checked_seeds(seed: int | Sequence[int], num_envs: int) -> list[int]:
    if isinstance(seed, (int, np.integer)):
        return env_seeds(int(seed), num_envs, 0)
    seeds = [int(each) for each in seed]
    if len(seeds) != num_envs:
        raise ConfigError(f"expected one seed for each of {num_envs} envs, got {len(seeds)}")
    if any(each < 0 for each in seeds):
        raise ConfigError(f"seeds must not be negative, got {seeds}")
    return seeds


def _append_env(
    envs: list[gym.Env[Any, Any]],
    source: EnvSource,
    env_kwargs: dict[str, Any],
    wrappers: Sequence[Wrapper],
    max_episode_steps: int | None,
) -> None:
    """Make one env ready for torso and append it; it is in the list as soon as it exists, so it can be closed."""
    name = _name(source)
    if isinstance(source, str):
        env = make_registered(source, max_episode_steps=max_episode_steps, **env_kwargs)
    else:
        env = source if isinstance(source, gym.Env) else _call(source, name, env_kwargs)
    if not isinstance(env, gym.Env):
        raise EnvError(f"{name} must make a gymnasium.Env, got {type(env).__name__}")
    if any(env.unwrapped is other.unwrapped for other in envs):
        raise EnvError(f"{name} returned the same env twice; each call must make a new one")
    envs.append(env)
    if max_episode_steps is not None and not isinstance(source, str):
        env = gym.wrappers.TimeLimit(env, max_episode_steps)
    for wrap in wrappers:
        env = wrap(env)
        if not isinstance(env, gym.Env):
            raise EnvError(f"wrapper {_name(wrap)} must return a gymnasium.Env, got {type(env).__name__}")
        envs[-1] = env
    if not isinstance(env.action_space, gym.spaces.Discrete):
        raise EnvError(
            f"{name} has actions {env.action_space}; torso's agents choose among Discrete actions: "
            "pick another env, or a wrapper that makes its actions Discrete"
        )
    envs[-1] = arrays_only(env, name)


def _call(make: Callable[..., Any], name: str, env_kwargs: dict[str, Any]) -> Any:
    try:
        return make(**env_kwargs)
    except Exception as error:
        raise EnvError(f"{name} could not be made: {type(error).__name__}: {error}") from error


def _require_alike(envs: Sequence[gym.Env[Any, Any]]) -> None:
    """Envs of one vector must agree in their spaces."""
    first = envs[0]
    for index, env in enumerate(envs[1:], start=1):
        if (env.observation_space, env.action_space) != (first.observation_space, first.action_space):
            raise EnvError(
                f"the envs of one vector must have the same spaces: env 0 has {first.observation_space} and "
                f"{first.action_space}, env {index} has {env.observation_space} and {env.action_space}"
            )


def _name(source: object) -> str:
    if isinstance(source, str):
        return source
    return str(getattr(source, "__name__", source))
