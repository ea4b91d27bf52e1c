"""Batches from what is queued: while the model computes, requests gather; when it is free, it takes them all at once.

No delay is ever added. The queue lives on the event loop, so it needs no locks; the forward runs in one thread of its
own per model. Limits count rows, not requests.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torso.errors import DeadlineError, InputError, OverloadedError, UnavailableError
from torso.serve.status import internal_error

logger = logging.getLogger(__name__)

Array = NDArray[Any]
Readout = NDArray[np.float32]

MIN_RETRY_S, MAX_RETRY_S = 0.01, 5.0


class Admission:
    """A request's rows counted into the queue, until they are taken into a batch or the ``with`` block ends."""

    def __init__(self, batcher: Batcher, rows: int) -> None:
        self._batcher = batcher
        self.rows = rows
        batcher.queued_rows += rows

    def leave(self) -> None:
        """Count the rows out of the queue, once."""
        self._batcher.queued_rows -= self.rows
        self.rows = 0

    def __enter__(self) -> Admission:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.leave()


@dataclass(eq=False)
class _Request:
    inputs: Array  # [b, *shape]
    admission: Admission
    deadline: float | None  # on the event loop's clock
    answer: asyncio.Future[Readout]  # [b, K]


class Batcher:
    """One model's queue and its inference thread.

    ``forward`` maps [B, *shape] to [B, K]; it is never called twice at once. A batch holds at most ``max_batch_rows``;
    a request of more makes a batch of its own, computed in pieces of that size. ``forwards`` and ``rows`` count what
    was computed. All methods belong to the event loop's thread.
    """

    def __init__(
        self,
        name: str,
        forward: Callable[[Array], Readout],
        *,
        max_batch_rows: int,
        max_queue_rows: int,
    ) -> None:
        self.name = name
        self.max_batch_rows = max_batch_rows
        self.max_queue_rows = max_queue_rows
        self.forwards = 0
        self.rows = 0
        self.queued_rows = 0
        self._forward = forward
        self._waiting: dict[_Request, None] = {}  # in order of arrival; a dict, so that any can leave at once
        self._busy = False
        self._closed = False
        self._last_forward_s = 0.0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"infer-{name}")

    def admit(self, rows: int, field: str) -> Admission:
        """Let a request of so many rows in, before any work is done for it.

        Raises OverloadedError while the queue is too full for it, InputError where it could never fit, UnavailableError
        after `close`.
        """
        if self._closed:
            raise UnavailableError("the server is shutting down")
        if rows > self.max_queue_rows:
            raise InputError(field, expected=f"at most {self.max_queue_rows} rows a request", came=f"{rows}")
        if self.queued_rows + rows > self.max_queue_rows:
            forwards_ahead = self.queued_rows / self.max_batch_rows + 1
            raise OverloadedError(
                f"model {self.name!r}: {self.queued_rows} of at most {self.max_queue_rows} rows are queued; "
                f"no room for {rows} more",
                retry_after_s=min(max(forwards_ahead * self._last_forward_s, MIN_RETRY_S), MAX_RETRY_S),
            )
        return Admission(self, rows)

    async def submit(self, inputs: Array, admission: Admission, deadline: float | None = None) -> Readout:
        """Compute one request's rows, [b, *shape] to [b, K], together with whatever else is queued.

        Raises DeadlineError, and computes nothing, where ``deadline`` (the loop's clock) passes first;
        InternalServiceError where the forward fails. When the caller is cancelled its rows leave the queue.
        """
        loop = asyncio.get_running_loop()
        request = _Request(inputs, admission, deadline, loop.create_future())
        self._waiting[request] = None
        if not self._busy:
            self._busy = True
            loop.call_soon(self._start_batch, loop)  # not at once: what arrived in this turn of the loop comes along
        try:
            return await request.answer
        finally:
            self._waiting.pop(request, None)
            if request.answer.done() and not request.answer.cancelled():
                request.answer.exception()  # seen, even where the caller was cancelled in the same moment

    def _start_batch(self, loop: asyncio.AbstractEventLoop) -> None:
        batch = self._take(loop.time())
        if not batch:
            self._busy = False
            return
        started = loop.time()
        computing = self._thread.submit(self._compute, [request.inputs for request in batch])
        computing.add_done_callback(
            lambda done: loop.call_soon_threadsafe(self._finish_batch, loop, batch, done, started)
        )

    def _take(self, now: float) -> list[_Request]:
        """Take the next batch out of the queue, in order of arrival; what is too late, or unwanted, is dropped."""
        batch: list[_Request] = []
        rows = 0
        while self._waiting:
            request = next(iter(self._waiting))
            if batch and rows + len(request.inputs) > self.max_batch_rows:
                break
            del self._waiting[request]
            request.admission.leave()
            if request.answer.done():  # its caller went away
                continue
            if request.deadline is not None and now >= request.deadline:
                request.answer.set_exception(DeadlineError("the deadline passed while the request was queued"))
                continue
            batch.append(request)
            rows += len(request.inputs)
        return batch

    def _compute(self, inputs: list[Array]) -> Readout:
        """Run one batch. This is the inference thread."""
        rows = inputs[0] if len(inputs) == 1 else np.concatenate(inputs)
        pieces = [rows[start : start + self.max_batch_rows] for start in range(0, len(rows), self.max_batch_rows)]
        readouts = []
        for piece in pieces:
            self.forwards += 1
            self.rows += len(piece)
            readouts.append(self._forward(piece))
        readout = readouts[0] if len(readouts) == 1 else np.concatenate(readouts)
        if len(readout) != len(rows):
            raise RuntimeError(f"model {self.name!r} answered {len(readout)} rows for {len(rows)}")
        return readout

    def _finish_batch(
        self, loop: asyncio.AbstractEventLoop, batch: list[_Request], done: Future[Readout], started: float
    ) -> None:
        self._last_forward_s = loop.time() - started
        self._start_batch(loop)  # first, so that the thread computes while answers are written
        error = done.exception()
        if error is not None:
            failure = internal_error(error, f"a forward of model {self.name!r}")
            for request in batch:
                if not request.answer.done():
                    request.answer.set_exception(failure)
            return
        readout = done.result()
        end = 0
        for request in batch:
            start, end = end, end + len(request.inputs)
            if not request.answer.done():
                request.answer.set_result(readout[start:end])

    def close(self) -> None:
        """Refuse what waits and what comes, and let the running forward end."""
        self._closed = True
        for request in self._waiting:
            if not request.answer.done():
                request.answer.set_exception(UnavailableError("the server is shutting down"))
        self._waiting.clear()
        self._thread.shutdown(wait=True)
