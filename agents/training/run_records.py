"""Reading of training runs' directories as records, which insight compares."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torso.agents.runs.run_directory import RunDirectory
from torso.agents.runs.trackers import PROGRESS, read_jsonl
from torso.agents.training.train_runs import upgraded_settings
from torso.errors import RunError, TorsoError
from torso.insight.comparison.run_records import RunRecord

_OF_ENV = ("env_id", "env_kwargs", "wrappers")


def read_record(path: str | os.PathLike[str]) -> RunRecord:
    """Read the directory of a training run, whether or not it has ended; settings of an older torso in today's form.

    Raises RunError for what is no training run, or is damaged.
    """
    path = Path(path)
    if not (path / "config.json").is_file():
        found = "a directory without config.json" if path.is_dir() else "a file" if path.exists() else "nothing there"
        raise RunError(f"{path} must be the run directory of a training, got {found}; give one that torso train wrote")
    run = RunDirectory.open(path)
    if run.config.get("kind") != "train":
        raise RunError(f"{path} must hold a training run, got a {run.config.get('kind')} run; leave it out")
    try:
        settings = upgraded_settings(run.settings)
        record = RunRecord(
            path=path,
            env_id=str(settings["env_id"]),
            env_kwargs=settings["env_kwargs"],
            wrappers=tuple(settings.get("wrappers") or ()),
            algorithm=str(settings["algorithm"]),
            settings={name: value for name, value in settings.items() if name not in (*_OF_ENV, "algorithm")},
            seed=int(run.config["seed"]),
            lines=_read_log(path / PROGRESS),
            summary=_read_summary(run),
            versions=dict(run.config.get("versions") or {}),
        )
    except TorsoError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path / 'config.json'} is damaged: {type(error).__name__}: {error}") from error
    return record


def _read_summary(run: RunDirectory) -> dict[str, Any] | None:
    path = run.path / "summary.json"
    try:
        summary = run.read_summary()
    except (TypeError, ValueError) as error:
        raise RunError(f"{path} is damaged: it must hold a JSON object ({error})") from error
    score = {} if summary is None else summary.get("score", {})
    has_score = score is None or {"mean_return", "episodes"} <= {*score}
    if summary is not None and not ("total_steps" in summary and has_score):
        raise RunError(
            f"{path} is damaged: it must have total_steps and a score, got {', '.join(summary) or 'nothing'}"
        )
    return summary


def _read_log(path: Path) -> list[dict[str, Any]]:
    try:
        lines: list[Any] = read_jsonl(path)
    except ValueError as error:
        raise RunError(f"{path} is damaged: not JSON lines ({error})") from error
    if not all(isinstance(line, dict) and isinstance(line.get("step"), int) for line in lines):
        raise RunError(f"{path} is damaged: each of its lines must be a JSON object with a step")
    return lines
