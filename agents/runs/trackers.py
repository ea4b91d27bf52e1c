"""Metrics logging of a run: ``progress.jsonl``, ``timing.jsonl`` and the same scalars for TensorBoard.

``progress.jsonl`` holds only figures that a resume reproduces bit for bit; wall-clock times have a file of their own. A
checkpoint stores the tracker's ``position()``, and a tracker opened at a position truncates both files to it, so that
figures a killed run logged after its last checkpoint, partial lines included, are logged only once.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from torso.errors import CheckpointError, StorageError
from torso.files import make_directory
from torso.private_apis import tensorboard

PROGRESS, TIMING, TENSORBOARD = "progress.jsonl", "timing.jsonl", "tensorboard"
_TENSORBOARD = tensorboard()
_FLUSH_PERIOD_S = 2.0  # delay of live TensorBoard views; flushing waits for the disk


class Tracker:
    """Tracker: logs a run's figures to files in its directory.

    ``position`` is a checkpoint's, or None to start with empty files (their old content is dropped).
    Raises CheckpointError when a file is shorter than the position, StorageError when one cannot be written.
    """

    def __init__(
        self,
        directory: Path | str,
        position: Mapping[str, Any] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        start: dict[str, Any] = {
            "step": 0,
            "progress_bytes": 0,
            "timing_bytes": 0,
            "elapsed_s": 0.0,
            **(position or {}),
        }
        self.directory = make_directory(directory)
        self._clock = clock
        self._started_s: float = clock() - start["elapsed_s"]
        self._last_step, self._last_s = int(start["step"]), float(start["elapsed_s"])
        self._steps_per_s: float | None = None
        self._progress = _open_truncated(self.directory / PROGRESS, start["progress_bytes"])
        self._timing = _open_truncated(self.directory / TIMING, start["timing_bytes"])
        self._events = _open_event_file(self.directory / TENSORBOARD, purge_step=self._last_step + 1)
        self._flushed_s = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds spent on this run, over all its resumes, up to their last checkpoints."""
        return self._clock() - self._started_s

    @contextmanager
    def not_stepping(self) -> Iterator[None]:
        """Leave a block, such as an evaluation, out of the speed: no steps are made in it."""
        began_s = self._clock()
        try:
            yield
        finally:
            self._last_s += self._clock() - began_s

    def log(self, step: int, figures: Mapping[str, Any]) -> None:
        """Log the reproducible figures of a step (an epoch, in a fit).

        Numbers that are not finite become null. Speed and time are added to ``timing.jsonl`` here.
        """
        elapsed_s = self.elapsed_s
        if step > self._last_step:  # a second line of the same step, an evaluation's, has the speed of the first
            self._steps_per_s = (step - self._last_step) / max(elapsed_s - self._last_s, 1e-9)
        timing = {"elapsed_s": round(elapsed_s, 3)}
        if self._steps_per_s is not None:
            timing["steps_per_s"] = round(self._steps_per_s, 3)
        self._last_step, self._last_s = step, elapsed_s
        figures = {name: _json_scalar(value) for name, value in figures.items()}
        try:
            _write_line(self._progress, {"step": step, **figures})
            _write_line(self._timing, {"step": step, **timing})
            self._log_events(step, {**figures, **timing})
        except OSError as error:
            raise _storage_error(self.directory, error) from error

    def position(self) -> dict[str, Any]:
        """Flush the logs to disk and return their position, for a checkpoint."""
        try:
            for file in (self._progress, self._timing):
                file.flush()
                os.fsync(file.fileno())
            self._events.flush()
        except OSError as error:
            raise _storage_error(self.directory, error) from error
        return {
            "step": self._last_step,
            "progress_bytes": self._progress.tell(),
            "timing_bytes": self._timing.tell(),
            "elapsed_s": self.elapsed_s,
        }

    def close(self) -> None:
        """Flush and close; a second call does nothing."""
        if self._progress.closed:
            return
        try:
            with ExitStack() as stack:  # all are closed, also when one fails
                for file in (self._events, self._timing, self._progress):
                    stack.callback(file.close)
        except OSError as error:
            raise _storage_error(self.directory, error) from error

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _log_events(self, step: int, figures: Mapping[str, Any]) -> None:
        numbers = {name: value for name, value in figures.items() if isinstance(value, (int, float))}
        for name, value in numbers.items():
            scalar = _TENSORBOARD.scalar(name, value)
            self._events.write_event(_TENSORBOARD.event(wall_time=time.time(), step=step, summary=scalar))
        if time.monotonic() - self._flushed_s > _FLUSH_PERIOD_S:
            self._events.flush()
            self._flushed_s = time.monotonic()


def read_jsonl(path: Path | str) -> list[dict[str, Any]]:
    """Read the complete lines of a JSONL log, oldest first; a truncated last line is skipped. No file: no lines."""
    path = Path(path)
    if not path.exists():
        return []
    *lines, _ = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines]


def _open_truncated(path: Path, size: int) -> IO[bytes]:
    """Truncate a log to ``size`` bytes and open it for appending."""
    try:
        path.touch()
        present = path.stat().st_size
        if present < size:
            raise CheckpointError(
                f"{path} is damaged: it must have at least the checkpoint's {size} bytes, got {present}"
            )
        os.truncate(path, size)
        return path.open("ab")
    except OSError as error:
        raise _storage_error(path, error) from error


def _open_event_file(directory: Path, purge_step: int) -> Any:
    """Open a TensorBoard event file that purges the events of earlier files from ``purge_step`` on.

    tensorboardX's own SummaryWriter writes events in a thread behind a queue, which its flush does not wait for; this
    writes them synchronously.
    """
    try:
        directory.mkdir(exist_ok=True)
        # Event files are named by second and host; the suffix keeps a quick resume from overwriting the previous file.
        writer = _TENSORBOARD.events_writer(str(directory / "events"), f".{secrets.token_hex(4)}")
        if purge_step > 1:
            start = _TENSORBOARD.session_log(status=_TENSORBOARD.session_log.START)
            writer.write_event(_TENSORBOARD.event(wall_time=time.time(), step=purge_step, session_log=start))
        writer.flush()
        return writer
    except OSError as error:
        raise _storage_error(directory, error) from error


def _write_line(file: IO[bytes], record: Mapping[str, Any]) -> None:
    file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
    file.flush()


def _json_scalar(value: Any) -> Any:
    """Convert NumPy's and torch's scalars to Python's, and numbers that are not finite to None (JSON's null)."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _storage_error(path: Path, error: OSError) -> StorageError:
    return error if isinstance(error, StorageError) else StorageError(f"cannot write {path}: {error}")
