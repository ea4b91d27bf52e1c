"""The road of ``torso train``: a training in a run directory; what cannot work is refused before a file is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torso.agents.acting.videos import frames_per_second
from torso.agents.runs.callbacks import Callback, Hooks
from torso.agents.runs.checkpoints import CheckpointStore
from torso.agents.runs.events import TrainingEvent
from torso.agents.runs.run_directory import RunDirectory
from torso.agents.training.driver import Training, resolve_training
from torso.agents.training.session import require_trainable
from torso.agents.value_based.config import DQNConfig
from torso.agents.value_based.presets import preset
from torso.envs.vector.world import World
from torso.errors import ConfigError
from torso.nets import Network, read_source


def open_run(
    world: World,
    config: DQNConfig,
    *,
    total_steps: int,
    seed: int,
    out: str | os.PathLike[str],
    resume: bool,
    algorithm: str = "dqn",
    video_period: int = 0,
    first: Network | None = None,
) -> RunDirectory:
    """Open, lock and describe the run directory of a training; see `train_run` for what it refuses.

    ``first`` is the network whose weights it begins with, where it is not the seed that gives them.
    """
    preset(algorithm, world.name)  # or config.json would name what nobody knows
    if total_steps < 1:
        raise ConfigError(f"total steps must be at least 1, got {total_steps}")
    if world.is_constructed:
        raise ConfigError(
            f"a run directory needs an env that can be built anew, got the constructed env {world.name}; "
            "give its id, its class or a function that makes it"
        )
    if video_period < 0:
        raise ConfigError(f"video_period must be a number of steps, or 0 for no videos; got {video_period}")
    require_trainable(world, config, seed, first)
    if video_period:
        frames_per_second(world)
    if resume:
        _require_onward(Path(out), total_steps)
    settings = {
        "algorithm": algorithm,
        "env_id": world.name,
        "env_kwargs": dict(world.env_kwargs),
        "wrappers": world.wrapper_names,
        "total_steps": total_steps,
        "video_period": video_period,
        **asdict(config),
    }
    if config.init_torso is not None and first is None:  # so that a resume refuses other weights
        settings["init_torso_sha256"] = read_source(config.init_torso).weights_sha256
    return RunDirectory.prepare(
        out,
        kind="train",
        settings=settings,
        resolved=resolve_training(config),
        seed=seed,
        resume=resume,
        extendable=("total_steps", "stop_return", "video_period"),
    )


def _require_onward(path: Path, total_steps: int) -> None:
    """Refuse to resume a run towards fewer steps than it has made. (With several envs it may have made a few more.)"""
    if not (path / "config.json").is_file():
        return
    run = RunDirectory.open(path)
    checkpoint = CheckpointStore(run.checkpoint).load()
    if checkpoint is not None and total_steps < min(checkpoint.step, run.settings.get("total_steps", 0)):
        raise ConfigError(f"{path} has made {checkpoint.step} steps already; total steps of {total_steps} are fewer")


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """How a training run ended. ``summary`` is None when it was stopped."""

    run_directory: RunDirectory
    total_steps: int
    summary: dict[str, Any] | None

    @property
    def was_stopped(self) -> bool:
        """Whether ``stop`` or a callback ended it before its time; ``resume`` goes on with it then."""
        return self.summary is None


def train_run(
    world: World,
    config: DQNConfig,
    *,
    total_steps: int,
    seed: int,
    out: str | os.PathLike[str],
    resume: bool = False,
    algorithm: str = "dqn",
    callbacks: Sequence[Callback] = (),
    video_period: int = 0,
    on_event: Callable[[TrainingEvent], None] = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
) -> TrainingResult:
    """Train into a run directory: the road of ``torso train``.

    With ``resume``, goes on with the run in ``out``. Where it was killed, it gives the same bits as a run that was not;
    where ``stop`` or a callback ended it, it goes on from that step, at which its episodes were cut short (``cuts`` in
    the summary). ``total_steps``, ``stop_return`` and ``video_period`` may then be other ones.

    algorithm: the name that config.json records; what is done, ``config`` says.
    callbacks: see `torso.agents.runs.callbacks`.
    video_period: steps from one video of a greedy episode to the next, in ``videos/``; 0: none.

    Raises:
        ConfigError, EnvError: settings or an env that cannot work, or fewer steps than were made; nothing was written.
        MissingExtraError: videos are asked for and nothing here encodes them; nothing was written.
        RunError: ``out`` is not a run, or is one and ``resume`` is not set, or has other settings.
        StorageError: the directory could not be written; the checkpoint before still loads.
    """
    Hooks(callbacks)  # refuses what is no callback
    with open_run(
        world,
        config,
        total_steps=total_steps,
        seed=seed,
        out=out,
        resume=resume,
        algorithm=algorithm,
        video_period=video_period,
    ) as run:
        training = Training(world, config, seed=seed, run=run, video_period=video_period)
        for event in training.run(total_steps, stop, callbacks):
            on_event(event)
        summary = training.finish(config.evaluation_episodes) if training.is_done(total_steps) else None
        return TrainingResult(run_directory=run, total_steps=training.total_steps, summary=summary)
