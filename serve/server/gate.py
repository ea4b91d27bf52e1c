"""Gate in front of every method: who calls, whether they may, and what their messages may cost, before these are read.

Each decision is a function of the method's path, metadata, the connection's name and a message's size: `Authority`,
`Inflow` and `Connections` know nothing of gRPC. Here they meet its handlers. All methods are registered as ones that
take a stream, so that it is the gate that reads their messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from time import monotonic
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from torso.errors import DeadlineError, InputError, OverloadedError, ServiceError
from torso.serve.config import ServeConfig
from torso.serve.server.acceptor import holding_task
from torso.serve.server.auth import Authority, check_open
from torso.serve.server.connections import ClientConnection, Connections
from torso.serve.server.inflow import Inflow
from torso.serve.services.callers import Caller, current_caller
from torso.serve.services.method_table import RpcHandler
from torso.serve.services.request_handler import Context
from torso.serve.wire import status

STATUS_S = 0.1  # the most seconds that sending a status may take where the client does not read
RETRY_S = 1.0
FOREIGN_BYTES = 1 << 16  # the most of a message of the health service or of reflection
UNKNOWN_METHOD = "Method not found!"  # gRPC's own words


class Gate:
    """Gate of one listener. ``on_refusal`` is called with the status of every call that it ends."""

    def __init__(
        self,
        config: ServeConfig,
        authority: Authority,
        inflow: Inflow,
        connections: Connections,
        on_refusal: Callable[[str], None] = lambda _status: None,
    ) -> None:
        self._max_calls = config.max_calls
        self._idle_s = config.stream_idle_s
        self._authority = authority
        self._inflow = inflow
        self._connections = connections
        self._on_refusal = on_refusal
        self._streams: set[_OpenStream] = set()

    def guard(self, path: str, handler: RpcHandler) -> RpcHandler:
        """Put the gate in front of a method's handler."""
        if handler.request_streaming:
            guarded: Any = self._stream(path, handler)
        elif handler.response_streaming:
            guarded = self._watch(path, handler)
        else:
            return grpc.stream_unary_rpc_method_handler(
                self._unary(path, handler), response_serializer=handler.response_serializer
            )
        return grpc.stream_stream_rpc_method_handler(guarded, response_serializer=handler.response_serializer)

    def unknown_method(self) -> RpcHandler:
        """Build the handler of all other paths: UNIMPLEMENTED, to those who may call anything at all."""

        async def refuse(_requests: object, context: Context) -> None:
            refusal: ServiceError | None = None
            try:
                self._authority.authorize("", context.invocation_metadata() or (), context.peer())
            except ServiceError as error:
                refusal = error
            if refusal is not None:
                await self._refuse(context, refusal, "")
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, UNKNOWN_METHOD)

        return grpc.stream_stream_rpc_method_handler(refuse)

    def end_invalid_streams(self) -> None:
        """End the streams whose token was revoked, or has expired."""
        for stream in list(self._streams):
            try:
                self._authority.check_valid(stream.caller)
            except ServiceError as error:
                self._end(stream, error)

    # -- kinds of methods ---------------------------------------------------------------------------------------------

    def _unary(self, path: str, handler: RpcHandler) -> Callable[..., Awaitable[Any]]:
        """Guard a method of one request and one response."""
        answer: Any = handler.unary_unary  # a coroutine function: its type is the blocking server's
        decode = handler.request_deserializer
        max_bytes = None if decode is None else FOREIGN_BYTES

        async def guarded(_requests: object, context: Context) -> Any:
            try:
                caller, connection = self._enter(path, context)
                size = 0
                try:
                    data = await self._inflow.read(context.read, caller, connection, max_bytes=max_bytes)
                    size = len(data)
                    answered = answer(_decoded(data, decode, caller), context)
                    del data
                    return await answered
                finally:
                    self._inflow.release(caller, size)
                    _leave(caller, connection)
            except (ServiceError, InputError) as error:  # the gate's: a method's own errors are statuses by now
                refusal = error
            await self._refuse(context, refusal, path)

        return guarded

    def _watch(self, path: str, handler: RpcHandler) -> Callable[..., Awaitable[None]]:
        """Guard a method of one request and many responses, a coroutine function that writes them to the context."""
        answer: Any = handler.unary_stream
        decode = handler.request_deserializer
        max_bytes = None if decode is None else FOREIGN_BYTES

        async def guarded(_requests: object, context: Context) -> None:
            try:
                caller, connection = self._enter(path, context)
                try:
                    data = await self._inflow.read(context.read, caller, connection, max_bytes=max_bytes)
                    self._inflow.release(caller, len(data))
                    stream = _OpenStream(caller, context)
                    self._streams.add(stream)
                    try:
                        await answer(_decoded(data, decode, caller), context)
                        return
                    finally:
                        self._streams.discard(stream)
                finally:
                    _leave(caller, connection)
            except (ServiceError, InputError) as error:
                refusal = error
            await self._refuse(context, refusal, path)

        return guarded

    def _stream(self, path: str, handler: RpcHandler) -> Callable[..., AsyncIterator[Any]]:
        """Guard a method of many requests and many responses, an async generator function."""
        answer: Any = handler.stream_stream
        decode = handler.request_deserializer

        async def guarded(_requests: object, context: Context) -> AsyncIterator[Any]:
            try:
                caller, connection = self._enter(path, context)
                stream = _OpenStream(caller, context)
                self._streams.add(stream)
                messages = _StreamMessages(self, stream, connection, decode)
                watchdog = _Watchdog(stream, 2 * self._idle_s, self._end)
                try:
                    async with aclosing(answer(messages, context)) as responses:
                        async for response in responses:
                            yield response
                            stream.touch()
                    return
                finally:
                    watchdog.stop()
                    self._streams.discard(stream)
                    messages.close()
                    _leave(caller, connection)
            except (ServiceError, InputError) as error:  # of a method that does not turn errors into statuses itself
                refusal = error
            await self._refuse(context, refusal, path)

        return guarded

    # -- a call -------------------------------------------------------------------------------------------------------

    def _enter(self, path: str, context: Context) -> tuple[Caller, ClientConnection]:
        """Begin a call. Raises ServiceError where its caller may not make it."""
        name = context.peer()
        metadata: Any = context.invocation_metadata() if self._authority.has_tokens else ()
        caller = self._authority.authorize(path, metadata, name)
        if caller.limited and caller.calls >= self._max_calls:
            raise OverloadedError(
                f"this caller has {caller.calls} calls in progress, the most that one may", retry_after_s=RETRY_S
            )
        connection = self._connections.get(name)
        connection.is_known = connection.is_known or caller.role is not None
        connection.calls += 1
        caller.calls += 1
        current_caller.set(caller)
        return caller, connection

    async def _refuse(self, context: Context, error: ServiceError | InputError, path: str) -> None:
        refusal = status.to_wire(error, path)
        self._on_refusal(refusal.code.name)
        await context.abort(*refusal)

    def _end(self, stream: _OpenStream, error: ServiceError) -> None:
        """End a stream from outside of its task."""
        if stream.end(error):
            self._on_refusal(status.to_wire(error, "").code.name)


