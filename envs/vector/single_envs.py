"""One env as torso uses it: made by its id or a function, wrapped, with Discrete actions and arrays to observe."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import gymnasium as gym

from torso.envs.vector.observations import arrays_only
from torso.envs.vector.registry import make_registered
from torso.errors import EnvError

EnvSource: TypeAlias = str | gym.Env[Any, Any] | Callable[..., gym.Env[Any, Any]]
Wrapper: TypeAlias = Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]


def append_env(
    envs: list[gym.Env[Any, Any]],
    source: EnvSource,
    env_kwargs: dict[str, Any],
    wrappers: Sequence[Wrapper],
    max_episode_steps: int | None,
    render_mode: str | None,
) -> None:
    """Make one env ready for torso and append it; it is in the list as soon as it exists, so it can be closed.

    Raises ``EnvError``; see ``make_vector``.
    """
    name = name_of(source)
    env = _make(source, name, env_kwargs, max_episode_steps, render_mode)
    if not isinstance(env, gym.Env):
        raise EnvError(f"{name} must make a gymnasium.Env, got {type(env).__name__}")
    if any(env.unwrapped is other.unwrapped for other in envs):
        raise EnvError(f"{name} returned the same env twice; each call must make a new one")
    envs.append(env)
    if render_mode is not None and env.render_mode != render_mode:
        raise EnvError(
            f"{name} has the render mode {env.render_mode!r}, expected {render_mode!r}: "
            f"construct it with render_mode={render_mode!r}"
        )
    if max_episode_steps is not None and not isinstance(source, str):
        env = gym.wrappers.TimeLimit(env, max_episode_steps)
    for wrap in wrappers:
        env = wrap(env)
        if not isinstance(env, gym.Env):
            raise EnvError(f"wrapper {name_of(wrap)} must return a gymnasium.Env, got {type(env).__name__}")
        envs[-1] = env
    if not isinstance(env.action_space, gym.spaces.Discrete):
        raise EnvError(
            f"{name} has actions {env.action_space}; torso's agents choose among Discrete actions: "
            "pick another env, or a wrapper that makes its actions Discrete"
        )
    envs[-1] = arrays_only(env, name)


def load_wrapper(name: str) -> Wrapper:
    """The wrapper that ``module:Name`` names, such as ``"gymnasium.wrappers:TimeAwareObservation"``.

    ``Name`` may have dots. Raises ``EnvError`` when the module cannot be imported, has no such name, or what it names
    cannot be called.
    """
    module, colon, path = name.partition(":")
    if not (module and colon and path):
        raise EnvError(f"wrapper {name!r}: expected 'module:Name', such as 'gymnasium.wrappers:TimeAwareObservation'")
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:
        raise EnvError(
            f"wrapper {name!r}: the module {module!r} could not be imported ({type(error).__name__}: {error}): "
            "is it installed, or on the Python path?"
        ) from error
    try:
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as error:  # gymnasium's modules import a wrapper's own dependencies when it is asked for
        raise EnvError(
            f"wrapper {name!r}: {module!r} does not give {path!r} ({type(error).__name__}: {error})"
        ) from error
    if not callable(found):
        raise EnvError(f"wrapper {name!r}: expected a class or function that takes an env, got {type(found).__name__}")
    return cast(Wrapper, found)


def name_of(source: object) -> str:
    """What messages call an env or a wrapper: its id, or else the name of its class or function."""
    if isinstance(source, str):
        return source
    return str(getattr(source, "__name__", source))


def _make(
    source: EnvSource, name: str, env_kwargs: dict[str, Any], max_episode_steps: int | None, render_mode: str | None
) -> Any:
    if isinstance(source, gym.Env):
        return source
    if render_mode is not None and (isinstance(source, str) or _takes(source, "render_mode")):
        env_kwargs = {**env_kwargs, "render_mode": render_mode}
    if isinstance(source, str):
        limit = {} if max_episode_steps is None else {"max_episode_steps": max_episode_steps}
        return make_registered(source, **{**env_kwargs, **limit})
    try:
        return source(**env_kwargs)
    except Exception as error:
        raise EnvError(f"{name} could not be made: {type(error).__name__}: {error}") from error


def _takes(make: Callable[..., Any], argument: str) -> bool:
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):  # some written in C tell nothing
        return False
    return any(each.kind is each.VAR_KEYWORD or each.name == argument for each in parameters)
