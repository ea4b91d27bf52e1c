"""Checked env: Gymnasium's protocol, checked at every reset and step of a single env, and the infos that torso reads.

A fault is named where it happens: the env, the method, what was expected, and what came instead.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from torso.envs.vector.masks import ACTION_MASK, checked_mask
from torso.errors import EnvError, TorsoError

_RESULTS = {"reset": ("observation", "info"), "step": ("observation", "reward", "terminated", "truncated", "info")}
_DISCRETE = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


class CheckedEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Wrapper that checks an env's protocol, and reduces its infos to ``action_mask`` and ``life_lost``.

    name: of the env, for messages. index: its place in the vector env.

    Observations of a type that can be cast without loss are cast to the space's; of floats, to fewer digits too.
    An ``action_mask`` is the info's, or else that of a Dict observation (as PettingZoo's), where it remains. None, and
    one that allows nothing at an episode's end, count as missing. Actions have the dtype of the action space.

    Raises ``EnvError`` where the env breaks the protocol, or its own code raises something.
    """

    def __init__(self, env: gym.Env[Any, Any], name: str, index: int = 0) -> None:
        super().__init__(env)
        self._name, self._index = name, index
        self._in_reset, self._in_step = f"{name}: reset()", f"{name}: step()"  # formatted once: steps are many
        self._observations = env.observation_space
        actions = env.action_space
        assert isinstance(actions, spaces.Discrete)  # noqa: S101 - append_env has checked it
        self._num_actions = int(actions.n)
        self._action_type: Any = np.dtype(actions.dtype).type

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; returns (observation, reduced info)."""
        try:
            result = self.env.reset(seed=seed, options=options)
        except TorsoError:
            raise
        except Exception as error:
            raise self._error_of("reset", error) from error
        obs, info = self._unpack("reset", result)
        return checked_observation(self._in_reset, self._observations, obs), self._reduced("reset", obs, info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step; returns (observation, reward, terminated, truncated, reduced info)."""
        try:
            result = self.env.step(action if type(action) is self._action_type else self._action_type(action))
        except TorsoError:
            raise
        except Exception as error:
            raise self._error_of("step", error) from error
        obs, reward, terminated, truncated, info = self._unpack("step", result)
        where = self._in_step
        reward = checked_reward(where, reward)
        terminated = checked_flag(where, "terminated", terminated)
        truncated = checked_flag(where, "truncated", truncated)
        reduced = self._reduced("step", obs, info, ended=terminated or truncated)
        return checked_observation(where, self._observations, obs), reward, terminated, truncated, reduced

    def _unpack(self, method: str, result: Any) -> tuple[Any, ...]:
        """Check the form of a result; where a wrapper may have spoilt it, that of the env within is blamed first."""
        try:
            return unpacked(self._in_step if method == "step" else self._in_reset, _RESULTS[method], result)
        except EnvError:
            self._check_base(method)
            raise

    def _reduced(self, method: str, obs: Any, info: Mapping[str, Any], *, ended: bool = False) -> dict[str, Any]:
        if not info and not isinstance(obs, Mapping):
            return {}
        reduced: dict[str, Any] = {}
        mask = info.get(ACTION_MASK)
        if mask is None and isinstance(obs, Mapping):
            mask = obs.get(ACTION_MASK)
        if mask is not None and (not ended or np.any(mask)):
            is_array = not isinstance(mask, Mapping) or self._index > 0  # `action_masks` names the other kind
            reduced[ACTION_MASK] = checked_mask(mask, self._index, self._num_actions) if is_array else mask
        if "life_lost" in info:
            reduced["life_lost"] = checked_flag(f"{self._name}: {method}()", "info['life_lost']", info["life_lost"])
        return reduced

    def _error_of(self, method: str, error: Exception) -> EnvError:
        """Build the error for an exception of the env's own code, or of a wrapper that the env within does not fit."""
        for env in (self.unwrapped, self.env) if method == "reset" else ():
            if lacking := _lacking_arguments(env):
                return EnvError(
                    f"{self._name}: reset() must take the keyword arguments seed and options, got one without "
                    f"{' and '.join(lacking)}; declare reset(self, *, seed=None, options=None)"
                )
        if isinstance(error, (TypeError, ValueError)):  # as unpacking raises them
            self._check_base(method)
        return EnvError(f"{self._name}: {method}() raised {type(error).__name__}: {error}".rstrip(": "))

    def _check_base(self, method: str) -> None:
        """Raise ``EnvError`` where the env within the wrappers breaks the protocol itself: they cannot say it."""
        base = self.unwrapped
        if base is self.env:
            return
        for each in ("reset", "step") if method == "step" else ("reset",):
            result: Any = None
            with suppress(Exception):  # a fault of another kind is the caller's to report
                result = (base.reset(seed=0),) if each == "reset" else (base.step(base.action_space.sample()),)
            if result is None:
                return
            unpacked(f"{self._name}: {each}()", _RESULTS[each], *result)


