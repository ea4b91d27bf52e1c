"""Training runs: the workflow of ``torso train`` in a run directory, validated before a file is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torso.agents.acting.videos import frames_per_second
from torso.agents.runs.callbacks import Callback, Hooks
from torso.agents.runs.checkpoints import CheckpointStore
from torso.agents.runs.events import TrainingEvent
from torso.agents.runs.run_directory import RunDirectory
from torso.agents.training.driver import Training, resolve_training
from torso.agents.training.session import build_network_for
from torso.agents.value_based.families import config_class
from torso.agents.value_based.training_config import TrainingConfig
from torso.envs.vector.world import World, recorded_env_kwargs
from torso.errors import ConfigError
from torso.image_layout import LEGACY
from torso.nets import Network, read_source

_BEFORE = {"layout": LEGACY}  # how runs went on before they recorded it


def open_run(
    world: World,
    config: TrainingConfig,
    *,
    total_steps: int,
    seed: int,
    out: str | os.PathLike[str],
    resume: bool,
    video_period: int = 0,
    initial: Network | None = None,
) -> RunDirectory:
    """Validate what surrounds a training, then create or open its run directory and lock it.

    Raises as `train_run` does; the training itself is valid where `build_network_for` has built its network.
    ``initial`` is the network with the initial weights, where they do not follow from the seed.
    """
    if total_steps < 1:
        raise ConfigError(f"total_steps must be at least 1, got {total_steps}")
    if world.is_constructed:
        raise ConfigError(
            f"the env of a run directory must be one that can be built anew, got the constructed env {world.name}; "
            "give its id, its class or a function that makes it"
        )
    if video_period < 0:
        raise ConfigError(f"video_period must be a number of steps, or 0 for no videos; got {video_period}")
    if video_period and config.evaluation_envs == 0:
        raise ConfigError(
            f"video_period must be 0 with evaluation_envs=0, since a second env would be filmed in the training, got "
            f"{video_period}; record the trained agent with torso play --video"
        )
    if video_period:
        frames_per_second(world)
    if resume:
        _require_progress(Path(out), total_steps)
    is_new = not (Path(out) / "config.json").is_file()
    if is_new:  # a run goes on with what it began with
        config.require_used_by_algorithm()
    settings = {
        "env_id": world.name,
        "env_kwargs": dict(world.env_kwargs),
        "wrappers": world.wrapper_names,
        "total_steps": total_steps,
        "video_period": video_period,
        **asdict(config),
    }
    if config.init_torso is not None and initial is None:  # so that a resume rejects other weights
        settings["init_torso_sha256"] = read_source(config.init_torso).weights_sha256
    return RunDirectory.prepare(
        out,
        kind="train",
        settings=settings,
        resolved=resolve_training(world, config, initial) if is_new else {},
        seed=seed,
        resume=resume,
        extendable=("total_steps", "stop_return", "video_period"),
        upgrade=upgraded_settings,
    )


def config_of(settings: Mapping[str, Any]) -> TrainingConfig:
    """Read the configuration of a training run from its recorded settings."""
    of = config_class(settings.get("algorithm"))
    known = {name: value for name, value in settings.items() if name in of.__dataclass_fields__}
    return of.from_recorded({**_BEFORE, **known})


def upgraded_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Bring a run's recorded settings, of the algorithm and of the env, to the form of today."""
    upgraded = config_class(settings.get("algorithm")).upgrade_settings({**_BEFORE, **settings})
    return {**upgraded, "env_kwargs": recorded_env_kwargs(settings)}


def _require_progress(path: Path, total_steps: int) -> None:
    """Refuse to resume a run up to fewer steps than it has made. (With several envs it may have made a few more.)"""
    if not (path / "config.json").is_file():
        return
    run = RunDirectory.open(path)
    checkpoint = CheckpointStore(run.checkpoint).load()
    if checkpoint is not None and total_steps < min(checkpoint.step, run.settings.get("total_steps", 0)):
        raise ConfigError(
            f"total_steps must be at least the {checkpoint.step} steps that {path} has made already, got {total_steps}"
        )


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """Result of a training run. ``summary`` is None when it was stopped, ``profile`` where none was asked for."""

    run_directory: RunDirectory
    total_steps: int
    summary: dict[str, Any] | None
    profile: dict[str, Any] | None = None

    @property
    def was_stopped(self) -> bool:
        """Whether ``stop`` or a callback stopped it early; ``resume`` continues it then."""
        return self.summary is None


def train_run(
    world: World,
    config: TrainingConfig,
    *,
    total_steps: int,
    seed: int,
    out: str | os.PathLike[str],
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    video_period: int = 0,
    profiles: bool = False,
    on_begin: Callable[[Training], None] = lambda training: None,
    on_event: Callable[[TrainingEvent], None] = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
) -> TrainingResult:
    """Train into a run directory, as ``torso train`` does.

    ``resume`` continues the run in ``out``. After a kill, it gives the same bits as a run without one; where ``stop``
    or a callback stopped it, it continues from that step, at which its episodes were truncated (``cuts`` in the
    summary). ``total_steps``, ``stop_return`` and ``video_period`` may then differ.

    callbacks: see `torso.agents.runs.callbacks`.
    video_period: steps from one video of a greedy episode to the next, in ``videos/``; 0: none.
    profiles: whether to measure where the time goes, for ``profile`` of the result; it changes no bit.
    on_begin: called with the training, restored where it is resumed, before its first step; a callback may then read
        it, and save its network elsewhere.

    Raises:
        ConfigError, EnvError: settings or an env that cannot work, or fewer steps than were made; nothing was written.
        MissingExtraError: videos are requested and no encoder is installed; nothing was written.
        RunError: ``out`` is not a run, or is one and ``resume`` is not set, or has other settings.
        StorageError: the directory could not be written; the previous checkpoint still loads.
    """
    Hooks(callbacks)  # rejects anything but callbacks
    built = build_network_for(world, config, seed)
    with open_run(
        world,
        config,
        total_steps=total_steps,
        seed=seed,
        out=out,
        resume=resume,
        video_period=video_period,
    ) as run:
        training = Training(
            world, config, seed=seed, run=run, built=built, video_period=video_period, profiles=profiles
        )
        on_begin(training)
        for event in training.run(total_steps, stop, callbacks):
            on_event(event)
        profile = training.profile
        summary = training.finish(config.evaluation_episodes) if training.is_done(total_steps) else None
        return TrainingResult(run_directory=run, total_steps=training.total_steps, summary=summary, profile=profile)
