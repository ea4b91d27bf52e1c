"""What every request passes, whichever protocol it speaks: counted in, decoded, answered, counted out.

Calls arrive as bytes, so that whatever a stranger sends, readable or not, ends in a status.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from torso.errors import InputError, UnavailableError
from torso.serve.metrics import Metrics, ModelMetrics
from torso.serve.status import to_wire

Context = grpc.aio.ServicerContext[bytes, bytes]
Request = TypeVar("Request", bound=Message)
T = TypeVar("T")

OFFLOAD_BYTES = 1 << 18  # work on more than this leaves the event loop for a thread
WORKERS = 2  # threads that decode images and handle large messages


class Call:
    """One request, or one stream, under way. ``deadline`` is on the event loop's clock; None: there is none."""

    __slots__ = ("context", "deadline", "method", "metrics", "started")

    def __init__(self, method: str, context: Context, metrics: ModelMetrics, started: float) -> None:
        self.method = method
        self.context = context
        self.metrics = metrics  # the model's, once it is known whose
        self.started = started
        remaining_s = context.time_remaining()
        self.deadline = None if remaining_s is None else started + remaining_s


class Door:
    """Lets requests in and counts them: what is in flight, how each ended. Failures leave as statuses."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.closed = False  # requests are refused
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._workers = ThreadPoolExecutor(max_workers=WORKERS, thread_name_prefix="codec")

    @property
    def busy(self) -> bool:
        """Whether requests are in flight."""
        return self._in_flight > 0

    async def wait_idle(self) -> None:
        """Return once no request is in flight."""
        await self._idle.wait()

    def end(self) -> None:
        """End the worker threads."""
        self._workers.shutdown(wait=True)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count one request, or one message of a stream, as in flight. UnavailableError once the door is closed."""
        if self.closed:  # not counted as in flight, or a stream of refusals would keep the server alive
            raise UnavailableError("the server is shutting down")
        self._in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if self._in_flight == 0:
                self._idle.set()

    def unary(
        self, answer: Callable[[Request, Call], Awaitable[Message]], request_class: type[Request]
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Wrap a method of one request and one response: bytes in, bytes or a status out."""
        name = answer.__name__

        async def handle(data: bytes, context: Context) -> bytes:
            loop = asyncio.get_running_loop()
            call = Call(name, context, self.metrics.unknown, loop.time())
            status = "OK"
            try:
                with self.request():
                    request = await self.offload(len(data) > OFFLOAD_BYTES, parse, request_class, data)
                    response = await answer(request, call)
                    return response.SerializeToString()
            except Exception as error:  # noqa: BLE001 - the boundary: to_wire logs what is not the caller's fault
                refusal = to_wire(error, name)
                status = refusal.code.name
                await context.abort(*refusal)
            except asyncio.CancelledError:
                status = "CANCELLED"
                raise
            finally:
                call.metrics.ended(status, loop.time() - call.started)

        return grpc.unary_unary_rpc_method_handler(handle)

    def stream(
        self, answer: Callable[[AsyncIterator[bytes], Call], AsyncIterator[Message]]
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Wrap a method of many requests and many responses. It decodes each request itself, within `request`."""
        name = answer.__name__

        async def handle(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
            call = Call(name, context, self.metrics.unknown, asyncio.get_running_loop().time())
            try:
                async for response in answer(requests, call):
                    yield response.SerializeToString()
            except Exception as error:  # noqa: BLE001 - the boundary: to_wire logs what is not the caller's fault
                await context.abort(*to_wire(error, name))

        return grpc.stream_stream_rpc_method_handler(handle)

    async def offload(self, heavy: bool, work: Callable[..., T], *arguments: Any) -> T:
        """Call ``work`` here, or, where it is heavy, in a thread."""
        if heavy:
            return await asyncio.get_running_loop().run_in_executor(self._workers, work, *arguments)
        return work(*arguments)


def parse(request_class: type[Request], data: bytes) -> Request:
    """Decode a message; InputError where the bytes are none."""
    try:
        return request_class.FromString(data)
    except DecodeError as error:
        expected = f"a {request_class.DESCRIPTOR.full_name}"
        raise InputError(
            "request", expected=expected, came=f"{len(data)} bytes that cannot be parsed as one"
        ) from error
