"""Request handling of every protocol: decode, answer, encode, count; errors become statuses.

Calls arrive as bytes, so that whatever a client sends, parsable or not, ends in a status.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from time import monotonic  # the event loop's clock, but for uvloop's, which stands still within a millisecond
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import grpc
import grpc.aio
import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

from torso.arrays import Array
from torso.errors import DeadlineError, UnavailableError
from torso.serve.observability.logs import ID_KEY, caller_request_id, current_call
from torso.serve.observability.metrics import Metrics, ModelMetrics
from torso.serve.services.callers import current_caller
from torso.serve.services.stream_messages import Messages
from torso.serve.wire.messages import USUAL_LIMITS, MessageLimits, Request, parse_message
from torso.serve.wire.status import WireStatus, to_wire
from torso.serve.worker_threads import DaemonPool

if TYPE_CHECKING:
    from torso.serve.inference.batcher import Batcher
    from torso.serve.observability.tracing import RequestSpan, Tracing

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[bytes, bytes]
T = TypeVar("T")

OFFLOAD_BYTES = 1 << 18  # work on more than this is done in a thread, not on the event loop
CODECS = 2  # threads that handle large messages; and one that decodes those of more than
LARGE_BYTES = 1 << 22  # bytes, of which there are three copies while they are decoded
DECODERS = 2  # threads that decode images, which take longer than any message; and one for large images, of
LARGE_PIXELS = 1 << 22  # or more, which take much memory, too
NICENESS = 10  # of threads whose work takes long: the event loop goes first
DEADLINE_SLACK_S = 0.01  # a caller's clock starts earlier than ours: a call cancelled by then was at its deadline


class Call:
    """One request, or one stream, in progress. ``deadline`` is on the event loop's clock; None: there is none."""

    __slots__ = (
        *("_in_flight", "_metrics", "_request_id"),
        *("caller", "context", "deadline", "ended", "is_heavy", "method", "span", "started"),
    )

    def __init__(
        self, method: str, context: Context, metrics: ModelMetrics, started: float, *, in_flight: int = 0
    ) -> None:
        self.method = method
        self.context = context
        self.caller = current_caller.get()
        self.started = started
        remaining_s = context.time_remaining()
        self.deadline = None if remaining_s is None else started + remaining_s
        self.ended = False
        self.is_heavy = False  # its message is too large to be worked on on the event loop
        self.span: RequestSpan | None = None
        self._metrics = metrics
        self._in_flight = in_flight  # 1: it counts as a request in flight; a stream does not, its messages do
        self._request_id: str | None = None
        metrics.in_flight += in_flight

    @property
    def metrics(self) -> ModelMetrics:
        """Metrics that count the call: set to the model's once that is known, and it is in flight there."""
        return self._metrics

    @metrics.setter
    def metrics(self, metrics: ModelMetrics) -> None:
        self._metrics.in_flight -= self._in_flight
        metrics.in_flight += self._in_flight
        self._metrics = metrics

    def check_wanted(self) -> None:
        """Check, in any thread, that somebody still waits for an answer; DeadlineError where nobody does."""
        if self.ended or (self.deadline is not None and monotonic() >= self.deadline):
            raise DeadlineError("the deadline passed, or the caller left, before the request was computed")

    @property
    def request_id(self) -> str:
        """Request id: the caller's own, or one that is generated now."""
        if self._request_id is None:
            self._request_id = secrets.token_hex(8)
        return self._request_id


