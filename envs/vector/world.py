"""The environment an agent learns in: make copies of it, and read its interface for the network."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from torso.envs.vector.checked_env import CheckedEnv
from torso.envs.vector.making import SeededVectorEnv, action_start, has_raw_frames, make_vector
from torso.envs.vector.masks import action_masks
from torso.envs.vector.observations import flattened_space, observation_layout, observation_range, observation_scale
from torso.envs.vector.one_hot import is_binary, one_hot_places
from torso.envs.vector.registry import require_imported
from torso.envs.vector.single_envs import EnvSource, Wrapper, load_recorded_wrapper
from torso.errors import ConfigError, EnvError
from torso.image_layout import Range
from torso.image_spec import Layout
from torso.plain import plain
from torso.space_spec import SpaceSpec


@dataclass(frozen=True, kw_only=True)
class WorldSpec:
    """Interface of an env: shape, dtype and scale of its observations, and its number of actions."""

    shape: tuple[int, ...]
    """Shape of one observation."""
    dtype: str
    """NumPy's name of the observations' dtype."""
    layout: Layout | None
    """The axes of an image, as inferred; None where observations are plain vectors."""
    scale: float
    """Factor by which a network scales observations that are read so."""
    num_actions: int
    """Number of actions."""
    action_start: int
    """The env's number for action 0."""
    values: Range | None = None
    """Lowest and highest number of an observation; None where the space has no such bounds."""
    frame_stack: int = 1
    """Number of stacked frames in an observation, the newest last, the others shared with those before it."""
    has_action_masks: bool = False
    """Whether infos hold action masks, at the first reset or the first step."""
    is_one_hot: bool = False
    """Whether observations are whole numbers of 0 or 1, as flattened Discrete spaces are."""
    one_hot_places: tuple[tuple[int, int], ...] = ()
    """First column and number of columns of each one-hot place of a flattened observation, ascending."""
    space: SpaceSpec | None = None
    """The env's own observation space, where its observations are flattened."""


@dataclass(frozen=True, kw_only=True)
class World:
    """An environment and the arguments with which each copy of it is made.

    A constructed env cannot be built again, so at a checkpoint it is only reset, and it cannot be resumed from a run
    directory; it is never closed here.
    """

    env: EnvSource
    """A Gymnasium id, an env class, a function that makes an env, or one constructed env."""
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the env; plain data, since run and model directories record them."""
    wrappers: Sequence[Wrapper] = ()
    """Wrappers of each env, the first innermost."""

    def __post_init__(self) -> None:
        try:
            plain(dict(self.env_kwargs), "env_kwargs")  # json.dumps alone would take keys that are numbers
            json.dumps(dict(self.env_kwargs), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"env_kwargs must be plain data, got {self.env_kwargs!r} ({error}); pass a function that makes the "
                "env instead"
            ) from error
        object.__setattr__(self, "env_kwargs", _completed(self.name, self.env_kwargs))

    @property
    def name(self) -> str:
        """Name of the env: the id, or else the class or function; the same in every process."""
        if isinstance(self.env, str):
            return self.env
        if isinstance(self.env, gym.Env):
            return _registered_id(self.env) or _qualified_name(type(self.env.unwrapped))
        return _qualified_name(self.env)

    @property
    def wrapper_names(self) -> list[str]:
        """Names of the wrappers' classes or functions, with ``(...)`` where the name alone does not make one."""
        return [_qualified_name(each) + ("" if hasattr(each, "__qualname__") else "(...)") for each in self.wrappers]

    @property
    def is_constructed(self) -> bool:
        """Whether ``env`` is one constructed env rather than a factory of envs."""
        return isinstance(self.env, gym.Env)

    def make(self, seeds: Sequence[int], *, render_mode: str | None = None) -> VectorEnv[Any, Any, Any]:
        """Make a vector env with one copy for each seed, not yet reset."""
        source = _IgnoreClose(self.env) if isinstance(self.env, gym.Env) else self.env
        return make_vector(
            source, len(seeds), seeds, env_kwargs=self.env_kwargs, wrappers=self.wrappers, render_mode=render_mode
        )

    @cached_property
    def spec(self) -> WorldSpec:
        """Interface of the env, read from a temporary copy, which is reset and stepped once.

        Raises EnvError where torso cannot learn in it, or where it breaks Gymnasium's protocol.
        """
        probe = self.make([0])
        try:
            shape, dtype, layout = observation_layout(probe.single_observation_space)
            actions = cast(gym.spaces.Discrete, probe.single_action_space)  # make_vector has checked it
            num_actions, start = int(actions.n), action_start(actions)
            mask = _probed_mask(probe, num_actions, start)
            own_space = _space_before_flattening(probe)
            return WorldSpec(
                shape=shape,
                dtype=dtype,
                layout=layout,
                scale=observation_scale(probe.single_observation_space),
                num_actions=num_actions,
                action_start=start,
                values=observation_range(probe.single_observation_space),
                frame_stack=getattr(probe, "frame_stack", 1),
                has_action_masks=mask is not None,
                is_one_hot=own_space is not None and is_binary(own_space),
                one_hot_places=() if own_space is None else one_hot_places(own_space),
                space=flattened_space(probe),
            )
        finally:
            probe.close()


