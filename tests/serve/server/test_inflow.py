"""Room for messages on their way in, without gRPC."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import grpc.aio
import pytest

from torso.errors import DeadlineError, InputError, OverloadedError
from torso.serve.server import inflow as under_test
from torso.serve.server.connections import ClientConnection, Connections
from torso.serve.server.inflow import Inflow
from torso.serve.services.callers import Caller

LIMIT, MOST = 3200, 800


class Clients:
    """Callers whose messages are whole at once, or never."""

    def __init__(self, receive_s: float = 60.0) -> None:
        self.inflow = Inflow(Connections(10), limit_bytes=LIMIT, max_message_bytes=MOST, receive_s=receive_s)
        self.callers = {key: Caller(key, "predict", limited=True) for key in "abc"} | {
            "local": Caller("local", "admin")
        }
        self.never = asyncio.Event()

    def read(self, key: str, data: bytes, **settings: Any) -> Coroutine[Any, Any, bytes]:
        return self.inflow.read(_whole(data), self.callers[key], ClientConnection(f"unix:{key}"), **settings)

    async def unfinished(self, key: str, **settings: Any) -> bytes:
        async def read() -> None:
            await self.never.wait()

        return await self.inflow.read(read, self.callers[key], ClientConnection(f"unix:{key}"), **settings)

    def release(self, key: str, size: int) -> None:
        self.inflow.release(self.callers[key], size)


def _whole(data: Any) -> Callable[[], Awaitable[Any]]:
    async def read() -> Any:
        return data

    return read


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 30))


async def waits(reading: Coroutine[Any, Any, bytes]) -> asyncio.Task[bytes]:
    """Begin to read, and check that there is no room."""
    task = asyncio.create_task(reading)
    await asyncio.sleep(0.02)
    assert not task.done()
    return task


def test_messages_count_until_they_are_released() -> None:
    async def scenario() -> None:
        clients = Clients()
        assert await clients.read("a", b"x" * 100) == b"x" * 100
        assert clients.inflow.held_bytes == clients.callers["a"].held_bytes == 100
        clients.release("a", 100)
        assert clients.inflow.held_bytes == clients.callers["a"].held_bytes == 0
        with pytest.raises(InputError, match="request must be a message, got none"):
            await clients.read("a", grpc.aio.EOF)  # type: ignore[arg-type]
        with pytest.raises(StopAsyncIteration):
            await clients.read("a", grpc.aio.EOF, of_stream=True)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="a message of at most 50 bytes, got 51"):
            await clients.read("a", b"x" * 51, max_bytes=50)
        assert clients.inflow.held_bytes == 0

    run(scenario)


def test_a_caller_holds_no_more_than_it_leaves_free_and_waits_for_its_own() -> None:
    async def scenario() -> None:
        clients = Clients()
        for _ in range(2):
            await clients.read("a", bytes(800))  # 1,600 of 3,200
        waiting = await waits(clients.read("a", bytes(800)))
        await clients.read("b", bytes(100))  # others go on
        clients.release("b", 100)
        assert not waiting.done()
        clients.release("a", 800)
        assert len(await waiting) == 800

    run(scenario)


def test_whoever_holds_little_is_read_though_there_is_no_room_left() -> None:
    async def scenario() -> None:
        clients = Clients()
        for _ in range(4):
            await clients.read("local", bytes(800))  # all of it: this machine's callers have no share
        waiting = await waits(clients.read("local", bytes(1)))
        assert await clients.read("b", b"little") == b"little"
        clients.release("b", 6)
        clients.release("local", 800)
        assert await waiting == b"\0"

    run(scenario)


def test_the_size_that_a_callers_messages_have_is_reserved_while_they_are_read() -> None:
    async def scenario() -> None:
        clients = Clients()
        await clients.read("a", bytes(800))
        clients.release("a", 800)
        first = asyncio.create_task(clients.unfinished("a"))
        await asyncio.sleep(0)
        assert clients.inflow.held_bytes == 800
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert clients.inflow.held_bytes == 0
        for _ in range(200):
            await clients.read("a", b"x")
            clients.release("a", 1)
        assert clients.callers["a"].usual_bytes < 20  # it is forgotten

    run(scenario)


def test_who_waits_too_long_for_room_is_told_what_there_is() -> None:
    async def scenario() -> None:
        clients = Clients(receive_s=0.05)
        for _ in range(4):
            await clients.read("local", bytes(800))
        with pytest.raises(
            OverloadedError, match="requests in flight hold 3200 of 3200 bytes, 3200 of them this caller's"
        ):
            await clients.read("local", bytes(800))

    run(scenario)


def test_a_message_that_is_never_whole_ends_and_a_streams_next_one_may_take_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(under_test, "YOUNG_S", 0.01)

    async def scenario() -> None:
        clients = Clients(receive_s=0.1)
        idle = asyncio.create_task(clients.unfinished("b", of_stream=True))
        with pytest.raises(DeadlineError, match=r"the request's message was not whole after 0\.1 s"):
            await clients.unfinished("a")
        assert not idle.done()
        idle.cancel()
        await asyncio.gather(idle, return_exceptions=True)
        assert clients.inflow.held_bytes == 0

    run(scenario)


def test_of_messages_that_are_not_whole_the_heaviest_callers_end_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Unix sockets each counts as a largest message: half of the room is two of them."""
    monkeypatch.setattr(under_test, "YOUNG_S", 0.01)

    async def scenario() -> None:
        clients = Clients()
        honest = asyncio.create_task(clients.unfinished("b"))
        greedy = [asyncio.create_task(clients.unfinished("a")) for _ in range(5)]
        while sum(each.done() for each in greedy) < 4:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        left = [each for each in greedy if not each.done()]
        assert len(left) == 1
        assert not honest.done()
        for task in (honest, *left):
            task.cancel()
        ended = await asyncio.gather(*greedy, honest, return_exceptions=True)
        assert sum(isinstance(each, OverloadedError) for each in ended) == 4

    run(scenario)


def test_compressed_messages_count_as_what_they_inflate_to() -> None:
    async def scenario() -> None:
        clients = Clients()
        assert await clients.read("a", gzip.compress(bytes(700))) == bytes(700)
        assert clients.inflow.held_bytes == 700
        with pytest.raises(OverloadedError, match="inflates to more than 800 bytes"):
            await clients.read("a", gzip.compress(bytes(801)))
        assert clients.inflow.held_bytes == 700

    run(scenario)