class RequestHandler:
    """Handler around every method: count requests in flight and by status; turn errors into statuses.

    ``log_requests`` logs a line for every request, and one for every stream when it ends; ``tracing`` makes spans of
    both. Without them a request costs about a microsecond more than its counts.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        limits: MessageLimits = USUAL_LIMITS,
        log_requests: bool = False,
        tracing: Tracing | None = None,
    ) -> None:
        self.metrics = metrics
        self._limits = limits
        self.closed = False  # requests are refused
        self._log_requests = log_requests
        self._tracing = tracing
        self._reporting = log_requests or tracing is not None
        if tracing is not None:
            metrics.trace = tracing.computed
        self._in_flight = 0
        self._idle_waiters: list[asyncio.Future[None]] = []
        self._codecs = DaemonPool("codec", CODECS, niceness=NICENESS)
        self._large_codec = DaemonPool("large-messages", 1, niceness=NICENESS)
        self._decoders = DaemonPool("images", DECODERS, niceness=NICENESS)
        self._large_decoder = DaemonPool("large-images", 1, niceness=NICENESS)

    @property
    def busy(self) -> bool:
        """True while requests are in flight."""
        return self._in_flight > 0

    async def wait_idle(self) -> None:
        """Return once no request is in flight."""
        while self._in_flight:
            waiter = asyncio.get_running_loop().create_future()
            self._idle_waiters.append(waiter)
            await waiter

    def shutdown(self) -> None:
        """End the threads, each once its work is done; nothing is waited for."""
        self._codecs.close()
        self._large_codec.close()
        self._decoders.close()
        self._large_decoder.close()

    def _count_in(self) -> None:
        """Count one request, or one message of a stream, as in flight. UnavailableError once the server drains."""
        if self.closed:  # not counted as in flight, or a stream of refusals would keep the server from draining
            raise UnavailableError("the server is shutting down")
        self._in_flight += 1

    def _count_out(self) -> None:
        """Count a request as no longer in flight."""
        self._in_flight -= 1
        if self._in_flight == 0 and self._idle_waiters:
            for waiter in self._idle_waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._idle_waiters.clear()

    def unary(
        self, answer: Callable[[Request, Call], Awaitable[Message | bytes]], request_class: type[Request]
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Wrap a method of one request and one response, which may be serialised already: bytes in, bytes out."""
        name = answer.__name__

        async def handle(data: bytes, context: Context) -> bytes:
            call = self._begin(name, context, in_flight=1)
            request: Any = None
            refusal: WireStatus | None = None
            status = "OK"
            try:
                try:
                    self._count_in()
                    try:
                        request = await self.parse(request_class, data)
                        call.is_heavy = len(data) > OFFLOAD_BYTES
                        data = b""
                        answering, request = answer(request, call), None  # the method alone refers to it
                        response = await answering
                        return response if isinstance(response, bytes) else response.SerializeToString()
                    finally:
                        self._count_out()
                except Exception as error:  # noqa: BLE001 - the boundary: to_wire logs what is not the caller's fault
                    refusal = to_wire(error, name)
                    status = refusal.code.name
                data, request = b"", None
                await _abort(call, refusal)
            except asyncio.CancelledError:
                status = _cancelled(call)
                raise
            finally:
                self._end(call, status, refusal)

        return grpc.unary_unary_rpc_method_handler(handle)

    def stream(self, answer: Callable[[Messages, Call], AsyncIterator[Message]]) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Wrap a method of many requests and many responses. It answers each request, once decoded, in `message`."""
        name = answer.__name__

        async def handle(requests: Messages, context: Context) -> AsyncIterator[bytes]:
            call = self._begin(name, context, in_flight=0)
            refusal: WireStatus | None = None
            status = "CANCELLED"  # also where the generator is closed
            try:
                try:
                    async for response in answer(requests, call):
                        yield response.SerializeToString()
                    status = "OK"
                except Exception as error:  # noqa: BLE001 - the boundary: to_wire logs what is not the caller's fault
                    refusal = to_wire(error, name)
                    status = refusal.code.name
                if refusal is not None:
                    await _abort(call, refusal)
            except asyncio.CancelledError:
                status = _cancelled(call)
                raise
            finally:
                self._end(call, status, refusal)

        return grpc.stream_stream_rpc_method_handler(handle)

    async def message(self, stream: Call, answer: Callable[[Call], Awaitable[T]], size: int) -> T | WireStatus:
        """Answer one request, of so many bytes, of a stream, counted, logged and traced as a unary one.

        A failure is returned.

        Requests of a stream that are answered concurrently need a task each, for their traces' sake.
        """
        call = Call(stream.method, stream.context, self.metrics.unknown, monotonic(), in_flight=1)
        call._request_id = stream._request_id
        call.is_heavy = size > OFFLOAD_BYTES
        if self._tracing is not None and stream.span is not None:
            call.span = self._tracing.begin_message(stream.span, call.method, call.started)
        refusal: WireStatus | None = None
        status = "OK"
        try:
            self._count_in()
            try:
                return await answer(call)
            finally:
                self._count_out()
        except Exception as error:  # noqa: BLE001 - the boundary: to_wire logs what is not the caller's fault
            refusal = to_wire(error, call.method)
            status = refusal.code.name
            return refusal
        except asyncio.CancelledError:
            status = _cancelled(call)
            raise
        finally:
            self._end(call, status, refusal)

    async def parse(self, request_class: type[Request], data: bytes) -> Request:
        """Decode a message, a large one in a thread. InputError where it cannot be, or is beyond the limits."""
        if len(data) > LARGE_BYTES:
            return await self._large_codec.run(parse_message, request_class, data, self._limits)
        if len(data) > OFFLOAD_BYTES:
            return await self.offload(True, parse_message, request_class, data, self._limits)
        return parse_message(request_class, data, self._limits)

    async def offload(self, heavy: bool, work: Callable[..., T], *arguments: Any) -> T:
        """Call ``work`` on the event loop, or, where it is heavy, in a thread."""
        if heavy:
            return await self._codecs.run(work, *arguments)
        return work(*arguments)

    async def decode_images(self, pixels: int, work: Callable[..., T], *arguments: Any) -> T:
        """Call ``work``, which decodes images of so many pixels in all, in a thread of those that do nothing else."""
        return await (self._large_decoder if pixels > LARGE_PIXELS else self._decoders).run(work, *arguments)

    async def compute(
        self,
        batcher: Batcher,
        call: Call,
        rows: int,
        field: str,
        heavy: bool,
        read: Callable[..., Array],
        *arguments: Any,
    ) -> tuple[Array, NDArray[np.float32]]:
        """Read and compute a request's inputs; return them, [B, *shape], and the model's answers, [B, K].

        ``rows`` are as claimed by the caller; ``read(*arguments)`` validates. They count as queued before any work is
        done for them, unless they are computed at once. InputErrors name ``field``; see `Batcher` for other errors.
        """
        if not heavy and batcher.can_compute_now(rows):
            inputs = read(*arguments)
            return inputs, batcher.compute_now(inputs, call.deadline)
        with batcher.admit(rows, field, call.caller.key, call.caller.limited) as admission:
            inputs = await self.offload(heavy, read, *arguments)
            del arguments  # large ones are not kept while the rows wait
            return inputs, await batcher.submit(inputs, admission, call.deadline)

    def _begin(self, method: str, context: Context, *, in_flight: int) -> Call:
        """Begin a call; log records of this context have its request id from now on."""
        call = Call(method, context, self.metrics.unknown, monotonic(), in_flight=in_flight)
        current_call.set(call)
        metadata = context.invocation_metadata()
        call._request_id = caller_request_id(metadata)
        if self._reporting or call._request_id is not None:
            context.set_trailing_metadata(((ID_KEY, call.request_id),))
        if self._tracing is not None:
            call.span = self._tracing.begin(method, metadata, call.started)
        return call

    def _end(self, call: Call, status: str, refusal: WireStatus | None) -> None:
        """End a call: count it if it is a request, end its span, log it."""
        seconds = monotonic() - call.started
        call.ended = True
        metrics = call.metrics
        if call._in_flight:
            metrics.in_flight -= 1
            metrics.ended(status, seconds)
        if self._reporting:
            problem = "" if refusal is None else refusal.message
            if call.span is not None:
                call.span.end(seconds, status, problem, call.request_id, metrics.name, metrics.version)
            if self._log_requests:
                _log(call, status, problem, seconds)


async def _abort(call: Call, refusal: WireStatus) -> NoReturn:
    """Abort a call with a status.

    gRPC stores the exception that this raises with the call, a reference cycle that only the garbage collector finds,
    and with it the frames of its traceback: so call this outside of ``except``, and from frames that refer to nothing
    large, such as a message or a model.
    """
    metadata: tuple[tuple[str, str | bytes], ...] = (*refusal.trailing_metadata, (ID_KEY, call.request_id))
    await call.context.abort(refusal.code, refusal.message, metadata)


def _cancelled(call: Call) -> str:
    """Return the status of a cancelled call: gRPC cancels for callers that cancel and at deadlines alike."""
    late = call.deadline is not None and monotonic() > call.deadline - DEADLINE_SLACK_S
    return "DEADLINE_EXCEEDED" if late else "CANCELLED"


def _log(call: Call, status: str, problem: str, seconds: float) -> None:
    metrics = call.metrics
    logger.info(
        "%s%s%s %s in %.3f ms%s",
        call.method,
        "" if call._in_flight else " stream",
        f" of {metrics.name}" if metrics.name else "",
        status,
        seconds * 1e3,
        f": {problem}" if problem else "",
        extra={
            **({"model": metrics.name, "version": metrics.version} if metrics.name else {}),
            **{"method": call.method, "status": status, "seconds": round(seconds, 6)},
        },
    )
