"""Folder of the runs and models that are made in the page: nothing is written outside it.

The names of what lies in it come from tabs; links are left alone, as they may lead out.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torso.errors import ConfigError, RunError, StorageError, TorsoError
from torso.files import make_directory
from torso.playground.train.course import TrainingCourse
from torso.playground.train.short_runs import ALGORITHMS, ShortRun, require_run_name, title_of, train_command

MOST_SHOWN = 40


class RunFolder:
    """Folder of runs and saved models, which need not be there yet."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def place(self, name: object, what: str = "the run's name") -> Path:
        """Return the path of a name. ConfigError where the name is none."""
        return self.path / require_run_name(name, what)

    def require_free(self, name: object, what: str = "the run's name") -> Path:
        """Return the path of a name that nothing has. ConfigError where something does."""
        place = self.place(name, what)
        if os.path.lexists(place):
            raise ConfigError(f"{what} must be new, got {name}, which {self.path} has already; choose another")
        return place

    def free_name(self, stem: str) -> str:
        """Return a name that nothing has."""
        name, number = stem, 1
        while os.path.lexists(self.path / name):
            number += 1
            name = f"{stem}.{number}"
        return name

    def new_course(self, run: ShortRun) -> TrainingCourse:
        """Begin the course of a new run. ConfigError where its name is taken."""
        name = run.name or self.free_name(run.stem)
        place = self.require_free(name)
        return TrainingCourse(
            name=name,
            path=str(place),
            env=run.env,
            algorithm=run.algorithm,
            seed=run.seed,
            total=run.steps,
            command=train_command(run, str(place)),
        )

    def read_course(self, name: object) -> TrainingCourse:
        """Read the course of a run that lies here; RunError where there is none."""
        from torso.agents.training.run_records import read_record

        place = self._run_place(name)
        record = read_record(place)
        course = TrainingCourse(
            name=place.name,
            path=str(place),
            env=record.env_id,
            algorithm=record.algorithm,
            seed=record.seed,
            total=int(record.settings["total_steps"]),
            command=shlex.join(["torso", "train", "--out", str(place), "--resume"]),
        )
        if record.summary is None:
            course.read(record.lines, _checkpoint_step(place) or 0)
            course.end("stopped", f"unfinished, at step {course.step:,}")
        else:
            course.read(record.lines)
            score = record.summary.get("score") or {}
            words = f": mean return {score['mean_return']:,.1f} over {score['episodes']} episodes" if score else ""
            course.end("done", f"done{words}")
        return course

    def entries(self, running: set[str]) -> list[dict[str, Any]]:
        """Describe the runs and models that lie here, the newest first. ``running``: names of those under way."""
        found = []
        for place in list(self._places())[:MOST_SHOWN]:
            try:
                entry = _describe_run(place, is_running=place.name in running)
            except (TorsoError, OSError, KeyError, TypeError, ValueError):
                continue  # what is damaged, or of another program, is not shown
            if entry is not None:
                found.append(entry)
        return found

    def save(self, run: object, name: object) -> Path:
        """Save a run's best network, or its newest where none is best yet, as a model directory of that name.

        Raises:
            ConfigError: a name that is none, or is taken.
            ModelError: the run has no network yet.
            StorageError: it could not be written.
        """
        from torso.nets import load_model, save_model

        target = self.require_free(name, "the model's name")
        card, network = load_model(self._run_place(run))
        temporary = self.path / f".saving-{target.name}-{secrets.token_hex(4)}"
        try:
            save_model(
                temporary,
                network,
                kind=card.kind,
                labels=card.labels,
                action_start=card.action_start,
                observation_space=card.observation_space,
                provenance=card.provenance,
            )
            try:
                temporary.rename(target)
            except OSError as error:
                raise StorageError(f"cannot write {target}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return target

    def make(self) -> None:
        """Create the folder. StorageError where that fails."""
        make_directory(self.path)

    def _run_place(self, name: object) -> Path:
        place = self.place(name)
        if place.is_symlink() or not (place / "config.json").is_file():
            raise RunError(f"{place} must be a run, got none; choose one of the list")
        return place

    def _places(self) -> Iterator[Path]:
        """Yield the directories that may be runs or models, the newest first."""
        try:
            entries = [
                (entry.stat().st_mtime, entry.name)
                for entry in os.scandir(self.path)
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
            ]
        except OSError:  # not there yet, or not to be read
            return
        for _, name in sorted(entries, reverse=True):
            try:
                yield self.place(name)
            except ConfigError:
                continue


def _describe_run(place: Path, *, is_running: bool) -> dict[str, Any] | None:
    """Describe a run, or a saved model; None where it is neither."""
    if (place / "model.json").is_file():
        provenance = json.loads((place / "model.json").read_bytes()).get("provenance", {})
        return {
            "name": place.name,
            "state": "model",
            "title": title_of(str(provenance.get("env_id", "a model"))),
            "algorithm": _algorithm_title(provenance.get("config", {}).get("algorithm", "")),
        }
    config = json.loads((place / "config.json").read_bytes())
    if config["kind"] != "train":
        return None
    settings = config["settings"]
    summary = json.loads((place / "summary.json").read_bytes()) if (place / "summary.json").is_file() else None
    score = ((summary or {}).get("score") or {}).get("mean_return")
    return {
        "name": place.name,
        "state": "running" if is_running else "unfinished" if summary is None else "done",
        "title": title_of(settings["env_id"]),
        "algorithm": _algorithm_title(settings["algorithm"]),
        "step": summary["total_steps"] if summary else _checkpoint_step(place) or 0,
        "total": settings["total_steps"],
        "score": score,
    }


def _algorithm_title(name: str) -> str:
    return ALGORITHMS.get(name, name)


def _checkpoint_step(place: Path) -> int | None:
    latest = place / "checkpoint" / "latest.json"
    return int(json.loads(latest.read_bytes())["step"]) if latest.is_file() else None
