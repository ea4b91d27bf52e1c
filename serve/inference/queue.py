"""Request queue of one model: its callers' turns, and the choice of the next batch.

Callers take turns by self-clocked fair queueing (Golestani 1994), counted in rows. A unit is what one turn computes: a
request of at most ``max_batch_rows``, or the next piece of a larger one. A caller's next unit is due at the virtual
time at which its last one was, or the caller came, plus the unit's rows; what is due first goes first, and virtual time
moves on to it. A caller's own requests keep their order. Nothing is remembered of a caller that has nothing queued.

Times are `time.monotonic`'s. Nothing here waits, or uses an event loop but for the futures that wake a request.
"""

from __future__ import annotations

from asyncio import Future
from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush, heapreplace
from types import TracebackType

import numpy as np

from torso.arrays import Array, Readout
from torso.errors import DeadlineError, ServiceError
from torso.serve.inference.forward_times import LatencyEstimate

INFINITY = float("inf")
HEADROOM = 1.5  # a forward may take 1/1.5 of the time that a deadline leaves: the answer is still to be sent
LATE = "the deadline passed, or came too near, while the request was queued"
LATE_IN_PIECES = "the deadline passed, or came too near, while the request was computed"


class Admission:
    """Admitted request: its rows count as queued until a batch takes them, or until the ``with`` block ends.

    ``count(rows, requests)`` adds to the counts of queued rows and of requests. ``caller`` is whose turn it waits for.
    """

    __slots__ = (
        *("_count", "batch", "caller", "deadline", "done", "error", "inputs", "left", "pieces"),
        *("queued", "queued_at", "readout", "rows", "start_by", "wake"),
    )

    inputs: Array  # [b, *shape]
    deadline: float
    queued_at: float
    start_by: float  # when its batch begins, full or not
    left: int  # rows that no batch has taken
    batch: QueuedBatch  # in which it was computed
    readout: Readout  # [b, K]

    def __init__(self, count: Callable[[int, int], None], rows: int, caller: str = "") -> None:
        self._count = count
        self.caller = caller
        self.rows = rows  # that count as queued
        self.queued = False  # it, or what is left of it, waits for a batch
        self.done = False  # there is a readout, or an error
        self.pieces: list[Readout] | None = None  # that are computed, where it is taken in pieces
        self.error: ServiceError | None = None
        self.wake: Future[None] | None = None  # its task awaits it, if it waits
        count(rows, 1)

    def release(self) -> None:
        """Subtract the rows from the count of queued ones, once."""
        self._count(-self.rows, 0)
        self.rows = 0

    def take(self, rows: int) -> Array:
        """Take so many of the rows that are left, [rows, *shape]; these count as queued no longer."""
        start = len(self.inputs) - self.left
        self.left -= rows
        if self.left:
            self._count(-rows, 0)
            self.rows -= rows
        else:
            self.release()
        if self.pieces is None:
            self.pieces = []
        return self.inputs[start : start + rows]

    def fail(self, error: ServiceError) -> None:
        """Finish the request with an error."""
        self.error = error
        self._wake()

    def answer(self, readout: Readout, batch: QueuedBatch) -> None:
        """Finish the request with its readout; one in pieces, with the last of them."""
        if self.pieces is None:
            self.readout, self.batch = readout, batch
            self._wake()
        else:
            self._add_piece(self.pieces, readout, batch)

    def _add_piece(self, pieces: list[Readout], readout: Readout, batch: QueuedBatch) -> None:
        if not pieces:  # its pieces count as one batch of its rows alone
            self.batch = QueuedBatch([self], [self.inputs], len(self.inputs), batch.taken_at)
        pieces.append(readout)
        if not self.left:
            self.readout, self.batch.computed_at = np.concatenate(pieces), batch.computed_at
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
    """Batch: requests, or pieces of requests, that are computed together."""

    __slots__ = ("computed_at", "inputs", "outcomes", "requests", "rows", "seconds", "taken_at")

    computed_at: float
    seconds: float  # of compute alone
    outcomes: list[Readout | Exception]  # one for each request

    def __init__(self, requests: list[Admission], inputs: list[Array], rows: int, taken_at: float) -> None:
        self.requests = requests
        self.inputs = inputs  # of each request, [b, *shape]: those of its rows that this batch computes
        self.rows = rows
        self.taken_at = taken_at


class CallerQueue:
    """Queue of one caller's requests. ``rows`` is the sum of what is left of them."""

    __slots__ = ("key", "requests", "rows", "start")

    def __init__(self, key: str, start: int) -> None:
        self.key = key
        self.requests: deque[Admission] = deque()
        self.rows = 0
        self.start = start  # virtual time at which the caller came, or its latest unit was due


