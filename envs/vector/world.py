"""The env an agent learns in: how copies of it are made, and what the network must know of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, cast

import gymnasium as gym
from gymnasium.vector import VectorEnv

from torso.envs.vector.making import action_start, make_vector
from torso.envs.vector.masks import action_masks
from torso.envs.vector.observations import observation_layout, observation_scale
from torso.envs.vector.single_envs import EnvSource, Wrapper, load_wrapper
from torso.errors import ConfigError
from torso.image_spec import Layout


@dataclass(frozen=True, kw_only=True)
class WorldSpec:
    """The interface of an env: its observations, as arrays of one shape, and its actions, which are counted."""

    shape: tuple[int, ...]
    """Of one observation."""
    dtype: str
    """NumPy's name of the observations' dtype."""
    layout: Layout | None
    """The axes of an image; None where observations are plain vectors."""
    scale: float
    """What a network multiplies observations by."""
    num_actions: int
    """How many actions there are."""
    action_start: int
    """The env's number for action 0."""
    frame_stack: int = 1
    """Planes of an observation, the newest last, that the observations before it hold too."""
    has_action_masks: bool = False
    """Whether infos say which actions are legal."""


@dataclass(frozen=True, kw_only=True)
class World:
    """An env and how each copy of it is made.

    ``env`` is a Gymnasium id, an env class, a function that makes an env, or one constructed env. A constructed env
    cannot be built anew, so at a checkpoint it is only reset, and it cannot be resumed from a run directory; it is
    never closed here. ``env_kwargs`` are plain data, since run and model directories record them.
    """

    env: EnvSource
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    wrappers: Sequence[Wrapper] = ()

    def __post_init__(self) -> None:
        try:
            json.dumps(dict(self.env_kwargs), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"env_kwargs must be plain data ({error}); give a function that makes the env instead"
            ) from error

    @property
    def name(self) -> str:
        """The id, or else the name of the class or function; the same in every process."""
        if isinstance(self.env, str):
            return self.env
        if isinstance(self.env, gym.Env):
            return _id_that_makes(self.env) or _qualified_name(type(self.env.unwrapped))
        return _qualified_name(self.env)

    @property
    def wrapper_names(self) -> list[str]:
        """The names of the wrappers' classes or functions, with ``(...)`` where the name alone does not make one."""
        return [_qualified_name(each) + ("" if hasattr(each, "__qualname__") else "(...)") for each in self.wrappers]

    @property
    def is_constructed(self) -> bool:
        """Whether it is one env object rather than a way to make them."""
        return isinstance(self.env, gym.Env)

    def make(self, seeds: Sequence[int], *, render_mode: str | None = None) -> VectorEnv[Any, Any, Any]:
        """A vector env of one copy a seed, not yet reset."""
        source = _StaysOpen(self.env) if isinstance(self.env, gym.Env) else self.env
        return make_vector(
            source, len(seeds), seeds, env_kwargs=self.env_kwargs, wrappers=self.wrappers, render_mode=render_mode
        )

    @cached_property
    def spec(self) -> WorldSpec:
        """The env's interface, read off a copy of it. Raises EnvError where torso cannot learn in it."""
        probe = self.make([0])
        try:
            shape, dtype, layout = observation_layout(probe.single_observation_space)
            actions = cast(gym.spaces.Discrete, probe.single_action_space)  # or make_vector had refused it
            return WorldSpec(
                shape=shape,
                dtype=dtype,
                layout=layout,
                scale=observation_scale(probe.single_observation_space),
                num_actions=int(actions.n),
                action_start=action_start(actions),
                frame_stack=getattr(probe, "frame_stack", 1),
                has_action_masks=action_masks(probe.reset()[1], 1, int(actions.n)) is not None,
            )
        finally:
            probe.close()


def recorded_world(
    recorded: Mapping[str, Any],
    env: EnvSource,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    wrappers: Sequence[Wrapper] | None = None,
) -> World:
    """An env, as a run or a model recorded it where it is the same one.

    recorded: a run's settings or a model's provenance, whose ``env_id``, ``env_kwargs`` and ``wrappers`` are read.
    env_kwargs, wrappers: in place of the recorded ones.

    Raises:
        EnvError: a recorded wrapper that cannot be loaded.
    """
    world = World(env=env)
    is_recorded = world.name == recorded.get("env_id")
    if wrappers is None:
        wrappers = [load_wrapper(name) for name in recorded.get("wrappers") or ()] if is_recorded else ()
    if env_kwargs is None:
        env_kwargs = recorded.get("env_kwargs") or {} if is_recorded and not world.is_constructed else {}
    return World(env=env, env_kwargs=dict(env_kwargs), wrappers=wrappers)


class _StaysOpen(gym.Wrapper[Any, Any, Any, Any]):
    """A constructed env, which whoever constructed it closes."""

    def close(self) -> None:
        """Do nothing."""


def _id_that_makes(env: gym.Env[Any, Any]) -> str | None:
    """The registered id that makes an env such as this, up to how it is rendered; None where there is none."""
    spec = env.spec
    registered = None if spec is None else gym.registry.get(spec.id)
    if spec is None or registered is None:
        return None
    kwargs = {name: value for name, value in spec.kwargs.items() if name != "render_mode"}
    here = (kwargs, spec.max_episode_steps, spec.additional_wrappers)
    there = (registered.kwargs, registered.max_episode_steps, registered.additional_wrappers)
    return spec.id if here == there else None


def _qualified_name(named: Any) -> str:
    """``module:name`` of a class or function, of what a partial calls, or else of an object's class."""
    while isinstance(named, partial):
        named = named.func
    if not hasattr(named, "__qualname__"):
        named = type(named)
    return f"{named.__module__}:{named.__qualname__}"