def recorded_world(
    recorded: Mapping[str, Any],
    env: EnvSource,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    wrappers: Sequence[Wrapper] | None = None,
    where: str = "the model",
    trusted: Container[str] = (),
) -> World:
    """Rebuild an env with the arguments that a run or a model recorded, where it is the same env.

    What is recorded is data: it imports no module, and calls nothing but classes derived from ``gymnasium.Wrapper``.

    recorded: a run's settings or a model's provenance, whose ``env_id``, ``env_kwargs`` and ``wrappers`` are read.
    env: the user's, whose name may import its module, or `recorded_env`.
    env_kwargs, wrappers: in place of the recorded ones.
    where: what records them, for messages.
    trusted: modules that the user named, which the record may name too.

    Raises:
        EnvError: a recorded wrapper that is none, or whose module is not imported; records of other types.
    """
    world = World(env=env)
    is_recorded = _is_same_env(world.name, recorded.get("env_id"))
    if wrappers is None:
        wrappers = _load_recorded_wrappers(recorded, where, trusted) if is_recorded else ()
    if env_kwargs is None:
        env_kwargs = recorded_env_kwargs(recorded) if is_recorded and not world.is_constructed else {}
    return World(env=env, env_kwargs=dict(env_kwargs), wrappers=wrappers)


def recorded_env(recorded: Mapping[str, Any], where: str, trusted: Container[str] = ()) -> str:
    """Return the env's name that a run or a model recorded; EnvError where it would import a module."""
    env_id = recorded.get("env_id")
    if not isinstance(env_id, str):
        raise EnvError(f"{where} must name the env of its training, got {env_id!r}")
    require_imported(env_id, where, trusted)
    return env_id


def _load_recorded_wrappers(recorded: Mapping[str, Any], where: str, trusted: Container[str]) -> list[Wrapper]:
    names = recorded.get("wrappers") or ()
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise EnvError(f"{where} must name its wrappers in a list, got {names!r}")
    return [load_recorded_wrapper(name, where, trusted) for name in names]


def _is_same_env(name: str, recorded: object) -> bool:
    """Check whether two names are of one env; a server leaves out the module that registers an id."""
    if not isinstance(recorded, str) or (":" in name and ":" in recorded):
        return name == recorded
    return name.rpartition(":")[2] == recorded.rpartition(":")[2]


def recorded_env_kwargs(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Read the env's arguments that a run or a model recorded, in their meaning of today.

    Before ``machado2018`` had all 18 actions, it was what the protocol ``v5`` is; since then it is recorded with
    ``full_action_space`` (`World` completes it).
    """
    env_kwargs = recorded.get("env_kwargs") or {}
    if not isinstance(env_kwargs, Mapping):
        raise EnvError(f"the recorded env_kwargs must be arguments by name, got {env_kwargs!r}")
    env_kwargs = dict(env_kwargs)
    if _completed(str(recorded.get("env_id")), env_kwargs) != env_kwargs:
        env_kwargs["protocol"] = "v5"
    return env_kwargs


def _completed(name: str, env_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Complete the arguments of an Atari game by those whose meaning has changed, so that they are recorded."""
    is_changed = has_raw_frames(name) and env_kwargs.get("protocol") == "machado2018"
    return {
        **env_kwargs,
        **({"full_action_space": True} if is_changed and "full_action_space" not in env_kwargs else {}),
    }


class _IgnoreClose(gym.Wrapper[Any, Any, Any, Any]):
    """Wrapper of a constructed env, which its owner closes."""

    def close(self) -> None:
        """Do nothing."""


def _probed_mask(probe: VectorEnv[Any, Any, Any], num_actions: int, start: int) -> NDArray[np.bool_] | None:
    """Reset and step one env, which checks its protocol; returns a mask that came with either, None where none did."""
    mask = action_masks(probe.reset()[1], 1, num_actions)
    first_legal = start + (0 if mask is None else int(mask.argmax()))
    try:
        infos = probe.step(np.array([first_legal]))[-1]
    except EnvError as error:
        is_inherited = isinstance(probe, SeededVectorEnv) and type(probe.envs[0].unwrapped).step is gym.Env.step
        if is_inherited and isinstance(error.__cause__, NotImplementedError):
            return mask  # it is not written yet
        raise
    return action_masks(infos, 1, num_actions) if mask is None else mask


def _space_before_flattening(probe: VectorEnv[Any, Any, Any]) -> gym.Space[Any] | None:
    """Return the space from which torso, or the outermost wrapper, flattens an env's observations; None elsewhere."""
    env = probe.envs[0] if isinstance(probe, SeededVectorEnv) else None
    env = env.env if isinstance(env, CheckedEnv) else env
    return env.env.observation_space if isinstance(env, gym.wrappers.FlattenObservation) else None


def _registered_id(env: gym.Env[Any, Any]) -> str | None:
    """Find the registered id that makes an equal env, apart from its render mode; None where there is none."""
    spec = env.spec
    registered = None if spec is None else gym.registry.get(spec.id)
    if spec is None or registered is None:
        return None
    kwargs = {name: value for name, value in spec.kwargs.items() if name != "render_mode"}
    own = (kwargs, spec.max_episode_steps, spec.additional_wrappers)
    defaults = (registered.kwargs, registered.max_episode_steps, registered.additional_wrappers)
    return spec.id if own == defaults else None


def _qualified_name(named: Any) -> str:
    """Format ``module:name`` of a class or function, of a partial's function, or else of an object's class."""
    while isinstance(named, partial):
        named = named.func
    if not hasattr(named, "__qualname__"):
        named = type(named)
    return f"{named.__module__}:{named.__qualname__}"