class RequestQueue:
    """Queue of all callers' requests. ``rows`` is the sum of what is left of them.

    While one caller is alone, no virtual time passes: only differences of it matter.
    """

    def __init__(
        self, max_batch_rows: int, delay_s: float, latency: LatencyEstimate, piece_s: float = INFINITY
    ) -> None:
        self.rows = 0
        self._piece_s = piece_s
        self._callers: dict[str, CallerQueue] = {}  # that have requests here
        self._order: list[tuple[int, int, CallerQueue]] = []  # a heap, by when the next unit is due, then by number
        self._number = 0  # of the latest entry of the heap
        self._now = 0  # virtual time
        self._max_batch_rows = max_batch_rows
        self._delay_s = delay_s
        self._latency = latency

    def __len__(self) -> int:
        return sum(len(caller.requests) for caller in self._callers.values())

    def __bool__(self) -> bool:
        return bool(self._order)

    def append(self, request: Admission, inputs: Array, deadline: float, now: float) -> None:
        """Add a request to the end of its caller's queue."""
        request.inputs, request.deadline, request.queued_at = inputs, deadline, now
        if self._delay_s:
            request.start_by = now + min(self._delay_s, (deadline - now) / 2)  # the other half is for computing
        request.queued = True
        request.left = rows = len(inputs)
        self.rows += rows
        caller = self._callers.get(request.caller)
        if caller is not None:
            caller.requests.append(request)
            caller.rows += rows
            return
        caller = self._callers[request.caller] = CallerQueue(request.caller, self._now)
        caller.requests.append(request)
        caller.rows = rows
        heappush(self._order, self._entry(caller))

    def remove(self, request: Admission) -> None:
        """Remove a request, or what is left of it, from the queue."""
        caller = self._callers[request.caller]
        was_next = caller.requests[0] is request
        caller.requests.remove(request)
        self._mark_removed(request, caller)
        if was_next:
            place = next(place for place, entry in enumerate(self._order) if entry[2] is caller)
            if caller.requests:
                self._order[place] = self._entry(caller)
            else:
                del self._order[place], self._callers[caller.key]
            heapify(self._order)

    def clear(self, error: ServiceError) -> None:
        """Remove all requests and fail them with ``error``."""
        for caller in self._callers.values():
            for request in caller.requests:
                self._mark_removed(request, caller)
                request.fail(error)
        self._callers.clear()
        self._order.clear()

    def delay_s(self, now: float) -> float:
        """Return the seconds that the next batch still waits for more requests; 0 or less: it is due."""
        if not self._delay_s or self.rows >= self._max_batch_rows:
            return 0.0
        return min(request.start_by for caller in self._callers.values() for request in caller.requests) - now

    def compute_all_s(self, rows: int) -> float:
        """Estimate the seconds to compute all that is queued and so many rows more."""
        return self._batches_s(self.rows + rows)

    def compute_s(self, rows: int, caller: str = "") -> float:
        """Estimate the seconds to compute so many rows more of a caller's, and what goes before them.

        That is what the caller has queued, and of each other caller at most as many rows as both together.
        """
        own = self._callers.get(caller)
        most = rows if own is None else rows + own.rows
        total = most + sum(min(other.rows, most) for other in self._callers.values() if other is not own)
        return self._batches_s(total)

    def take(self, now: float) -> QueuedBatch | None:
        """Take the next batch, unit by unit in the order in which they are due; None where nothing is left.

        Requests whose deadline has passed are dropped, and so are those that would miss it once computed, unless no
        other is queued. The batch is cut where another unit would make it too long for the deadlines of those in it.
        """
        batch: list[Admission] = []
        inputs: list[Array] = []
        rows, end_by, max_rows, order = 0, INFINITY, self._max_batch_rows, self._order
        near = now + HEADROOM * self._latency.seconds(max_rows)
        alone = False  # units were taken while no other caller had any
        while order:
            caller = order[0][2]
            request = caller.requests[0]
            deadline, left = request.deadline, request.left
            total = rows + left
            if batch and total > max_rows:
                break
            end = now
            earliest = deadline if deadline < end_by else end_by
            if earliest < near or total > max_rows:
                end += HEADROOM * self._batches_s(total)
            late = deadline <= end and (deadline <= now or len(batch) + len(caller.requests) + len(order) > 2)
            if batch and end_by < end and not late:
                break
            if late:
                self._drop(request, caller)
                continue
            batch.append(request)
            if left > max_rows:  # the first and only one
                left = self._piece_rows()
                inputs.append(request.take(left))
                request.start_by = now  # what is left of it waits for no others
            else:
                caller.requests.popleft()
                request.queued = False
                if request.pieces is None:
                    request.left = 0
                    request.release()
                    inputs.append(request.inputs)
                else:
                    inputs.append(request.take(left))
            caller.rows -= left
            self.rows -= left
            rows += left
            end_by = earliest
            if len(order) > 1:
                caller.start = order[0][0]
                if caller.start > self._now:
                    self._now = caller.start
                self._reorder(caller)
            elif caller.requests:
                alone = True
            else:
                self._reorder(caller)
        if alone and order:
            caller = order[0][2]
            caller.start = self._now
            order[0] = self._entry(caller)
        return QueuedBatch(batch, inputs, rows, now) if batch else None

    def _piece_rows(self) -> int:
        """Return the rows of a piece: a batch's, or fewer where that takes long, since others wait for its end."""
        rows = self._max_batch_rows
        while rows > 1 and self._latency.seconds(rows) > self._piece_s:
            rows //= 2
        return rows

    def _batches_s(self, rows: int) -> float:
        """Estimate the seconds to compute so many rows in full batches, and a last one."""
        full, rest = divmod(rows, self._max_batch_rows)
        return full * self._latency.seconds(self._max_batch_rows) + (self._latency.seconds(rest) if rest else 0.0)

    def _drop(self, request: Admission, caller: CallerQueue) -> None:
        """Drop the request that is next for its deadline."""
        caller.requests.popleft()
        self._mark_removed(request, caller)
        self._reorder(caller)
        request.release()
        request.fail(DeadlineError(LATE if request.pieces is None else LATE_IN_PIECES))

    def _mark_removed(self, request: Admission, caller: CallerQueue) -> None:
        request.queued = False
        caller.rows -= request.left
        self.rows -= request.left

    def _reorder(self, caller: CallerQueue) -> None:
        """Move the caller, which is the next, to where its next unit is due, or forget it."""
        if caller.requests:
            heapreplace(self._order, self._entry(caller))
        else:
            heappop(self._order)
            del self._callers[caller.key]

    def _entry(self, caller: CallerQueue) -> tuple[int, int, CallerQueue]:
        self._number += 1
        return caller.start + min(caller.requests[0].left, self._max_batch_rows), self._number, caller
