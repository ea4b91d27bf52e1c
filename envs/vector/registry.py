"""Registry of environment ids: make an env by its Gymnasium id, with close matches for unknown ones.

torso's own ids are registered when ``torso.envs`` is imported (``games/entry_points.py``), the ALE's when one is first
used. A namespace may have its own specs, which take precedence over those that its package registers, and a vector env.
"""

from __future__ import annotations

import difflib
import importlib
import re
import sys
import warnings
from collections.abc import Callable, Container, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, find_highest_version, get_env_id, load_env_creator, parse_env_id

from torso.errors import EnvError, MissingExtraError

# Namespaces whose ids exist once a package is imported: namespace -> (module, what installs it).
_PROVIDERS = {"ALE": ("ale_py", "pip install ale-py")}
_SPECS: dict[str, str] = {}  # ids and namespaces to "module:function" that makes the spec of one env
_VECTORS: dict[str, str] = {}  # ids and namespaces to "module:class" of a vector env
_ADAPTERS: dict[str, str] = {}  # ids and namespaces to "module:function" that adapts single envs' arguments
_EXTRAS = {"Box2D": "box2d", "pygame": "video"}  # the extra of torso that installs a module
_ATARI_ENTRY = "ale_py.env:AtariEnv"
_NO_MATCH_HINT = "; if a package registers it, install that and write 'module:Env-v0' with the module that registers it"


def register_vector(name: str, entry_point: str) -> None:
    """Register a custom vector env for an id or a whole namespace, without a ``gym.Env`` for each copy.

    entry_point: ``"module:class"``; it is called as (id, seeds, *, render_mode, max_episode_steps, **env_kwargs).
    """
    _VECTORS[name] = entry_point


def register_specs(namespace: str, entry_point: str) -> None:
    """Register a function that makes the specs of a namespace's single envs.

    entry_point: ``"module:function"``, from an id to an ``EnvSpec``; it raises ``EnvError`` for an unknown id.
    """
    _SPECS[namespace] = entry_point


def register_adapter(namespace: str, entry_point: str) -> None:
    """Register a function for the arguments that a namespace's vector env takes and its single envs do not.

    entry_point: ``"module:function"``, from (id, arguments) to (arguments for ``gymnasium.make``, wrapper).
    """
    _ADAPTERS[namespace] = entry_point


def vector_class_of(name: str) -> Callable[..., Any] | None:
    """Look up the custom vector env of an id (without its module); None where it has none."""
    return _entry_point(_VECTORS, name)


def make_registered(env_id: str, **env_kwargs: Any) -> gym.Env[Any, Any]:
    """Make the env that a Gymnasium id names, without Gymnasium's run-time checker.

    env_kwargs: as ``gymnasium.make`` takes them, ``render_mode`` and ``max_episode_steps`` among them.
    ``module:Env-v0`` imports ``module``, which must register ``Env-v0``. ``ALE/...`` imports ``ale_py``.
    Raises ``EnvError``: unknown id (with close matches), module that cannot be imported, dependency not installed, a
    render mode that the env does not have, constructor that fails; ``MissingExtraError``: a dependency that an extra of
    torso installs.
    """
    name = import_module_of(env_id)
    _import_provider_of(name)
    try:
        parse_env_id(name)
    except gym.error.Error as error:
        raise EnvError(f"{env_id!r} is not an environment id such as 'CartPole-v1'{_close_matches(name)}") from error
    full_name = _with_version(name)
    spec = gym.registry.get(full_name)
    if name == env_id and _atari_match(name) and (spec is None or spec.entry_point == _ATARI_ENTRY):
        # They are registered where something has imported ale_py, and not otherwise; 'ale_py:Pong-v4' always is.
        raise EnvError(f"unknown environment {env_id!r}{_close_matches(name)}")
    name = full_name
    adapt = _entry_point(_ADAPTERS, name)
    env_kwargs, wrap = (env_kwargs, _unchanged) if adapt is None else adapt(name, env_kwargs)
    own_spec = _entry_point(_SPECS, name)
    name_or_spec = name if own_spec is None else own_spec(name)
    render_mode = env_kwargs.get("render_mode")
    try:
        modes = _render_modes(name_or_spec)
        if render_mode is None or modes is None or render_mode in modes:
            return wrap(gym.make(name_or_spec, disable_env_checker=True, **env_kwargs))
    except gym.error.DeprecatedEnv as error:
        raise EnvError(f"unknown environment {env_id!r}: {_error_text(error)}") from error
    except gym.error.UnregisteredEnv as error:
        raise EnvError(f"unknown environment {env_id!r}{_close_matches(name) or _NO_MATCH_HINT}") from error
    except gym.error.DependencyNotInstalled as error:
        raise missing_extra(env_id, error) or EnvError(
            f"{env_id} needs a package that is not installed: {_error_text(error)}"
        ) from error
    except ModuleNotFoundError as error:
        raise EnvError(
            f"{env_id} needs the module {error.name!r}, which is not installed: "
            f"pip install {(error.name or 'it').partition('.')[0]}, or whichever package provides it"
        ) from error
    except Exception as error:
        arguments = f" with {env_kwargs}" if env_kwargs else ""
        raise EnvError(
            f"{env_id} could not be made{arguments}: {type(error).__name__}: {_error_text(error)}"
        ) from error
    raise EnvError(f"{env_id} cannot be rendered as {render_mode!r}; it has {', '.join(modes) or 'no render modes'}")


