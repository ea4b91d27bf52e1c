"""Messages on their way in: room for their bytes, a limit of time, and an end for those that never become whole.

gRPC keeps a message below Python until it is whole. So handlers read their messages here: a read begins once there is
room, and messages that are slow are measured by what their connections have received.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

import grpc.aio

from torso.errors import DeadlineError, InputError, OverloadedError, ServiceError
from torso.serve.server.connections import ClientConnection, Connections
from torso.serve.services.callers import Caller
from torso.serve.wire.compression import inflate, is_compressed
from torso.serve.worker_threads import DaemonPool

YOUNG_S = 0.05  # a message that takes longer is looked after
RETRY_S = 0.5
DECAY = 4  # a caller's usual size falls by 1/16 with a message that is smaller
LITTLE = 4  # a caller that holds 1/16 of the room has it beyond the limit
LOOKING = 0.02  # the largest share of the time that looking after slow messages takes: thousands of streams may wait
WOKEN = 4  # reads that may begin whenever there is room again
INLINE_BYTES = 4096  # of compressed data that are inflated on the event loop


class Interruption:
    """Means to end a call from outside: its task is cancelled, and finds the error that is to end it."""

    __slots__ = ("_task", "error")

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self.error: ServiceError | None = None

    def interrupt(self, error: ServiceError) -> None:
        """End what the task does."""
        if self.error is None and self._task is not None:
            self.error = error
            self._task.cancel()

    def take_error(self) -> ServiceError | None:
        """Return the error, where the cancellation that just came is this one's; the task is not cancelled then."""
        error, self.error = self.error, None
        if error is not None and self._task is not None:
            self._task.uncancel()
        return error


class _Reading(Interruption):
    """Message that is being received."""

    __slots__ = ("begun_at", "caller", "connection", "of_stream")

    def __init__(self, caller: Caller, connection: ClientConnection, of_stream: bool) -> None:
        super().__init__()
        self.of_stream = of_stream
        self.caller = caller
        self.connection = connection
        self.begun_at = monotonic()


