"""The env that a model is to act in, from what was given and what the model says of itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torso.agents.world import World
from torso.envs.registry import make_registered
from torso.errors import ConfigError, EnvError


def read_env_kwargs(text: str) -> dict[str, Any]:
    """The JSON object that ``--env-kwargs`` is."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--env-kwargs {text!r} is not JSON ({error}); expected an object such as '{{}}'") from error
    if not isinstance(value, dict):
        raise ConfigError(f"--env-kwargs {text} is not a JSON object; expected one such as '{{\"size\": 3}}'")
    return value


def choose_env(env: str | None, env_kwargs: str | None, provenance: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """An env's id and constructor's arguments: as given, else those that the model was trained in."""
    trained_in = provenance.get("env_id")
    env_id = env or trained_in
    if not isinstance(env_id, str):
        raise ConfigError("the model does not say which env it was trained in; expected one with --env")
    if env_kwargs is not None:
        return env_id, read_env_kwargs(env_kwargs)
    return env_id, dict(provenance.get("env_kwargs") or {}) if env_id == trained_in else {}


@contextmanager
def stage(env_id: str, env_kwargs: Mapping[str, Any], *, render: bool) -> Iterator[World]:
    """One env to play in, episode after episode, in a window of its own where ``render`` asks for it.

    Raises EnvError where it has no window to show, or none can be opened here.
    """
    env = make_registered(env_id, **env_kwargs)
    try:
        if not render:
            yield World(env=env)
            return
        modes = env.metadata.get("render_modes") or []
        if "human" not in modes:
            known = ", ".join(map(str, modes)) or "nothing"
            raise EnvError(f"{env_id} cannot be shown in a window (it renders {known}); leave --render out")
        env.close()
        env = make_registered(env_id, **{**env_kwargs, "render_mode": "human"})
        with _no_window_is_an_env_error(env_id):
            yield World(env=env)
    finally:
        env.close()


@contextmanager
def _no_window_is_an_env_error(env_id: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("gymnasium", "pygame"):  # no pygame, or no display for it
            raise
        raise EnvError(f"{env_id} cannot be shown in a window: {error}") from error
