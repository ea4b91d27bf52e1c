"""Forward of a batch: its requests' rows together, and where that fails, each request alone."""

from __future__ import annotations

import contextlib
import threading
from asyncio import AbstractEventLoop
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np

from torso.arrays import Array, Readout
from torso.serve.worker_threads import at_work

T = TypeVar("T")


class Forward:
    """Callable that computes a model's forward, [B, *shape] to [B, K]; more than ``max_rows`` rows go in pieces.

    It is never called twice at once. ``calls`` and ``rows`` count forwards and their rows.
    """

    def __init__(self, name: str, forward: Callable[[Array], Readout], max_rows: int) -> None:
        self.calls = 0
        self.rows = 0
        self._name = name
        self._forward = forward
        self._max_rows = max_rows

    def __call__(self, rows: Array) -> Readout:
        """Compute rows, [B, *shape] to [B, K]."""
        if len(rows) > self._max_rows:
            starts = range(0, len(rows), self._max_rows)
            return np.concatenate([self(rows[start : start + self._max_rows]) for start in starts])
        self.calls += 1
        self.rows += len(rows)
        readout = self._forward(rows)
        if len(readout) != len(rows):
            raise RuntimeError(f"model {self._name!r} must answer {len(rows)} rows, got {len(readout)}")
        return readout

    def outcomes(self, inputs: Sequence[Array]) -> list[Readout | Exception]:
        """Compute several requests' inputs, [b, *shape] each; return each one's readout, [b, K], or its exception.

        Where the batch fails, each request is computed alone, so that none fails for another's inputs.
        """
        try:
            return self._compute_together(inputs)
        except Exception as error:  # noqa: BLE001 - the boundary: callers get the error, and the model goes on serving
            return [error] if len(inputs) == 1 else [self._compute_alone(rows) for rows in inputs]

    def _compute_together(self, inputs: Sequence[Array]) -> list[Readout | Exception]:
        if len(inputs) == 1:
            return [self(inputs[0])]
        readout = self(np.concatenate(inputs))
        split: list[Readout | Exception] = []
        end = 0
        for rows in inputs:
            start, end = end, end + len(rows)
            split.append(readout[start:end])
        return split

    def _compute_alone(self, rows: Array) -> Readout | Exception:
        try:
            return self(rows)
        except Exception as error:  # noqa: BLE001 - as above
            return error


class InferenceThread:
    """Thread that runs jobs for an event loop, one after the other. It starts with its first job."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[tuple[AbstractEventLoop, Callable[[Any], None], Any, Callable[[Any], object]] | None]
        self._jobs = SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, loop: AbstractEventLoop, work: Callable[[T], None], item: T, then: Callable[[T], object]) -> None:
        """Call ``work(item)``, which must not raise, in the thread, and afterwards ``then(item)`` on the loop."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._jobs.put((loop, work, item, then))

    def close(self, *, is_idle: bool) -> None:
        """End the thread, which is waited for if it is idle. A running job ends it later: it may take for ever."""
        if self._thread is not None:
            self._jobs.put(None)
            if is_idle:
                self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            loop, work, item, then = job
            with at_work():
                work(item)
            with contextlib.suppress(RuntimeError):  # the loop ended meanwhile, and with it the callers
                loop.call_soon_threadsafe(then, item)
            del job, item  # free its memory before waiting for the next