class Inflow:
    """Inflow of messages of at most ``max_message_bytes``, ``limit_bytes`` of them in all at once.

    They count from when their reading begins, as much as their caller's messages usually have, until they are answered;
    messages that are slow to come, by what has come. Reads wait while there is no room. A limited caller holds no more
    than it leaves free, and has room for little beyond the limit. A message that is not whole after ``receive_s``
    seconds ends its call, and so do the messages of the caller that has most on its way, once such messages hold half
    of the room.
    """

    def __init__(self, connections: Connections, *, limit_bytes: int, max_message_bytes: int, receive_s: float) -> None:
        self.held_bytes = 0  # of messages that are being answered
        self.unfinished_bytes = 0  # of slow messages, when they were last looked at
        self._connections = connections
        self._limit = limit_bytes
        self._max_message = max_message_bytes
        self._receive_s = receive_s
        self._readings: dict[_Reading, None] = {}  # oldest first
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._inflaters = DaemonPool("inflate", 1)

    async def read(
        self,
        read: Callable[[], Awaitable[Any]],
        caller: Caller,
        connection: ClientConnection,
        *,
        max_bytes: int | None = None,
        of_stream: bool = False,
    ) -> bytes:
        """Read a message, inflated, once there is room for it; its bytes count until `release`.

        max_bytes: its most bytes, where they are fewer than any message's. of_stream: whether the message may be long
        in coming, as a stream's next one may.

        Raises OverloadedError where there is no room, DeadlineError where the message is not whole in time, InputError
        where it inflates to too much or a call has none; StopAsyncIteration at the end of a stream.
        """
        if not self._has_room(caller):
            await self._wait_for_room(caller)
        expected = 0 if of_stream else caller.usual_bytes
        self._hold(caller, expected)
        try:
            data = await self._receive(read, _Reading(caller, connection, of_stream))
        finally:
            self._hold(caller, -expected)
        if max_bytes is not None and len(data) > max_bytes:
            raise InputError("request", expected=f"a message of at most {max_bytes} bytes", got=f"{len(data)}")
        if is_compressed(data):
            data = await self._inflate(data, max_bytes or self._max_message)
        size = len(data)
        caller.usual_bytes = max(size, caller.usual_bytes - (caller.usual_bytes >> DECAY))
        self._hold(caller, size)
        if self._waiting:
            self._wake()
        return data

    def release(self, caller: Caller, size: int) -> None:
        """Free the room of messages that were answered."""
        self._hold(caller, -size)
        if self._waiting:
            self._wake()

    def _hold(self, caller: Caller, size: int) -> None:
        self.held_bytes += size
        caller.held_bytes += size

    def close(self) -> None:
        """End the thread; nothing is waited for."""
        self._inflaters.close()
        if self._timer is not None:
            self._timer.cancel()

    def _has_room(self, caller: Caller) -> bool:
        """Check whether there is room for a message of a caller's usual size."""
        usual, held = caller.usual_bytes, caller.held_bytes
        free = self._limit - self.held_bytes - self.unfinished_bytes
        if not caller.limited:
            return usual <= free or not self.held_bytes
        if held + usual <= self._limit >> LITTLE:
            return free > -self._limit
        return usual <= free if held == 0 else held + usual <= free - usual

    async def _wait_for_room(self, caller: Caller) -> None:
        try:
            async with asyncio.timeout(self._receive_s):
                while not self._has_room(caller):
                    waiter = asyncio.get_running_loop().create_future()
                    self._waiting.append(waiter)
                    self._look_later(YOUNG_S)
                    await waiter
        except TimeoutError:
            raise OverloadedError(
                f"requests in flight hold {self.held_bytes + self.unfinished_bytes} of {self._limit} bytes, "
                f"{caller.held_bytes} of them this caller's",
                retry_after_s=RETRY_S,
            ) from None

    def _wake(self) -> None:
        woken = 0
        while self._waiting and woken < WOKEN and self.held_bytes + self.unfinished_bytes < self._limit:
            waiter = self._waiting.popleft()
            if not waiter.done():  # not cancelled
                waiter.set_result(None)
                woken += 1

    async def _receive(self, read: Callable[[], Awaitable[Any]], reading: _Reading) -> bytes:
        self._readings[reading] = None
        reading.connection.readings += 1
        self._look_later(YOUNG_S)
        try:
            data: Any = await read()
        except asyncio.CancelledError:
            refusal = reading.take_error()
            if refusal is None:
                raise
        else:
            if data is not grpc.aio.EOF:
                reading.connection.consume(len(data))
                return bytes(data)
            if reading.of_stream:
                raise StopAsyncIteration
            raise InputError("request", expected="a message", got="none")
        finally:
            del self._readings[reading]
            reading.connection.readings -= 1
        raise refusal  # outside of the except block, so that it keeps nothing alive

    async def _inflate(self, data: bytes, max_bytes: int) -> bytes:
        if len(data) <= INLINE_BYTES:
            return inflate(data, max_bytes)
        return await self._inflaters.run(inflate, data, max_bytes)

    # -- slow messages ------------------------------------------------------------------------------------------------

    def _look_after(self) -> None:
        """Measure the messages that are slow; end those that take too long or hold too much."""
        self._timer = None
        now = monotonic()
        slow: dict[ClientConnection, list[_Reading]] = {}
        for reading in self._readings:
            if now - reading.begun_at < YOUNG_S:
                break
            if not reading.of_stream and now - reading.begun_at > self._receive_s:
                reading.interrupt(DeadlineError(f"the request's message was not whole after {self._receive_s:g} s"))
            else:
                slow.setdefault(reading.connection, []).append(reading)
        unread = self._connections.measure(slow)
        held = {connection: self._unfinished(unread[connection], readings) for connection, readings in slow.items()}
        self._end_largest(slow, held)
        self.unfinished_bytes = sum(held.values())
        if self._waiting:
            self._wake()
        if self._readings or self._waiting:
            self._look_later(max(YOUNG_S, (monotonic() - now) / LOOKING))

    def _look_later(self, delay_s: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._look_after)

    def _unfinished(self, unread: int | None, readings: list[_Reading]) -> int:
        """Return the most bytes of a connection's messages that are not whole, of those that it has received unread.

        Where a connection cannot be measured they are taken to be whole but for a byte, and a stream's to be none: that
        most streams wait for their next message is usual.
        """
        if unread is None:
            return self._max_message * sum(not reading.of_stream for reading in readings)
        return min(unread, self._max_message * len(readings))

    def _end_largest(self, slow: dict[ClientConnection, list[_Reading]], held: dict[ClientConnection, int]) -> None:
        """End the slow messages of the callers that have most on their way, until these hold half of the room."""
        while sum(held.values()) > self._limit // 2:
            by_caller: dict[Caller, int] = {}
            for connection, size in held.items():
                caller = slow[connection][0].caller
                by_caller[caller] = by_caller.get(caller, 0) + size
            heaviest = max(by_caller, key=lambda caller: by_caller[caller])
            connection = max((each for each in held if slow[each][0].caller is heaviest), key=lambda each: held[each])
            for reading in slow[connection]:
                reading.interrupt(
                    OverloadedError(
                        f"messages that are not whole hold {sum(held.values())} of {self._limit} bytes, "
                        f"{by_caller[heaviest]} of them this caller's",
                        retry_after_s=RETRY_S,
                    )
                )
            del held[connection]
