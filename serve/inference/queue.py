"""Request queue of one model: requests in order of arrival, and the choice of the next batch.

Times are `time.monotonic`'s. Nothing here waits, or uses an event loop but for the futures that wake a request.
"""

from __future__ import annotations

from asyncio import Future
from collections import deque
from collections.abc import Callable
from time import monotonic
from types import TracebackType

from torso.arrays import Array, Readout
from torso.errors import DeadlineError, ServiceError
from torso.serve.inference.forward_times import LatencyEstimate

INFINITY = float("inf")
HEADROOM = 1.5  # a forward may take 1/1.5 of the time that a deadline leaves: the answer is still to be sent
UNWANTED = "the deadline passed, or the caller left, while the request was computed"
LATE = "the deadline passed, or came too near, while the request was queued"


class Admission:
    """Admitted request: its rows count as queued until a batch takes them, or until the ``with`` block ends.

    ``count(rows, requests)`` adds to the counts of queued rows and of requests.
    """

    __slots__ = (
        *("_count", "abandoned", "batch", "deadline", "done", "error", "inputs"),
        *("queued", "queued_at", "readout", "rows", "start_by", "wake"),
    )

    inputs: Array  # [b, *shape]
    deadline: float
    queued_at: float
    start_by: float  # when its batch begins, full or not
    batch: QueuedBatch  # in which it was computed
    readout: Readout  # [b, K]

    def __init__(self, count: Callable[[int, int], None], rows: int) -> None:
        self._count = count
        self.rows = rows  # that count as queued
        self.queued = False  # it waits for a batch
        self.done = False  # there is a readout, or an error
        self.abandoned = False  # its caller left while it was computed
        self.error: ServiceError | None = None
        self.wake: Future[None] | None = None  # its task awaits it, if it waits
        count(rows, 1)

    def release(self) -> None:
        """Subtract the rows from the count of queued ones, once."""
        self._count(-self.rows, 0)
        self.rows = 0

    def fail(self, error: ServiceError) -> None:
        """Finish the request with an error."""
        self.error = error
        self._wake()

    def answer(self, readout: Readout, batch: QueuedBatch) -> None:
        """Finish the request with its readout."""
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
    """Batch: requests that are computed together."""

    __slots__ = ("computed_at", "outcomes", "requests", "rows", "seconds", "taken_at")

    computed_at: float
    seconds: float  # of compute alone
    outcomes: list[Readout | Exception]  # one for each request

    def __init__(self, requests: list[Admission], rows: int, taken_at: float) -> None:
        self.requests = requests
        self.rows = rows
        self.taken_at = taken_at

    def check_wanted(self) -> None:
        """Check, in any thread, that somebody still waits for an answer; DeadlineError where nobody does."""
        now = monotonic()
        if all(request.abandoned or request.deadline <= now for request in self.requests):
            raise DeadlineError(UNWANTED)


class RequestQueue:
    """Queue of requests in order of arrival. ``rows`` is the sum of their rows."""

    def __init__(self, max_batch_rows: int, delay_s: float, latency: LatencyEstimate) -> None:
        self.rows = 0
        self._requests: deque[Admission] = deque()
        self._max_batch_rows = max_batch_rows
        self._delay_s = delay_s
        self._latency = latency

    def __len__(self) -> int:
        return len(self._requests)

    def append(self, request: Admission, inputs: Array, deadline: float, now: float) -> None:
        """Add a request to the end of the queue."""
        request.inputs, request.deadline, request.queued_at = inputs, deadline, now
        request.start_by = now + min(self._delay_s, (deadline - now) / 2)  # the other half is for computing
        request.queued = True
        self._requests.append(request)
        self.rows += len(inputs)

    def remove(self, request: Admission) -> None:
        """Remove a request from the queue."""
        self._requests.remove(request)
        self._mark_removed(request)

    def clear(self, error: ServiceError) -> None:
        """Remove all requests and fail them with ``error``."""
        while self._requests:
            request = self._requests.popleft()
            self._mark_removed(request)
            request.fail(error)

    def delay_s(self, now: float) -> float:
        """Return the seconds that the next batch still waits for more requests; 0 or less: it is due."""
        if not self._delay_s or self.rows >= self._max_batch_rows:
            return 0.0
        return min(request.start_by for request in self._requests) - now

    def compute_s(self, rows: int) -> float:
        """Estimate the seconds to compute all that is queued and so many rows more."""
        full, rest = divmod(self.rows + rows, self._max_batch_rows)
        return full * self._latency.seconds(self._max_batch_rows) + (self._latency.seconds(rest) if rest else 0.0)

    def take(self, now: float) -> QueuedBatch | None:
        """Take the next batch, in order of arrival; None where nothing is left.

        Requests whose deadline has passed are dropped, and so are those that would miss it once computed, unless no
        other is queued. The batch is cut where another request would make it too long for the deadlines of those in it.
        """
        batch: list[Admission] = []
        rows, end_by = 0, INFINITY
        near = now + HEADROOM * self._latency.seconds(self._max_batch_rows)
        while self._requests:
            request = self._requests[0]
            total = rows + len(request.inputs)
            if batch and total > self._max_batch_rows:
                break
            end = now
            if min(request.deadline, end_by) < near or total > self._max_batch_rows:
                end += HEADROOM * self._latency.seconds(total)
            late = request.deadline <= end and (request.deadline <= now or len(batch) + len(self._requests) > 1)
            if batch and end_by < end and not late:
                break
            self._requests.popleft()
            self._mark_removed(request)
            request.release()
            if late:
                request.fail(DeadlineError(LATE))
                continue
            batch.append(request)
            rows, end_by = total, min(end_by, request.deadline)
        return QueuedBatch(batch, rows, now) if batch else None

    def _mark_removed(self, request: Admission) -> None:
        request.queued = False
        self.rows -= len(request.inputs)
