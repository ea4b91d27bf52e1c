"""What waits for a model: requests in order of arrival, and which of them make the next batch.

Times are `time.monotonic`'s. Nothing here waits, or knows of an event loop but for the futures that wake a request.
"""

from __future__ import annotations

from asyncio import Future
from collections import deque
from collections.abc import Callable
from types import TracebackType

from torso.arrays import Array, Readout
from torso.errors import DeadlineError, ServiceError
from torso.serve.inference.forward_times import LatencyEstimate

INFINITY = float("inf")
HEADROOM = 1.5  # an answer is to be expected in 1/1.5 of the time that a deadline leaves: it still has a way to go
LATE = "the deadline passed, or came too near, while the request was queued"


class Admission:
    """A request in the batcher: its rows count as queued until they are taken, or until the ``with`` block ends.

    ``count(rows, requests)`` counts them in and out.
    """

    __slots__ = (
        *("_count", "batch", "deadline", "done", "error", "inputs"),
        *("queued_at", "readout", "rows", "start_by", "waiting", "wake"),
    )

    inputs: Array  # [b, *shape]
    deadline: float
    queued_at: float
    start_by: float  # when its batch begins, full or not
    batch: QueuedBatch  # that it was computed in
    readout: Readout  # [b, K]

    def __init__(self, count: Callable[[int, int], None], rows: int) -> None:
        self._count = count
        self.rows = rows  # that count as queued
        self.waiting = False  # for a batch
        self.done = False  # there is a readout, or an error
        self.error: ServiceError | None = None
        self.wake: Future[None] | None = None  # what its task sleeps on, if it does
        count(rows, 1)

    def leave(self) -> None:
        """Count the rows out of the queue, once."""
        self._count(-self.rows, 0)
        self.rows = 0

    def fail(self, error: ServiceError) -> None:
        """End the request in an error."""
        self.error = error
        self._wake()

    def answer(self, readout: Readout, batch: QueuedBatch) -> None:
        """End the request in what its batch gave it."""
        self.readout, self.batch = readout, batch
        self._wake()

    def _wake(self) -> None:
        self.done = True
        if self.wake is not None and not self.wake.done():
            self.wake.set_result(None)

    def __enter__(self) -> Admission:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._count(-self.rows, -1)


class QueuedBatch:
    """Requests that are computed together."""

    __slots__ = ("computed_at", "outcomes", "requests", "rows", "seconds", "taken_at")

    computed_at: float
    seconds: float  # of compute alone
    outcomes: list[Readout | Exception]  # one a request

    def __init__(self, requests: list[Admission], rows: int, taken_at: float) -> None:
        self.requests = requests
        self.rows = rows
        self.taken_at = taken_at


class RequestQueue:
    """Requests that are to be computed. ``rows`` is how many rows they have."""

    def __init__(self, max_batch_rows: int, delay_s: float, pace: LatencyEstimate) -> None:
        self.rows = 0
        self._requests: deque[Admission] = deque()
        self._max_batch_rows = max_batch_rows
        self._delay_s = delay_s
        self._pace = pace

    def __len__(self) -> int:
        return len(self._requests)

    def append(self, request: Admission, inputs: Array, deadline: float, now: float) -> None:
        """Let a request wait."""
        request.inputs, request.deadline, request.queued_at = inputs, deadline, now
        request.start_by = now + min(self._delay_s, (deadline - now) / 2)  # the other half is for computing
        request.waiting = True
        self._requests.append(request)
        self.rows += len(inputs)

    def remove(self, request: Admission) -> None:
        """Forget a request."""
        self._requests.remove(request)
        self._let_go(request)

    def clear(self, error: ServiceError) -> None:
        """Fail all."""
        while self._requests:
            request = self._requests.popleft()
            self._let_go(request)
            request.fail(error)

    def delay_s(self, now: float) -> float:
        """Return how long the next batch is still to wait for more requests; 0 or less: it is not."""
        if not self._delay_s or self.rows >= self._max_batch_rows:
            return 0.0
        return min(request.start_by for request in self._requests) - now

    def compute_s(self, rows: int) -> float:
        """Return how long it is expected to take to compute all that waits and so many rows more."""
        full, rest = divmod(self.rows + rows, self._max_batch_rows)
        return full * self._pace.seconds(self._max_batch_rows) + (self._pace.seconds(rest) if rest else 0.0)

    def take(self, now: float) -> QueuedBatch | None:
        """Take the next batch, in order of arrival; None where nothing is left.

        What is too late is dropped, and so is what would be once it is computed, unless there is nothing else to do.
        The batch is cut where another request would make it too long for the deadlines of those in it.
        """
        batch: list[Admission] = []
        rows, end_by = 0, INFINITY
        near = now + HEADROOM * self._pace.seconds(self._max_batch_rows)
        while self._requests:
            request = self._requests[0]
            total = rows + len(request.inputs)
            if batch and total > self._max_batch_rows:
                break
            end = now
            if min(request.deadline, end_by) < near or total > self._max_batch_rows:
                end += HEADROOM * self._pace.seconds(total)
            late = request.deadline <= end and (request.deadline <= now or len(batch) + len(self._requests) > 1)
            if batch and end_by < end and not late:
                break
            self._requests.popleft()
            self._let_go(request)
            request.leave()
            if late:
                request.fail(DeadlineError(LATE))
                continue
            batch.append(request)
            rows, end_by = total, min(end_by, request.deadline)
        return QueuedBatch(batch, rows, now) if batch else None

    def _let_go(self, request: Admission) -> None:
        request.waiting = False
        self.rows -= len(request.inputs)