class _OpenStream:
    """Stream that goes on. Create it in its task."""

    def __init__(self, caller: Caller, context: Context) -> None:
        self.caller = caller
        self.context = context
        self.active_at = monotonic()
        self._task = asyncio.current_task()
        self._call = holding_task.get()
        self._ending: asyncio.Task[None] | None = None

    def touch(self) -> None:
        """Note that a message, or an answer, has passed."""
        self.active_at = monotonic()

    def end(self, error: ServiceError) -> bool:
        """End it with a status; return whether nobody had before."""
        if self._ending is not None:
            return False
        self._ending = asyncio.ensure_future(self._abort(error))
        return True

    async def wait_for_end(self) -> None:
        """Wait until the stream's task is cancelled, if the stream was ended from outside: it is to do no more."""
        if self._ending is not None:
            await asyncio.get_running_loop().create_future()

    async def _abort(self, error: ServiceError) -> None:
        # Cancelling alone would send the caller no status at all. gRPC sends it, behind the answers that the client
        # does not read, where it can (InternalError: it cannot); waiting for that could take forever.
        with suppress(grpc.aio.AbortError, grpc.aio.UsageError, grpc.aio.InternalError, TimeoutError):
            async with asyncio.timeout(STATUS_S):
                await self.context.abort(*status.to_wire(error, ""))
        if self._task is not None:
            self._task.cancel()
        if self._call is not None:
            await asyncio.wait({self._call}, timeout=STATUS_S)
            self._call.cancel()


