"""The road of ``torso train``: a training in a run directory; what cannot work is refused before a file is written."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torso.agents.checkpoints import CheckpointStore
from torso.agents.dqn import DQNConfig
from torso.agents.rundir import RunDirectory
from torso.agents.session import require_trainable
from torso.agents.training import Training, TrainingEvent, resolve
from torso.agents.world import World
from torso.errors import ConfigError


def open_run(
    world: World, config: DQNConfig, *, total_steps: int, seed: int, out: str | os.PathLike[str], resume: bool
) -> RunDirectory:
    """Open, lock and describe the run directory of a training; see `train_run` for what it refuses."""
    if total_steps < 1:
        raise ConfigError(f"total steps must be at least 1, got {total_steps}")
    if world.is_constructed:
        raise ConfigError(
            f"a run directory needs an env that can be built anew, got the constructed env {world.name}; "
            "give its id, its class or a function that makes it"
        )
    require_trainable(world, config, seed)
    if resume:
        _require_onward(Path(out), total_steps)
    settings = {
        "algorithm": "dqn",
        "env_id": world.name,
        "env_kwargs": dict(world.env_kwargs),
        "wrappers": world.wrapper_names,
        "total_steps": total_steps,
        **asdict(config),
    }
    return RunDirectory.prepare(
        out,
        kind="train",
        settings=settings,
        resolved=resolve(config),
        seed=seed,
        resume=resume,
        extendable=("total_steps", "stop_return"),
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
    """How a training run ended. ``summary`` is None when it was stopped; ``--resume`` goes on with it then."""

    run_directory: RunDirectory
    total_steps: int
    summary: dict[str, Any] | None


def train_run(
    world: World,
    config: DQNConfig,
    *,
    total_steps: int,
    seed: int,
    out: str | os.PathLike[str],
    resume: bool = False,
    on_event: Callable[[TrainingEvent], None] = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
) -> TrainingResult:
    """Train into a run directory: the road of ``torso train``.

    With ``resume``, goes on with the run in ``out``. Where it was killed, it gives the same bits as a run that was not;
    where ``stop`` ended it, it goes on from that step, at which its episodes were cut short (``cuts`` in the summary).
    ``total_steps`` and ``stop_return`` may then be other ones.

    Raises:
        ConfigError, EnvError: settings or an env that cannot work, or fewer steps than were made; nothing was written.
        RunError: ``out`` is not a run, or is one and ``resume`` is not set, or has other settings.
        StorageError: the directory could not be written; the checkpoint before still loads.
    """
    with open_run(world, config, total_steps=total_steps, seed=seed, out=out, resume=resume) as run:
        training = Training(world, config, seed=seed, run=run)
        for event in training.run(total_steps, stop):
            on_event(event)
        finished = training.total_steps >= total_steps or training.is_solved
        summary = training.finish(config.evaluation_episodes) if finished else None
        return TrainingResult(run_directory=run, total_steps=training.total_steps, summary=summary)
