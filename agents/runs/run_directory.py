"""Run directory: files of one fit or training run, locking, and checks before a resume.

config.json     every setting, what ``auto`` chose, versions and the seed: enough to reproduce the run
progress.jsonl  timing.jsonl  tensorboard/        figures (trackers.py)
model/  best/   model directories, latest and best
checkpoint/     state for a resume (checkpoints.py)
summary.json    the final figures
learning_curve.png
videos/         of greedy episodes (videos.py)
reliability.png                                   of a calibrated classifier
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from torso.agents.runs.trackers import PROGRESS, TENSORBOARD, TIMING
from torso.errors import RunError, StorageError
from torso.files import atomic_write_json, make_directory, remove_all_leftovers
from torso.nets.models.directory import CARD
from torso.nets.models.provenance import versions

try:
    import fcntl
except ImportError:  # Windows: two processes on one run are not detected there
    fcntl = None  # type: ignore[assignment]

RUN_FORMAT_VERSION = 1
RunKind = Literal["fit", "train"]
_FORMAT = "torso_run"  # the field of config.json that identifies a run directory
_CONFIG, _SUMMARY = "config.json", "summary.json"
_MISSING = object()
_FILES = (
    *(_CONFIG, _SUMMARY, PROGRESS, TIMING, TENSORBOARD),
    *("model", "best", "checkpoint", "learning_curve.png", "videos", "reliability.png"),
)


class RunDirectory:
    """Directory of one run; ``config`` is the content of config.json."""

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path = path
        self.config = config
        self._lock: int | None = None
        self._is_new = False  # begun by this object, rather than opened
        self._is_kept = False
        self._made: list[Path] = []  # directories that were made for it, innermost first

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.path)!r}: {self.kind} run)"

    @classmethod
    def prepare(
        cls,
        path: str | os.PathLike[str],
        *,
        kind: RunKind,
        settings: Mapping[str, Any],
        resolved: Mapping[str, Any],
        seed: int,
        resume: bool,
        extendable: Collection[str] = (),
        command: Sequence[str] | None = None,
        upgrade: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    ) -> RunDirectory:
        """Create or open the directory that a trainer writes into, and lock it until ``close``.

        A new run needs a path that `is_free`. ``resume`` continues an existing run with the
        same settings and seed, except for ``extendable`` ones, which are updated in config.json; without an existing
        run it begins one. ``resolved`` are the values chosen for ``auto``; a resume keeps the first ones: read
        ``run.resolved``. ``upgrade`` brings settings that an older torso recorded to the form of today.

        Raises RunError, writing nothing, when the path is no directory, is not a run, is a run and ``resume`` is
        False, has other settings, or is in use by another process; StorageError when it cannot be written.
        """
        path = Path(path)
        if not is_free(path):
            run = cls.open(path)
            if not resume:
                raise RunError(f"{path} already holds a run: add resume=True to continue it, or give another out=")
            run.lock()
            try:
                run._resume(kind=kind, settings=settings, seed=seed, extendable=extendable, upgrade=upgrade)
                # A run that is done, and was killed in its last save, saves no more.
                for directory in (path, run.checkpoint, run.model, run.best):
                    remove_all_leftovers(directory)
            except BaseException:
                run.close()
                raise
            return run
        made = [each for each in (path, *path.parents) if not each.exists()]
        make_directory(path)
        config = {
            _FORMAT: RUN_FORMAT_VERSION,
            "kind": kind,
            "seed": seed,
            "settings": _json_round_trip(settings),
            "resolved": _json_round_trip(resolved),
            "versions": _all_versions(),
            "command": list(sys.argv if command is None else command),
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        run = cls(path, config)
        run._is_new, run._made = True, made
        run.lock()
        try:
            atomic_write_json(path / _CONFIG, config)
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def open(cls, path: Path | str) -> RunDirectory:
        """Open an existing run for reading; RunError when there is none."""
        path = Path(path)
        try:
            config: Any = json.loads((path / _CONFIG).read_bytes())
        except (FileNotFoundError, NotADirectoryError) as error:
            problem = "is not a run: it has no config.json" if path.exists() else "does not exist"
            raise RunError(f"{path} {problem}; give a run's directory, or a new one") from error
        except ValueError as error:
            raise RunError(f"{path / _CONFIG} is damaged: not JSON ({error})") from error
        except OSError as error:
            raise RunError(f"{path / _CONFIG} cannot be read: {error}") from error
        if not isinstance(config, dict) or not isinstance(config.get(_FORMAT), int):
            raise RunError(
                f"{path} is not a run of torso: its config.json is of another program; give another directory"
            )
        if config[_FORMAT] > RUN_FORMAT_VERSION:
            raise RunError(f"{path} was written by a newer torso (format {config[_FORMAT]}): update torso")
        if not all(isinstance(config.get(name), dict) for name in ("settings", "resolved")):
            raise RunError(f"{path / _CONFIG} is damaged: settings are missing")
        return cls(path, config)

    @property
    def kind(self) -> str:
        """Kind of run: fit or train."""
        return str(self.config["kind"])

    @property
    def settings(self) -> dict[str, Any]:
        """Settings as given, as JSON."""
        return dict(self.config["settings"])

    @property
    def resolved(self) -> dict[str, Any]:
        """Values that were chosen for ``auto`` settings when the run began."""
        return dict(self.config["resolved"])

    @property
    def model(self) -> Path:
        """Directory of the latest model."""
        return self.path / "model"

    @property
    def best(self) -> Path:
        """Directory of the best model."""
        return self.path / "best"

    @property
    def checkpoint(self) -> Path:
        """Directory of the CheckpointStore."""
        return self.path / "checkpoint"

    @property
    def videos(self) -> Path:
        """Directory of a training's videos."""
        return self.path / "videos"

    @property
    def learning_curve(self) -> Path:
        """Path of the learning-curve plot."""
        return self.path / "learning_curve.png"

    @property
    def reliability(self) -> Path:
        """Path of the reliability diagram of a calibrated classifier."""
        return self.path / "reliability.png"

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json."""
        atomic_write_json(self.path / _SUMMARY, dict(summary))

    def read_summary(self) -> dict[str, Any] | None:
        """Read summary.json; None when the run has not ended."""
        try:
            summary: Any = json.loads((self.path / _SUMMARY).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path / _SUMMARY} cannot be read: {error}") from error
        return dict(summary)

    def drop_summary(self) -> None:
        """Delete summary.json: the run continues, and its final figures are no longer valid."""
        try:
            (self.path / _SUMMARY).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"cannot remove {self.path / _SUMMARY}: {error}") from error

    def lock(self) -> None:
        """Lock the directory against other processes until ``close`` or exit; RunError when it is locked already."""
        if fcntl is None or self._lock is not None:
            return
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise RunError(f"{self.path} is in use by another process; wait for its end, or end it") from error
        self._lock = descriptor

    def close(self) -> None:
        """Release the lock; a second call does nothing."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if kind is not None and not (self._is_kept or self._has_record()):
            self.discard()
        self.close()

    def keep(self) -> None:
        """Keep the run however it ends: it has made its first step."""
        self._is_kept = True

    def discard(self) -> None:
        """Remove what a new run has written, which ended before its first step; a run that was opened stays."""
        if not self._is_new:
            return
        for name in _FILES:
            path = self.path / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        remove_all_leftovers(self.path)
        for directory in self._made:
            with suppress(OSError):  # something else is in it
                directory.rmdir()

    def _has_record(self) -> bool:
        """Whether there is something to continue or to look at: a checkpoint, a best model or a line of figures."""
        progress = self.path / PROGRESS
        has_figures = progress.is_file() and progress.stat().st_size > 0
        has_checkpoint = (self.checkpoint / "latest.json").is_file()  # checkpoints.py: its commit point
        return has_figures or has_checkpoint or (self.best / CARD).is_file()

    def require_kind(self, kind: RunKind) -> None:
        """Raise RunError unless this is a run of that kind."""
        if self.kind != kind:
            raise RunError(f"{self.path} holds a {self.kind} run, this is {kind}; give another out=")

    def _resume(
        self,
        *,
        kind: RunKind,
        settings: Mapping[str, Any],
        seed: int,
        extendable: Collection[str],
        upgrade: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    ) -> None:
        """Check a resume's kind, settings and seed against this run's; update extended settings in config.json."""
        self.require_kind(kind)
        new = _json_round_trip({**settings, "seed": seed})
        old = {**_json_round_trip(upgrade(self.settings)), "seed": self.config["seed"]}
        changed = [name for name in sorted({*old, *new}) if old.get(name, _MISSING) != new.get(name, _MISSING)]
        refused = [name for name in changed if name not in extendable]
        if refused:
            differences = "; ".join(
                f"{name} was {_format_setting(old, name)}, now {_format_setting(new, name)}" for name in refused
            )
            raise RunError(
                f"{self.path} was begun with other settings: {differences}. Resume with those it was begun with, "
                "or give another out="
            )
        if changed:
            self.config = {**self.config, "settings": {**self.settings, **{name: new[name] for name in changed}}}
            atomic_write_json(self.path / _CONFIG, self.config)


def _all_versions() -> dict[str, str]:
    """Package versions that a run's figures depend on: the model's, and those of the env and data set libraries."""
    return {**versions(), **{name: metadata.version(name) for name in ("gymnasium", "scikit-learn")}}


def is_free(path: Path) -> bool:
    """Whether a new run may begin here: no path, or a directory with only temporary files of an interrupted start.

    RunError where the path is a file or cannot be read.
    """
    try:
        names = [entry.name for entry in path.iterdir()]
    except FileNotFoundError:
        return True
    except NotADirectoryError as error:
        raise RunError(f"{path} is a file, or below one; a run needs a directory: give another out=") from error
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    return all(name.startswith(f".{_CONFIG}.") and name.endswith(".tmp") for name in names)


def _json_round_trip(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert settings by a JSON round trip (tuples become lists), so that they compare equal to recorded ones."""
    converted: dict[str, Any] = json.loads(json.dumps(dict(values)))
    return converted


def _format_setting(settings: Mapping[str, Any], name: str) -> str:
    return json.dumps(settings[name]) if name in settings else "not there"