class _Watchdog:
    """Watchdog timer of a stream: it ends where neither a message nor an answer passes for so many seconds."""

    def __init__(self, stream: _OpenStream, limit_s: float, end: Callable[[_OpenStream, ServiceError], None]) -> None:
        self._stream = stream
        self._limit_s = limit_s
        self._end = end
        self._timer = asyncio.get_running_loop().call_later(limit_s, self._check)

    def stop(self) -> None:
        self._timer.cancel()

    def _check(self) -> None:
        left_s = self._stream.active_at + self._limit_s - monotonic()
        if left_s > 0:
            self._timer = asyncio.get_running_loop().call_later(left_s, self._check)
        else:
            self._end(self._stream, DeadlineError("the client did not read the stream's answers"))


class _StreamMessages:
    """Messages of a stream, read through the gate: see `Messages`."""

    def __init__(
        self,
        gate: Gate,
        stream: _OpenStream,
        connection: ClientConnection,
        decode: Callable[[bytes], Any] | None,
    ) -> None:
        self._gate = gate
        self._stream = stream
        self._connection = connection
        self._decode = decode
        self._held = 0  # bytes of messages that are not answered

    def __aiter__(self) -> _StreamMessages:
        return self

    async def __anext__(self) -> Any:
        """Return the next message; StopAsyncIteration once there is none."""
        gate, caller = self._gate, self._stream.caller
        gate._authority.check_valid(caller)
        try:
            async with asyncio.timeout(gate._idle_s):
                data = await gate._inflow.read(
                    self._stream.context.read,
                    caller,
                    self._connection,
                    max_bytes=None if self._decode is None else FOREIGN_BYTES,
                    of_stream=True,
                )
        except TimeoutError:
            raise DeadlineError(f"the stream had no request for {gate._idle_s:g} s") from None
        except grpc.aio.AbortError:
            await self._stream.wait_for_end()
            raise
        self._held += len(data)
        gate._authority.check_valid(caller)
        self._stream.touch()
        if self._decode is None:
            return data
        self.answered(len(data))
        return _decoded(data, self._decode, caller)

    def answered(self, size: int) -> None:
        """Free the room of a message of so many bytes."""
        self._held -= size
        self._gate._inflow.release(self._stream.caller, size)

    def close(self) -> None:
        """Free the room of all messages."""
        self.answered(self._held)


def _decoded(data: bytes, decode: Callable[[bytes], Any] | None, caller: Caller) -> Any:
    """Decode a message, where its method does not do so itself; the health service's are checked, too."""
    if decode is None:
        return data
    try:
        message = decode(data)
    except DecodeError as error:
        raise InputError("request", expected="a message of the method", got=f"{len(data)} other bytes") from error
    if isinstance(message, health_pb2.HealthCheckRequest):
        check_open(caller, message.service)
    return message


def _leave(caller: Caller, connection: ClientConnection) -> None:
    caller.calls -= 1
    connection.calls -= 1
