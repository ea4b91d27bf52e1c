"""Health service: what watchers are sent, and that those who do not read hold up nobody."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from bare_http2 import (
    ACK,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PING,
    SETTINGS,
    Connection,
    Frame,
    frame,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc
from obstinate import FOLDER, publish
from server_process import Process, free_port

from torso.serve import Client
from torso.serve.server import health
from torso.serve.server.health import MAX_NAME, NOT_SERVING, SERVING, UNKNOWN, HealthServicer

WATCH = b"/grpc.health.v1.Health/Watch"
OVERTIME_S = 1.0  # beyond drain_s and finish_s


class DeafWatcher(Connection):
    """Watches health and grants no window for the answer; it acknowledges settings and answers pings for ever."""

    def __init__(self, port: int) -> None:
        super().__init__(port, settings=INITIAL_WINDOW_SIZE.to_bytes(2, "big") + bytes(4))
        self.socket.settimeout(None)
        self.answered = threading.Event()  # headers came, so the state is on its way
        threading.Thread(target=self._read_on, daemon=True).start()
        self.call(WATCH)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # the server was first
            self.socket.shutdown(socket.SHUT_RDWR)  # a thread that reads would keep the connection open
        super().close()

    def _read_on(self) -> None:
        while (read := self._read_or_end()) is not None:
            if read.kind == HEADERS:
                self.answered.set()
            if read.kind in (PING, SETTINGS) and not read.flags & ACK:
                with contextlib.suppress(OSError):  # either end has closed the connection
                    self.send(frame(read.kind, ACK, 0, read.payload if read.kind == PING else b""))

    def _read_or_end(self) -> Frame | None:
        try:
            return self.read()
        except OSError:  # closed by this end
            return None


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """``start(models=[...], ready=False)``: serve in a process of its own, killed at the end."""
    started: list[Process] = []

    def run(**settings: Any) -> Process:
        process = Process(tmp_path / "server", {FOLDER: str(tmp_path), "OMP_NUM_THREADS": "1"}, **settings)
        started.append(process)
        return process

    yield run
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait()


def test_a_deaf_watcher_does_not_keep_a_loading_server_from_being_ready(
    start: Callable[..., Process], tmp_path: Path
) -> None:
    (tmp_path / "hold").touch()
    model = publish(tmp_path / "m")
    server = start(
        models=[str(model)], import_modules=["obstinate"], backend="torch", port=free_port(), ready=False, finish_s=1.0
    )
    with DeafWatcher(server.port) as watcher, Client(server.address) as client:
        assert watcher.answered.wait(30)
        assert not client.healthy()
        (tmp_path / "released").touch()
        server.wait_for((server.folder / "port").exists)
        assert client.healthy()
        server.end()


def test_a_deaf_watcher_does_not_hold_up_the_end(start: Callable[..., Process], models: Any) -> None:
    server = start(models=[str(models.cartpole)], drain_s=1.0, finish_s=1.0)
    with DeafWatcher(server.port) as watcher, Client(server.address) as client:
        assert watcher.answered.wait(30)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        server.wait_for(lambda: not client.healthy())
        assert server.process.wait(30) == 0
        assert time.monotonic() - began < 2.0 + OVERTIME_S
    assert "Traceback" not in server.log


def test_the_second_signal_ends_a_process_whose_event_loop_is_stuck(models: Any, tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text("import pathlib, time\npathlib.Path('entered').touch()\ntime.sleep(1000)\n")
    command = [sys.executable, "-m", "torso.cli", "serve", models.cartpole, "--import-modules", "stuck", "--port", "0"]
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path}
    with subprocess.Popen([*map(str, command)], cwd=tmp_path, env=environment, stderr=subprocess.PIPE) as process:
        try:
            while not (tmp_path / "entered").exists():
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):  # the first leaves it the time that is configured
                process.wait(1)
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
            assert process.stderr is not None
            assert b"ends without waiting any longer" in process.stderr.read()
        finally:
            process.kill()


# -- what watchers are sent ---------------------------------------------------------------------------------------


Watch = grpc.aio.UnaryStreamCall[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]


@contextlib.asynccontextmanager
async def serving(servicer: HealthServicer) -> AsyncIterator[Callable[[str], Watch]]:
    """Serve the servicer; yields a function that begins a Watch of a name."""
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            yield lambda name: stub.Watch(health_pb2.HealthCheckRequest(service=name))
    finally:
        await server.stop(0)


async def next_state(watch: Watch) -> int:
    return int((await asyncio.wait_for(watch.read(), 30)).status)


async def status_of(watch: Watch) -> grpc.StatusCode:
    return await asyncio.wait_for(watch.code(), 30)


def test_watchers_are_sent_changes_and_the_end_of_a_drained_server() -> None:
    async def scenario() -> None:
        servicer = HealthServicer()
        servicer.set("", False)
        async with serving(servicer) as watch:
            whole, model = watch(""), watch("m")
            assert [await next_state(whole), await next_state(model)] == [NOT_SERVING, UNKNOWN]
            servicer.set("", True)
            servicer.set("m", True)
            assert [await next_state(whole), await next_state(model)] == [SERVING, SERVING]
            servicer.set("m", True)  # no change, so nothing is sent
            servicer.announce_shutdown()
            servicer.set("m", True)  # too late
            assert [await next_state(whole), await next_state(model)] == [NOT_SERVING, NOT_SERVING]
            servicer.end_watches()
            assert [await status_of(whole), await status_of(model)] == [grpc.StatusCode.UNAVAILABLE] * 2
            late = watch("")
            assert await next_state(late) == NOT_SERVING
            assert await status_of(late) is grpc.StatusCode.UNAVAILABLE

    asyncio.run(scenario())


def test_watches_are_limited_and_those_that_end_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        servicer = HealthServicer()
        servicer.set("", True)
        async with serving(servicer) as watch:
            watches = [watch("") for _ in range(health.MAX_WATCHES_OF_PEER)]
            for one in watches:
                assert await next_state(one) == SERVING
            assert await status_of(watch("")) is grpc.StatusCode.RESOURCE_EXHAUSTED
            watches[0].cancel()
            while True:
                again = watch("")
                if await asyncio.wait_for(again.read(), 30) is not grpc.aio.EOF:
                    break
            assert await status_of(watch("m" * (MAX_NAME + 1))) is grpc.StatusCode.INVALID_ARGUMENT

    monkeypatch.setattr(health, "MAX_WATCHES_OF_PEER", 8)
    asyncio.run(scenario())


def test_a_watcher_that_never_reads_counts_until_it_is_gone() -> None:
    async def scenario() -> None:
        servicer = HealthServicer()
        servicer.set("", True)
        server = grpc.aio.server()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        with DeafWatcher(port) as watcher:
            assert await asyncio.to_thread(watcher.answered.wait, 30)
            assert servicer.watches == 1
        while servicer.watches:
            await asyncio.sleep(0.01)
        await server.stop(0)

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_bytes_that_are_no_request_end_in_a_status(
    models: Any, config: Callable[..., Any], running: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with running(config(models.cartpole)) as server, grpc.insecure_channel(server.address) as channel:
        for call in (
            channel.unary_unary("/grpc.health.v1.Health/Check"),
            lambda data: next(channel.unary_stream("/grpc.health.v1.Health/Watch")(data)),
        ):
            with pytest.raises(
                grpc.RpcError, match="request must be a message of the method, got 9 other bytes"
            ) as refused:
                call(b"\xff" * 9)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary("/grpc.health.v1.Health/List")(b"")
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert not [record for record in caplog.records if record.exc_info]
