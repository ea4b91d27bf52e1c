"""Dynamic batching: requests queue while the model computes; once it is free, the next batch takes what is queued.

The queue belongs to the event loop, so it needs no locks. A small batch is computed on the loop, since a switch of
threads would cost more than the batch itself; a larger one in the model's own thread. Limits count rows, not requests.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Generator
from time import monotonic  # the event loop's clock; uvloop's own reading of it goes by milliseconds

from torso.arrays import Array, Readout
from torso.errors import DeadlineError, InputError, OverloadedError, TorsoError, UnavailableError
from torso.serve.inference.forward import Forward, InferenceThread
from torso.serve.inference.forward_times import LatencyEstimate
from torso.serve.inference.queue import HEADROOM, INFINITY, LATE, Admission, QueuedBatch, RequestQueue
from torso.serve.inference.shares import Holding, share_rows
from torso.serve.observability.metrics import ModelMetrics
from torso.serve.wire.status import internal_error

__all__ = ["Admission", "Batcher"]


MIN_RETRY_S, MAX_RETRY_S = 0.01, 5.0
PIECE_S = 0.01  # the most seconds that a piece of a large request should take
TIMER_S = 0.002  # shorter delays than this, a loop's timers, which have a resolution of milliseconds, would miss


@types.coroutine
def _yield_to_loop() -> Generator[None, None, None]:
    """Yield to the event loop once, so that everything else that is ready runs first."""
    yield


class Batcher:
    """Dynamic batcher of one model: its queue, its forward and the thread for large batches.

    ``forward`` maps [B, *shape] to [B, K]; it is never called twice at once. A batch holds at most ``max_batch_rows``;
    a request of more is computed in pieces of that size, between which other callers have their turn: see `queue.py`.
    A batch of at most ``inline_rows`` is
    computed on the event loop; a request of as many that finds the model free, in `compute_now`, without waiting for
    others. A batch that is not full waits until its oldest request is ``max_delay_us`` old. ``latency`` estimates the
    seconds of forwards, where that is known: requests that cannot be answered before their deadline are then refused at
    once. Times are `time.monotonic`'s, the event loop's clock. All methods belong to the event loop's thread.
    """

    def __init__(
        self,
        name: str,
        forward: Callable[[Array], Readout],
        *,
        max_batch_rows: int,
        max_queue_rows: int,
        max_delay_us: int = 0,
        inline_rows: int = 0,
        metrics: ModelMetrics | None = None,
        latency: LatencyEstimate | None = None,
    ) -> None:
        self.name = name
        self.max_batch_rows = max_batch_rows
        self.max_queue_rows = max_queue_rows
        self.max_delay_us = max_delay_us
        self.inline_rows = inline_rows
        self._immediate_rows = 0 if max_delay_us else min(inline_rows, max_queue_rows)
        self.queued_rows = 0
        self._metrics = ModelMetrics() if metrics is None else metrics
        self._latency = LatencyEstimate() if latency is None else latency
        self._forward = Forward(name, forward, max_batch_rows)
        self._thread = InferenceThread(f"infer-{name}")
        self._queue = RequestQueue(max_batch_rows, max_delay_us * 1e-6, self._latency, PIECE_S)
        self._computing: QueuedBatch | None = None  # in the thread
        self._continues = False  # the next batch starts in the loop's next turn; one a turn, whoever comes meanwhile
        self._timer: asyncio.Handle | None = None
        self._holdings: dict[str, Holding] = {}  # of limited callers
        self._refused_caller = ""  # the latest that found no room, and when
        self._refused_at = -INFINITY
        self._requests = 0  # admitted, and not yet at the end of their ``with`` blocks
        self._drain_waiters: list[asyncio.Future[None]] = []  # of `wait_drained`
        self._closed = False

    @property
    def forwards(self) -> int:
        """Number of forwards so far."""
        return self._forward.calls

    @property
    def rows(self) -> int:
        """Number of rows of all forwards so far."""
        return self._forward.rows

    # -- a request ----------------------------------------------------------------------------------------------------

    def admit(self, rows: int, field: str, caller: str = "", limited: bool = False) -> Admission:
        """Admit a request of so many rows, before any work is done for it.

        ``caller`` is the key by which callers take turns; a ``limited`` one may hold the rows of `share_rows`. Raises
        OverloadedError while the queue is too full for it, or its caller holds too much of it, InputError where it
        could never fit, UnavailableError after `close`.
        """
        if self._closed:
            raise UnavailableError("the server is shutting down")
        if limited:
            return self._admit_limited(rows, field, caller)
        if self.queued_rows + rows > self.max_queue_rows:
            raise self._refusal(
                rows, field, caller, f"{self.queued_rows} of at most {self.max_queue_rows} rows are queued"
            )
        return Admission(self._count, rows, caller)

    def _admit_limited(self, rows: int, field: str, caller: str) -> Admission:
        holding = self._holdings.get(caller)
        held = 0 if holding is None else holding.rows
        contended = self.queued_rows > held or self._refused_lately(caller)
        share = share_rows(self.max_queue_rows, self.queued_rows, held, contended=contended)
        if held + rows > share or rows > self.max_queue_rows:
            what = f"caller holds {held} of at most {share} rows while others wait"
            if not contended:
                what = f"{held} of at most {share} rows are queued"
            raise self._refusal(rows, field, caller, what, is_greedy=held > 0)
        if holding is None:
            holding = self._holdings[caller] = Holding(caller, self._count, self._holdings.pop)
        return Admission(holding.count, rows, caller)

    def _refused_lately(self, caller: str) -> bool:
        """Check whether another caller found no room, and may be about to try again."""
        return caller != self._refused_caller and monotonic() < self._refused_at + MAX_RETRY_S

    def _refusal(self, rows: int, field: str, caller: str, what: str, *, is_greedy: bool = False) -> TorsoError:
        if rows > self.max_queue_rows:
            return InputError(field, expected=f"at most {self.max_queue_rows} rows a request", got=f"{rows}")
        now = monotonic()
        if not is_greedy:
            self._refused_caller, self._refused_at = caller, now
        return OverloadedError(
            f"model {self.name!r}: {what}; no room for {rows} more",
            retry_after_s=_retry_s(self._expected_s(rows, caller, now)),
        )

    def can_compute_now(self, rows: int) -> bool:
        """Check whether `compute_now` takes so many rows: the model is free, and nothing is queued."""
        return rows <= self._immediate_rows and self._computing is None and not self._queue.rows and not self._closed

    def compute_now(self, inputs: Array, deadline: float | None = None) -> Readout:
        """Compute one request's rows, [b, *shape] to [b, K], on the event loop, past the queue.

        Only where `can_compute_now`. Raises DeadlineError where the ``deadline`` has passed; InternalServiceError where
        the forward fails.
        """
        started = monotonic()
        if deadline is not None and deadline <= started:
            raise DeadlineError(LATE)
        try:
            readout = self._forward(inputs)
        except Exception as error:
            raise internal_error(error, f"a forward of model {self.name!r}") from error
        done = monotonic()
        self._metrics.computed_at_once(len(inputs), done - started)
        if self._metrics.trace is not None:
            self._metrics.trace(started, started, done, len(inputs))
        return readout

    async def submit(self, inputs: Array, admission: Admission, deadline: float | None = None) -> Readout:
        """Queue one request's rows, [b, *shape], and return their readout, [b, K], once their batch is computed.

        Raises OverloadedError where the queue is too long for its ``deadline``; DeadlineError where that passes in the
        queue, and nothing is computed then; InternalServiceError where the forward fails. When the caller is cancelled
        its rows leave the queue.
        """
        if self._closed:
            raise UnavailableError("the server is shutting down")
        now = monotonic()
        if deadline is None:
            deadline = INFINITY
        elif self._queue.rows or self._computing is not None:
            self._check_deadline(len(inputs), admission.caller, deadline, now)
        self._queue.append(admission, inputs, deadline, now)
        try:
            if self._computing is None:
                await _yield_to_loop()  # requests that arrive in this turn of the loop join the batch
                if admission.queued and self._computing is None:
                    self._start()
            if not admission.done:
                admission.wake = asyncio.get_running_loop().create_future()
                await admission.wake
        finally:
            if admission.queued:  # its caller was cancelled
                self._queue.remove(admission)
        if admission.error is not None:
            try:
                raise admission.error
            finally:
                admission.error = None  # or the two would refer to each other, through this frame
        if self._metrics.trace is not None:
            batch = admission.batch
            self._metrics.trace(admission.queued_at, batch.taken_at, batch.computed_at, batch.rows)
        return admission.readout

    def _count(self, rows: int, requests: int) -> None:
        self.queued_rows += rows
        self._metrics.queued_rows += rows
        self._requests += requests
        if self._drain_waiters:
            self._notify_drained()

    def _check_deadline(self, rows: int, caller: str, deadline: float, now: float) -> None:
        if deadline <= now:
            raise DeadlineError(LATE)
        left_s = (deadline - now) / HEADROOM - self._computing_s(now)
        if self._queue.compute_all_s(rows) <= left_s:
            return  # without a look at every caller
        if self._queue.compute_s(rows, caller) > left_s:
            raise OverloadedError(
                f"model {self.name!r}: too much is queued for an answer before the deadline",
                retry_after_s=_retry_s(self._expected_s(rows, caller, now)),
            )

    def _expected_s(self, rows: int, caller: str, now: float) -> float:
        """Estimate the seconds until what computes, what goes before a caller's next rows, and these are computed."""
        return self._computing_s(now) + self._queue.compute_s(rows, caller)

    def _computing_s(self, now: float) -> float:
        """Estimate the seconds until what computes is computed."""
        if self._computing is None:
            return 0.0
        return max(self._computing.taken_at + self._latency.seconds(self._computing.rows) - now, 0.0)

    # -- a batch ------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Start the next batch, if the model is free and the batch is full or due."""
        if self._computing is not None or not self._queue:
            return
        loop = asyncio.get_running_loop()
        now = monotonic()
        delay_s = self._queue.delay_s(now)
        if delay_s > 0:
            self._start_in(delay_s, loop)
            return
        batch = self._queue.take(now)
        if batch is None:
            return
        for request in batch.requests:
            if not request.pieces:  # none of it was computed before
                self._metrics.queue.observe(now - request.queued_at)
        if batch.rows > self.inline_rows:
            self._computing = batch
            self._thread.submit(loop, self._compute, batch, self._finish)
            return
        self._compute(batch)
        self._latency.observe(batch.rows, batch.seconds)
        self._answer(batch)
        if self._queue and not self._continues:
            self._continues = True
            loop.call_soon(self._continue)

    def _continue(self) -> None:
        self._continues = False
        self._start()

    def _start_in(self, delay_s: float, loop: asyncio.AbstractEventLoop) -> None:
        """Schedule `_start` in so many seconds; where they are too few for a timer, at the next turn of the loop."""
        if self._timer is None:
            timed = delay_s > TIMER_S
            self._timer = loop.call_later(delay_s - TIMER_S / 2, self._wake) if timed else loop.call_soon(self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._start()

    def _compute(self, batch: QueuedBatch) -> None:
        """Compute a batch, on the event loop or in the thread."""
        started = monotonic()
        batch.outcomes = self._forward.outcomes(batch.inputs)
        batch.computed_at = monotonic()
        batch.seconds = batch.computed_at - started

    def _finish(self, batch: QueuedBatch) -> None:
        """Finish a batch of the thread. The next one starts first, so that it computes while answers are written.

        After a piece it starts last: it may hold the next piece, which an error of this one would make needless.
        """
        self._computing = None
        self._latency.observe(batch.rows, monotonic() - batch.taken_at)
        if self._queue.rows > self.inline_rows and not batch.requests[0].left:
            self._start()
        self._answer(batch)
        self._start()
        self._notify_drained()

    def _answer(self, batch: QueuedBatch) -> None:
        """Deliver a batch's readouts and errors to its requests."""
        failures = [outcome for outcome in batch.outcomes if isinstance(outcome, Exception)]
        if failures:
            self._fail_requests(batch, failures)
        else:
            self._metrics.computed(batch.rows, len(batch.requests), batch.seconds)
        for request, outcome in zip(batch.requests, batch.outcomes, strict=True):
            if not isinstance(outcome, Exception):
                request.answer(outcome, batch)

    def _fail_requests(self, batch: QueuedBatch, failures: list[Exception]) -> None:
        """Fail requests: one logged incident where the model fails for all, else one for each that it fails for."""
        where = f"a forward of model {self.name!r}"
        common = internal_error(failures[0], where) if len(failures) == len(batch.requests) else None
        for request, outcome in zip(batch.requests, batch.outcomes, strict=True):
            if isinstance(outcome, Exception):
                if request.queued:
                    self._queue.remove(request)
                request.fail(common or internal_error(outcome, where))

    # -- shutdown -----------------------------------------------------------------------------------------------------

    async def wait_drained(self) -> None:
        """Wait until no request is admitted any more, and nothing computes."""
        while self._requests or self._computing is not None:
            waiter = asyncio.get_running_loop().create_future()
            self._drain_waiters.append(waiter)
            await waiter

    def _notify_drained(self) -> None:
        if not self._requests and self._computing is None:
            for waiter in self._drain_waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._drain_waiters.clear()

    def close(self) -> None:
        """Refuse queued and new requests. A running forward is not waited for: see `wait_drained`."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._queue.clear(UnavailableError("the server is shutting down"))
        self._thread.close(is_idle=self._computing is None)


def _retry_s(expected_s: float) -> float:
    return min(max(expected_s, MIN_RETRY_S), MAX_RETRY_S)
