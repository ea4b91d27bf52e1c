"""IPC channel between a supervisor and its workers: values, errors, concurrent calls, and closing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from torso.errors import (
    DeadlineError,
    InputError,
    MissingExtraError,
    ModelDamagedError,
    ServerError,
    StorageError,
    UnavailableError,
    UnknownModelError,
)
from torso.serve.models.control import VersionSource
from torso.serve.workers.ipc import IpcChannel, PeerGoneError

Scenario = Callable[[IpcChannel, IpcChannel], Awaitable[None]]


def on_a_line(scenario: Scenario, here: dict[str, Any], there: dict[str, Any]) -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        near = await IpcChannel.open(ours, here, "far")
        far = await IpcChannel.open(theirs, there, "near")
        try:
            await asyncio.wait_for(scenario(near, far), 30)
        finally:
            near.close()
            far.close()
            await asyncio.gather(near.wait_closed(), far.wait_closed())

    asyncio.run(run())


async def echo(*arguments: Any) -> tuple[Any, ...]:
    return arguments


def test_both_ends_call_and_what_they_say_arrives_as_it_was() -> None:
    source = VersionSource(name="digits", version="3", directory=Path("/models/digits/3"), stamp="x")
    large = "x" * 3_000_000

    async def scenario(near: IpcChannel, far: IpcChannel) -> None:
        assert await near.call("echo", source, {("digits", "3"): {"rows": 7}}) == (
            source,
            {("digits", "3"): {"rows": 7}},
        )
        assert await far.call("echo") == ()
        assert await asyncio.gather(near.call("echo", large), far.call("echo", large)) == [(large,), (large,)]

    on_a_line(scenario, {"echo": echo}, {"echo": echo})


def test_a_call_that_takes_long_holds_up_no_other() -> None:
    released = asyncio.Event()
    begun = asyncio.Event()

    async def wait() -> str:
        begun.set()
        await released.wait()
        return "waited"

    async def scenario(near: IpcChannel, far: IpcChannel) -> None:
        waiting = asyncio.create_task(near.call("wait"))
        await begun.wait()
        assert await near.call("echo", 1) == (1,)
        assert await far.call("echo", 2) == (2,)  # also back, while the first is under way
        assert not waiting.done()
        released.set()
        assert await waiting == "waited"

    on_a_line(scenario, {"echo": echo}, {"echo": echo, "wait": wait})


@pytest.mark.parametrize(
    "error",
    [
        UnknownModelError("unknown model 'a'"),
        DeadlineError("too late", status="DEADLINE_EXCEEDED", violations=(("a", "b"),), retry_after_s=0.5),
        InputError("tensor.shape", expected="[4]", got="[5]"),
        MissingExtraError("tracing", "otel"),
        ModelDamagedError("weights.safetensors is truncated"),
        ServerError("the port is taken"),
        StorageError("cannot write x: the disk is full"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_ours_arrives_as_it_was(error: Exception) -> None:
    async def fail() -> None:
        raise error

    async def scenario(near: IpcChannel, far: IpcChannel) -> None:
        with pytest.raises(type(error)) as caught:
            await near.call("fail")
        assert type(caught.value) is type(error)
        assert str(caught.value) == str(error)
        assert vars(caught.value) == vars(error)

    on_a_line(scenario, {}, {"fail": fail})


def test_errors_of_others_arrive_as_text_and_the_log_has_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    async def look() -> None:
        Path("/no/such/file").read_bytes()

    async def blunder() -> None:
        raise KeyError("a secret place")

    async def unspeakable() -> Any:
        return lambda: None

    async def scenario(near: IpcChannel, far: IpcChannel) -> None:
        with pytest.raises(OSError, match="No such file or directory: '/no/such/file'"):
            await near.call("look")
        assert not caplog.records
        with pytest.raises(RuntimeError, match="KeyError: 'a secret place'"):
            await near.call("blunder")
        assert [(record.message, record.exc_info is not None) for record in caplog.records] == [
            ("blunder failed", True)
        ]
        with pytest.raises(RuntimeError, match="pickle"):
            await near.call("unspeakable")
        with pytest.raises(RuntimeError, match="KeyError: 'nonsense'"):
            await near.call("nonsense")

    on_a_line(scenario, {}, {"look": look, "blunder": blunder, "unspeakable": unspeakable})


def test_the_end_of_one_end_ends_the_calls_of_the_other() -> None:
    begun = asyncio.Event()

    async def wait() -> None:
        begun.set()
        await asyncio.Event().wait()

    async def scenario(near: IpcChannel, far: IpcChannel) -> None:
        waiting = asyncio.create_task(near.call("wait"))
        await begun.wait()
        assert not near.closed
        far.close()
        with pytest.raises(PeerGoneError, match="far has ended") as caught:
            await waiting
        assert isinstance(caught.value, UnavailableError)  # what a request that asked for it is told
        assert caught.value.status == "UNAVAILABLE"
        await near.wait_closed()
        with pytest.raises(PeerGoneError, match="far has ended"):
            await near.call("wait")

    on_a_line(scenario, {}, {"wait": wait})


def test_what_was_said_before_the_end_is_heard() -> None:
    heard: list[int] = []

    async def hear(number: int) -> None:
        heard.append(number)

    async def scenario(near: IpcChannel, far: IpcChannel) -> None:
        calls = [asyncio.create_task(far.call("hear", number)) for number in range(100)]
        await asyncio.sleep(0)  # each has been written
        far.close()
        await near.wait_closed()
        await asyncio.sleep(0)  # what was read begins
        assert heard == list(range(100))
        await asyncio.gather(*calls, return_exceptions=True)

    on_a_line(scenario, {"hear": hear}, {})


def test_a_caller_who_goes_away_hurts_nobody() -> None:
    begun, released, finished = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        begun.set()
        await released.wait()
        finished.set()

    async def scenario(near: IpcChannel, far: IpcChannel) -> None:
        waiting = asyncio.create_task(near.call("wait"))
        await begun.wait()
        waiting.cancel()
        await asyncio.wait([waiting])
        released.set()
        await finished.wait()  # what was begun is done
        assert await near.call("echo", 1) == (1,)

    on_a_line(scenario, {}, {"wait": wait, "echo": echo})
