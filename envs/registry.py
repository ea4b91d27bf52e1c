"""Gymnasium ids: making the env that an id names, and saying what is wrong when there is none."""

from __future__ import annotations

import difflib
import importlib
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, parse_env_id

from torso.errors import EnvError

# Namespaces whose ids exist once a package is imported: namespace -> (module, what installs it).
_PROVIDERS = {"ALE": ("ale_py", "pip install ale-py")}
_NOTHING_CLOSE = "; if a package registers it, install that and write 'module:Env-v0' with the module that registers it"


def make_registered(env_id: str, *, max_episode_steps: int | None = None, **env_kwargs: Any) -> gym.Env[Any, Any]:
    """Make the env that a Gymnasium id names, without Gymnasium's run-time checker.

    ``module:Env-v0`` imports ``module``, which is expected to register ``Env-v0``. ``ALE/...`` imports ``ale_py``.
    Raises ``EnvError``: unknown id (with close matches), module that cannot be imported, dependency not installed,
    constructor that fails.
    """
    name = _import_module_of(env_id)
    _import_provider_of(name)
    try:
        parse_env_id(name)
    except gym.error.Error as error:
        raise EnvError(f"{env_id!r} is not an environment id such as 'CartPole-v1'{_close_matches(name)}") from error
    try:
        return gym.make(name, max_episode_steps=max_episode_steps, disable_env_checker=True, **env_kwargs)
    except gym.error.DeprecatedEnv as error:
        raise EnvError(f"unknown environment {env_id!r}: {_sentence(error)}") from error
    except gym.error.UnregisteredEnv as error:
        raise EnvError(f"unknown environment {env_id!r}{_close_matches(name) or _NOTHING_CLOSE}") from error
    except gym.error.DependencyNotInstalled as error:
        raise EnvError(f"{env_id} needs a package that is not installed: {_sentence(error)}") from error
    except ModuleNotFoundError as error:
        raise EnvError(
            f"{env_id} needs the module {error.name!r}, which is not installed: "
            f"pip install {(error.name or 'it').partition('.')[0]}, or whichever package provides it"
        ) from error
    except Exception as error:
        given = f" with {env_kwargs}" if env_kwargs else ""
        raise EnvError(f"{env_id} could not be made{given}: {type(error).__name__}: {_sentence(error)}") from error


def _import_module_of(env_id: str) -> str:
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


def _import_provider_of(name: str) -> None:
    namespace = name.partition("/")[0]
    if namespace not in _PROVIDERS or name in gym.registry:
        return
    module, install = _PROVIDERS[namespace]
    if find_spec(module) is None:
        raise EnvError(f"{name} needs the package {module}, which is not installed: {install}")
    gym.register_envs(importlib.import_module(module))


def _close_matches(name: str) -> str:
    """``; did you mean 'A-v0' or 'B-v1'?``, or nothing."""
    latest = {(spec.namespace, spec.name): spec.id for spec in sorted(gym.registry.values(), key=_version)}
    by_lower = {known.lower(): known for known in latest.values()}
    matches = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.7)
    if not matches:
        return ""
    return "; did you mean " + " or ".join(repr(by_lower[match]) for match in matches) + "?"


def _version(spec: EnvSpec) -> int:
    return -1 if spec.version is None else spec.version


def _sentence(error: Exception) -> str:
    return str(error).strip().rstrip(".")
