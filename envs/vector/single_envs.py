"""Make a single env as torso uses it: by id or function, wrapped, with Discrete actions and array observations."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Container, Sequence
from functools import partial
from typing import Any, TypeAlias, cast

import gymnasium as gym

from torso.envs.vector.checked_env import CheckedEnv
from torso.envs.vector.observations import with_array_observations
from torso.envs.vector.registry import make_registered, require_imported
from torso.envs.vector.running_statistics import require_same_in_all_copies
from torso.errors import EnvError, TorsoError

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
    """Make one env for torso and append it; it is in the list as soon as it exists, so that callers can close it.

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
            f"{name} must have the render mode {render_mode!r}, got {env.render_mode!r}; "
            f"construct it with render_mode={render_mode!r}"
        )
    if max_episode_steps is not None and not isinstance(source, str):
        env = gym.wrappers.TimeLimit(env, max_episode_steps)
    for wrap in wrappers:
        try:
            env = wrap(env)
        except TorsoError:
            raise
        except Exception as error:
            raise EnvError(
                f"wrapper {name_of(wrap)} could not be applied to {name}: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(env, gym.Env):
            raise EnvError(f"wrapper {name_of(wrap)} must return a gymnasium.Env, got {type(env).__name__}")
        envs[-1] = env
    for space in ("action_space", "observation_space"):
        if not isinstance(getattr(env, space, None), gym.Space):
            raise EnvError(
                f"{name} must have a space as {space}, got {getattr(env, space, None)!r}; set it in __init__"
            )
    if not isinstance(env.action_space, gym.spaces.Discrete):
        raise EnvError(
            f"{name} must have Discrete actions, got {env.action_space}; choose another env, or a wrapper that makes "
            "its actions Discrete"
        )
    require_same_in_all_copies(env, name)
    envs[-1] = with_array_observations(CheckedEnv(env, name, len(envs) - 1), name)


def load_wrapper(name: str) -> Wrapper:
    """Import the wrapper that ``module:Name`` names, such as ``"gymnasium.wrappers:TimeAwareObservation"``.

    ``Name`` may have dots. Raises ``EnvError`` when the module cannot be imported, has no such name, or what it names
    cannot be called.
    """
    module, colon, path = name.partition(":")
    if not (module and colon and path):
        raise EnvError(
            f"wrapper must be 'module:Name', such as 'gymnasium.wrappers:TimeAwareObservation', got {name!r}"
        )
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
    except Exception as error:  # gymnasium's modules import a wrapper's dependencies on attribute access
        raise EnvError(
            f"wrapper {name!r}: {module!r} does not give {path!r} ({type(error).__name__}: {error})"
        ) from error
    if not callable(found):
        raise EnvError(f"wrapper {name!r} must be a class or function that takes an env, got {type(found).__name__}")
    return cast(Wrapper, found)


def load_recorded_wrapper(name: str, where: str, trusted: Container[str] = ()) -> Wrapper:
    """Find the wrapper that data names: a class derived from ``gymnasium.Wrapper``, in a module that is imported.

    where: what records the name, for the message. trusted: modules that the user named; they may be imported, and their
    functions are taken too. Raises ``EnvError`` for a name of anything else, and as ``load_wrapper`` does.
    """
    require_imported(name, where, trusted)
    found = load_wrapper(name)
    module = name.partition(":")[0]
    if module in trusted or (isinstance(found, type) and issubclass(found, gym.Wrapper)):
        return found
    raise EnvError(
        f"{where} names the wrapper {name!r}, which must be a class derived from gymnasium.Wrapper, got "
        f"{type(found).__name__}; if you trust it, give it yourself (on the command line: --import {module})"
    )


def name_of(source: object) -> str:
    """Name of an env or a wrapper in messages: its id, or else the name of its class or function."""
    if isinstance(source, str):
        return source
    if isinstance(source, gym.Env):
        spec = source.unwrapped.spec
        return type(source.unwrapped).__name__ if spec is None else spec.id
    while isinstance(source, partial):
        source = source.func
    return str(getattr(source, "__name__", source))


def _make(
    source: EnvSource, name: str, env_kwargs: dict[str, Any], max_episode_steps: int | None, render_mode: str | None
) -> Any:
    if isinstance(source, gym.Env):
        return source
    if render_mode is not None and (isinstance(source, str) or _accepts_argument(source, "render_mode")):
        env_kwargs = {**env_kwargs, "render_mode": render_mode}
    if isinstance(source, str):
        limit = {} if max_episode_steps is None else {"max_episode_steps": max_episode_steps}
        return make_registered(source, **{**env_kwargs, **limit})
    try:
        return source(**env_kwargs)
    except Exception as error:
        raise EnvError(f"{name} could not be made: {type(error).__name__}: {error}") from error


def _accepts_argument(make: Callable[..., Any], argument: str) -> bool:
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):  # some written in C have no signature
        return False
    return any(each.kind is each.VAR_KEYWORD or each.name == argument for each in parameters)
