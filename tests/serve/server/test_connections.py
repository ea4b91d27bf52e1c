"""Connections, as the process' open files show them."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bare_http2 import ACK, HEADERS, SETTINGS, Connection, frame
from server_process import Process

from torso.serve import Client
from torso.serve.server import connections as under_test
from torso.serve.server.connections import HEADERS_BYTES, Connections

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="found in Linux' /proc")


@contextlib.contextmanager
def pairs(count: int, family: socket.AddressFamily = socket.AF_INET) -> Iterator[tuple[int, list[Any]]]:
    """Yield a port and so many pairs of connected sockets: of a client, and of the server there."""
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server((host, 0), family=family))
        port = listening.getsockname()[1]
        made = []
        for _ in range(count):
            client = stack.enter_context(socket.create_connection((host, port)))
            accepted = stack.enter_context(listening.accept()[0])
            made.append((client, accepted))
        yield port, made


def found(port: int, most: int = 1000) -> Connections:
    connections = Connections(most)
    connections.port = port
    connections.sweep()
    return connections


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_they_are_found_and_their_bytes_are_counted(family: socket.AddressFamily) -> None:
    with pairs(2, family) as (port, [(client, server), (other, _)]):
        name = f"{client.getsockname()[0]}:{client.getsockname()[1]}"
        if family == socket.AF_INET6:
            name = f"%5B::1%5D:{client.getsockname()[1]}"
        connections = found(port)
        mine = connections.get(f"ipv{4 if family == socket.AF_INET else 6}:{name}")
        assert mine.file is not None
        assert mine.unread_bytes() == 0
        client.sendall(bytes(1000))
        other.sendall(bytes(7))
        assert server.recv(1000) == bytes(1000)
        assert mine.unread_bytes() == 1000
        mine.consume(400)
        assert mine.unread_bytes() == 600 - HEADERS_BYTES
        mine.readings = 1
        mine.settle()  # a message may be on its way
        assert mine.unread_bytes() == 600 - HEADERS_BYTES
        mine.readings = 0
        mine.settle()
        assert mine.unread_bytes() == 0
        mine.close()
        assert client.recv(1) == b""  # the end


def test_what_comes_with_messages_does_not_add_up() -> None:
    """Though a stream waits for its next message all the time, which might be on its way."""
    with pairs(1) as (port, [(client, server)]):
        connections = found(port)
        mine = connections.get("ipv4:{}:{}".format(*client.getsockname()))
        mine.calls = mine.readings = 1
        for _ in range(50):
            for _ in range(100):
                client.sendall(bytes(150))  # of headers and frames, 100 bytes
                assert server.recv(150)
                mine.consume(50)
            connections.sweep()
            assert mine.unread_bytes() == 0
        client.sendall(bytes(10_000))  # of a message that is not whole
        assert server.recv(10_000)
        for _ in range(3):
            connections.sweep()
            assert mine.unread_bytes() == 10_000


def test_a_new_one_is_found_when_it_is_measured() -> None:
    with pairs(1) as (port, [(client, server)]):
        connections = Connections(10)
        connections.port = port
        mine = connections.get("ipv4:{}:{}".format(*client.getsockname()))
        client.sendall(bytes(1000))
        assert server.recv(1000)
        assert connections.measure([mine]) == {mine: 1000}
        gone = connections.get("ipv4:127.0.0.1:1")
        assert connections.measure([gone]) == {gone: None}


def test_a_descriptor_of_another_file_is_left_alone(tmp_path: Path) -> None:
    with pairs(1) as (port, [(client, server)]):
        mine = found(port).get("ipv4:{}:{}".format(*client.getsockname()))
        descriptor = os.dup(server.fileno())
        mine.file = (descriptor, os.fstat(descriptor).st_ino)
        with (tmp_path / "file").open("w") as file:
            os.dup2(file.fileno(), descriptor)
            try:
                assert mine.unread_bytes() is None
                mine.close()
                assert os.write(descriptor, b"still open") == 10
            finally:
                os.close(descriptor)
        assert mine.unread_bytes() is None  # nor is one that is closed
        client.sendall(b"x")
        assert server.recv(1) == b"x"


def test_where_many_are_open_the_idle_ones_of_strangers_are_closed_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "NEWCOMER_S", 0.0)
    with pairs(8) as (port, made):
        connections = Connections(8)  # crowded beyond 6
        connections.port = port
        each = [connections.get("ipv4:{}:{}".format(*client.getsockname())) for client, _ in made]
        for known in each[:4]:
            known.is_known = True
        each[7].calls = 1
        assert connections.sweep() == under_test.CROWDED_SWEEP_S
        for client, _ in made:
            client.setblocking(False)
        closed = []
        for number, (client, _) in enumerate(made):
            with contextlib.suppress(BlockingIOError):
                assert client.recv(1) == b""
                closed.append(number)
        assert closed == [4, 5]  # the oldest of those that never called, and no more than need be
        for number in closed:
            made[number][1].close()
        assert connections.sweep() == under_test.SWEEP_S


def test_idle_strangers_do_not_keep_others_out(models: Any, tmp_path: Path) -> None:
    settings: Any = {"models": [str(models.digits)], "max_connections": 40}
    server = Process(tmp_path / "server", {}, **settings)
    try:
        with contextlib.ExitStack() as stack:
            client = stack.enter_context(Client(server.address))
            assert client.classify("digits", np.zeros((1, 8, 8), dtype=np.uint8)).labels
            for _ in range(60):
                connection = stack.enter_context(Connection(server.port))
                with contextlib.suppress(OSError):
                    connection.send(frame(SETTINGS, ACK, 0))
            end = time.monotonic() + 10
            entered = False
            while not entered:
                assert time.monotonic() < end, server.log
                with Connection(server.port) as newcomer, contextlib.suppress(OSError):
                    newcomer.send(frame(SETTINGS, ACK, 0))
                    newcomer.call(b"/torso.v1.PredictionService/ListModels")
                    entered = (read := newcomer.read()) is not None and read.kind == SETTINGS
                    entered = entered and b":status" not in newcomer.read_until(HEADERS, 1).payload
            assert client.classify("digits", np.zeros((1, 8, 8), dtype=np.uint8)).labels  # on its old connection
        assert "connections without calls" in server.log
        server.end()
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
