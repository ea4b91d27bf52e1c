"""The env an agent learns in: how copies of it are made, and what the network must know of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, cast

import gymnasium as gym
from gymnasium.vector import VectorEnv

from torso.envs import (
    EnvSource,
    Wrapper,
    action_masks,
    action_start,
    make_vector,
    observation_layout,
    observation_scale,
)
from torso.errors import ConfigError

if TYPE_CHECKING:
    from torso.nets import InputSpec


@dataclass(frozen=True)
class Door:
    """What passes between an env and an agent: observations in, actions out."""

    network_input: InputSpec
    num_actions: int
    action_start: int  # the env's number for action 0
    frame_stack: int = 1  # planes of an observation, the newest last, that its rows before hold too
    has_action_masks: bool = False  # whether infos say which actions are legal


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
    def door(self) -> Door:
        """Shapes, dtypes and counts, read off a copy of the env. Raises EnvError where torso cannot learn in it."""
        from torso.nets import InputSpec  # here, since whoever only plays needs no torch

        probe = self.make([0])
        try:
            shape, dtype, layout = observation_layout(probe.single_observation_space)
            actions = cast(gym.spaces.Discrete, probe.single_action_space)  # or make_vector had refused it
            scale = observation_scale(probe.single_observation_space)
            network_input = InputSpec(shape=shape, dtype=dtype, layout=layout, scale=scale)
            return Door(
                network_input,
                int(actions.n),
                action_start(actions),
                frame_stack=getattr(probe, "frame_stack", 1),
                has_action_masks=action_masks(probe.reset()[1], 1, int(actions.n)) is not None,
            )
        finally:
            probe.close()


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