def unpacked(where: str, names: tuple[str, ...], result: Any) -> tuple[Any, ...]:
    """Unpack what a method returned; ``EnvError`` for another number of values, or an info that is no dict."""
    if type(result) is tuple and len(result) == len(names) and type(result[-1]) is dict:
        return result
    expected = f"{where} must return ({', '.join(names)})"
    if not isinstance(result, (tuple, list)):
        raise EnvError(f"{expected}, got {described(result)}")
    if len(result) != len(names):
        raise EnvError(f"{expected}, got {len(result)} values ({', '.join(map(described, result))})")
    if not isinstance(result[-1], Mapping):
        raise EnvError(f"{expected} with a dict as info, got {described(result[-1])}")
    return tuple(result)


def checked_reward(where: str, reward: Any) -> float:
    """Check that a reward is one number, of Python, NumPy or an array without axes."""
    if isinstance(reward, float):
        return reward
    with suppress(TypeError, ValueError):
        if np.ndim(reward) == 0 and not isinstance(reward, (str, bytes)):
            return float(reward)
    raise EnvError(f"{where} must return one number as reward, got {described(reward)}")


def checked_flag(where: str, name: str, value: Any) -> bool:
    """Check that a value is True or False (or 1 or 0)."""
    if value is True or value is False:
        return bool(value)
    if isinstance(value, np.bool_):
        return bool(value)
    with suppress(TypeError, ValueError):
        if np.ndim(value) == 0 and value in (0, 1):
            return bool(value)
    raise EnvError(f"{where} must return True or False as {name}, got {described(value)}")


def checked_observation(where: str, space: gym.Space[Any], obs: Any, part: str = "observation") -> Any:
    """Check an observation against its space; returns it in the space's dtype. part: its name in messages."""
    if isinstance(space, spaces.Box):
        if isinstance(obs, np.ndarray) and obs.dtype == space.dtype and obs.shape == space.shape:
            return obs
        with suppress(TypeError, ValueError):
            values = np.asarray(obs)
            if values.shape == space.shape and _keeps_values(values, np.dtype(space.dtype)):
                return values.astype(space.dtype)
        expected = f"{np.dtype(space.dtype).name} {list(space.shape)}"
        raise EnvError(f"{where} must return {expected} as {part}, like its space, got {described(obs)}")
    if isinstance(space, spaces.Dict):
        if not isinstance(obs, Mapping) or not space.spaces.keys() <= obs.keys():
            got = list(obs) if isinstance(obs, Mapping) else described(obs)
            raise EnvError(f"{where} must return a dict with {list(space.spaces)} as {part}, got {got}")
        return {key: checked_observation(where, each, obs[key], f"{part}[{key!r}]") for key, each in space.items()}
    if isinstance(space, spaces.Tuple):
        if not isinstance(obs, (tuple, list)) or len(obs) != len(space.spaces):
            raise EnvError(f"{where} must return a tuple of {len(space.spaces)} as {part}, got {described(obs)}")
        pairs = enumerate(zip(space.spaces, obs, strict=True))
        return tuple(checked_observation(where, each, value, f"{part}[{index}]") for index, (each, value) in pairs)
    if isinstance(space, _DISCRETE):
        with suppress(Exception):  # of spaces that compare what cannot be compared
            if np.asarray(obs).dtype.kind in "biu" and space.contains(obs):
                return obs
        got = repr(obs) if np.ndim(obs) == 0 else f"{described(obs)} {np.asarray(obs).tolist()}"
        raise EnvError(f"{where} must return a value of {space} as {part}, got {got}")
    return obs


def described(value: Any) -> str:
    """Describe a value for a message: an array by dtype and shape, anything else by its type; None is None."""
    if isinstance(value, (np.ndarray, np.generic)):
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else type(value).__name__


def _keeps_values(values: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    """Whether a cast gives the same values, or floats of fewer digits."""
    if not np.can_cast(values.dtype, dtype, "same_kind"):
        return False
    return dtype.kind not in "iu" or bool((values.astype(dtype) == values).all())


def _lacking_arguments(env: gym.Env[Any, Any]) -> list[str]:
    """List the arguments of the protocol that ``reset`` does not take."""
    try:
        parameters = inspect.signature(env.reset).parameters
    except (TypeError, ValueError):  # some written in C have no signature
        return []
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return []
    return [argument for argument in ("seed", "options") if argument not in parameters]
