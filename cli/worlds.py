"""Select the environment that a model acts in, from command-line options and the model's provenance."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torso.cli.imports import import_recorded, typed_modules
from torso.envs import SeededVectorEnv, has_raw_frames
from torso.envs.vector.registry import make_registered
from torso.envs.vector.world import World, recorded_env, recorded_world
from torso.errors import ConfigError, EnvError


def read_env_kwargs(text: str) -> dict[str, Any]:
    """Parse ``--env-kwargs``, a JSON object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--env-kwargs must be a JSON object such as '{{}}', got {text!r} ({error})") from error
    if not isinstance(value, dict):
        raise ConfigError(f"--env-kwargs must be a JSON object such as '{{\"size\": 3}}', got {text}")
    return value


def choose_world(
    env: str | None, env_kwargs: str | None, provenance: Mapping[str, Any], *, is_served: bool = False
) -> World:
    """Return the env, its constructor's arguments and wrappers: those of the options, else those of the training.

    is_served: whether the provenance comes from a server, which has no module imported.
    """
    env_id = env or provenance.get("env_id")
    where = "the server" if is_served else "the model"
    if not isinstance(env_id, str):
        raise ConfigError("the model does not record the env it was trained in; name one with --env")
    if not is_served:
        wrappers = map(str, provenance.get("wrappers") or ()) if env in (None, provenance.get("env_id")) else ()
        import_recorded([*([env_id] if env is None else []), *wrappers], where)
    return recorded_world(
        provenance,
        env or recorded_env(provenance, where, typed_modules()),
        env_kwargs=None if env_kwargs is None else read_env_kwargs(env_kwargs),
        where=where,
        trusted=typed_modules(),
    )


def with_raw_frames(world: World) -> World | None:
    """Return the same Atari game with raw frames as observations; None for other envs."""
    if not has_raw_frames(world.env, world.wrappers):
        return None
    return World(env=world.env, env_kwargs={**world.env_kwargs, "raw_frames": True})


@contextmanager
def rendered_in_window(world: World) -> Iterator[World]:
    """Yield the world with one env that renders in a window, kept open over all episodes.

    Raises EnvError where the env cannot render in a window, or no window can be opened here.
    """
    probe = world.make([0])
    modes, is_one_env = (probe.metadata or {}).get("render_modes") or [], isinstance(probe, SeededVectorEnv)
    probe.close()
    if "human" not in modes or not is_one_env:
        known = ", ".join(map(str, modes)) or "nothing"
        advice = "give --video FILE.mp4 instead" if "rgb_array" in modes else "omit --render"
        raise EnvError(f"{world.name} cannot be shown in a window (it renders {known}); {advice}")
    env = make_registered(world.name, **{**world.env_kwargs, "render_mode": "human"})
    try:
        with _window_errors_as_env_errors(world.name):
            yield World(env=env, wrappers=world.wrappers)
    finally:
        env.close()


def format_score(score: Mapping[str, Any], episodes: str = "episodes") -> str:
    """Format the figures of an evaluation (`Evaluation.to_json`) as text."""
    text = (
        f"mean return {score['mean_return']:,.1f} over {score['episodes']} {episodes} (standard deviation "
        f"{score['std_return']:,.1f}, from {score['min_return']:,.1f} to {score['max_return']:,.1f})"
    )
    if score["num_cut"]:
        text += f"; {score['num_cut']} of them were truncated at the limit of steps"
    if "human_normalized_score" in score:
        text += f"; human-normalised score {score['human_normalized_score']:.2f} (a random agent has 0, a human 1)"
    if "human_normalized_score_note" in score:
        text += f", {score['human_normalized_score_note']}"
    return text


@contextmanager
def _window_errors_as_env_errors(env_id: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        cause = error.__cause__ if isinstance(error, EnvError) else error
        if type(cause).__module__.partition(".")[0] not in ("gymnasium", "pygame"):  # no pygame, or no display for it
            raise
        raise EnvError(f"{env_id} cannot be shown in a window: {cause}") from error