def registered_spec(env_id: str) -> EnvSpec:
    """Look up the spec that is registered under an id. Raises ``EnvError``: unknown id (with close matches)."""
    name = import_module_of(env_id)
    _import_provider_of(name)
    try:
        return gym.spec(name)
    except gym.error.Error as error:
        raise EnvError(f"unknown environment {env_id!r}{_close_matches(name) or _NO_MATCH_HINT}") from error


def missing_extra(what: str, error: Exception) -> MissingExtraError | None:
    """Build the error for a package that ``what`` lacks, if an extra of torso installs it; None otherwise."""
    cause = error.__cause__
    extra = _EXTRAS.get(cause.name or "") if isinstance(cause, ImportError) else None
    return None if extra is None else MissingExtraError(what, extra)


def import_module_of(env_id: str) -> str:
    """Import the module of ``module:Env-v0``; returns the id without it."""
    module, colon, name = env_id.partition(":")
    if not colon:
        return env_id
    try:
        importlib.import_module(module)
    except Exception as error:
        raise EnvError(
            f"{env_id!r}: the module {module!r} could not be imported ({type(error).__name__}: {error}): "
            "is it installed, or on the Python path?"
        ) from error
    return name


def require_imported(name: str, where: str, trusted: Container[str] = ()) -> None:
    """Raise ``EnvError`` where a name that is data, ``module:Name``, would import its module.

    where: what records the name, for the message. trusted: modules that the user named, which may be imported.
    """
    module, colon, _ = name.rpartition(":")
    if colon and module not in trusted and sys.modules.get(module) is None:
        raise EnvError(
            f"{where} names {name!r}, whose module {module!r} must be imported already, got one that is not; if you "
            f"trust it, import it first (on the command line: --import {module})"
        )


def _import_provider_of(name: str) -> None:
    namespace = name.partition("/")[0]
    if namespace not in _PROVIDERS or name in gym.registry:
        return
    module, install = _PROVIDERS[namespace]
    if find_spec(module) is None:
        raise EnvError(f"{name} needs the package {module}, which is not installed: {install}")
    gym.register_envs(importlib.import_module(module))


def _entry_point(table: Mapping[str, str], name: str) -> Callable[..., Any] | None:
    """Import the entry point that a table has for an id or its namespace; None where it has none."""
    entry_point = table.get(name) or table.get(name.rpartition("/")[0])
    if entry_point is None:
        return None
    module, _, attribute = entry_point.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found


def _render_modes(name_or_spec: str | EnvSpec) -> list[str] | None:
    """Read the render modes that an env's class declares; None where it declares none."""
    spec = gym.registry.get(name_or_spec) if isinstance(name_or_spec, str) else name_or_spec
    if spec is None or spec.entry_point is None:
        return None
    metadata = getattr(_load_entry_point(spec.entry_point), "metadata", None)
    return list(metadata.get("render_modes", [])) if isinstance(metadata, dict) else None


def _load_entry_point(entry_point: Any) -> Any:
    if callable(entry_point):
        return entry_point
    with warnings.catch_warnings():
        if entry_point.startswith("gymnasium.envs.box2d"):
            warnings.simplefilter("ignore", DeprecationWarning)  # raised as an error it crashes Box2D's import
        return load_env_creator(entry_point)


def _with_version(name: str) -> str:
    """Complete an id by its latest version, as ``gymnasium.make`` does with a warning."""
    namespace, base, version = parse_env_id(name)
    latest = find_highest_version(namespace, base) if version is None and name not in gym.registry else None
    return name if latest is None else get_env_id(namespace, base, latest)


def _unchanged(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    return env


def _atari_match(name: str) -> str | None:
    """Find the ``ALE/`` id of a game that is named as Gym did, such as ``PongNoFrameskip-v4``, or without namespace."""
    named = re.fullmatch(r"([A-Za-z]+?)(-ram)?(NoFrameskip|Deterministic)?(-v\d+)?", name)
    game = None if named is None else _atari_games().get(named.group(1).lower())
    return None if game is None else f"ALE/{game}-v5"


@cache
def _atari_games() -> dict[str, str]:
    """List ale-py's games by their names in lower case. (Importing it would register the ids that Gym had.)"""
    package = find_spec("ale_py")
    roms = Path(((package and package.submodule_search_locations) or ["nowhere"])[0], "roms").glob("*.bin")
    return {game.lower(): game for game in (rom.stem.title().replace("_", "") for rom in roms)}


def _close_matches(name: str) -> str:
    """Format similar ids as ``; did you mean 'A-v0' or 'B-v1'?``; empty where there are none."""
    if atari := _atari_match(name):
        return f"; did you mean {atari!r}?"
    latest = {(spec.namespace, spec.name): spec.id for spec in sorted(gym.registry.values(), key=_version)}
    by_lower = {known.lower(): known for known in latest.values()}
    matches = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.7)
    if not matches:
        return ""
    return "; did you mean " + " or ".join(repr(by_lower[match]) for match in matches) + "?"


def _version(spec: EnvSpec) -> int:
    return -1 if spec.version is None else spec.version


def _error_text(error: Exception) -> str:
    return str(error).strip().rstrip(".")
