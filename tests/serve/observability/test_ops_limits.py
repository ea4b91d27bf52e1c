"""Limits of the operations port: what peers that ask slowly, or never, or read nothing, can hold of a server."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from http_get import get
from server_process import Process, free_port

from torso.serve.observability.http_connections import ANSWER_S, MAX_CONNECTIONS, MAX_REQUEST_BYTES, REQUEST_S

HALF_OPEN = {
    "nothing": b"",
    "half a request line": b"GET /live",
    "half of the headers": b"GET /livez HTTP/1.1\r\nHost: x\r\nA: ",
    "no end of the body": b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\nbegun",
    "no end of the chunks": b"GET /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    "an answer, and half another request": b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /livez HT",
    "an answer, and no more": b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
    "no request at all": b"\x16\x03\x01\x02\x00\x01" + bytes(30),
}


@pytest.fixture
def attacked(models: Any, tmp_path: Path) -> Iterator[tuple[Process, int]]:
    """A server in a process of its own, and its ops port."""
    port = free_port()
    server = Process(tmp_path / "server", {}, models=[str(models.cartpole)], ops_port=port)
    try:
        yield server, port
    finally:
        server.process.kill()
        server.process.wait()


def files(server: Process) -> int:
    return psutil.Process(server.process.pid).num_fds()


def connect(port: int, data: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.settimeout(30)
    with contextlib.suppress(ConnectionError):
        connection.sendall(data)
    return connection


def drip(connection: socket.socket, data: bytes) -> bool:
    """Send a little more; return whether the connection still stands."""
    try:
        connection.sendall(data)
    except ConnectionError:
        return False
    return True


def until(condition: Callable[[], bool], limit_s: float) -> bool:
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def ended(connection: socket.socket) -> bool:
    """Return whether the server has ended a connection; what it sent before is skipped."""
    connection.setblocking(False)
    try:
        while connection.recv(1 << 16):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


def test_half_open_requests_end_and_leave_nothing_behind(attacked: tuple[Process, int]) -> None:
    server, port = attacked
    get(port, "/metrics")
    before = files(server)
    held = [connect(port, data) for data in HALF_OPEN.values() for _ in range(5)]
    dripping, endless = (
        connect(port, b"GET /livez HTTP/1.1\r\nHost: x\r\n"),
        connect(port, HALF_OPEN["no end of the body"]),
    )

    def all_ended() -> bool:
        drip(dripping, b"A: b\r\n")
        drip(endless, b"more")
        assert get(port, "/livez")[0] == 200
        return all(ended(connection) for connection in (*held, dripping, endless))

    assert until(all_ended, REQUEST_S + ANSWER_S + 10)
    assert until(lambda: files(server) <= before, 10)
    for connection in (*held, dripping, endless):
        connection.close()
    server.end()


def test_answers_that_nobody_reads_end(attacked: tuple[Process, int]) -> None:
    server, port = attacked
    before = files(server)
    held = []
    for _ in range(10):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect(("127.0.0.1", port))
        connection.setblocking(False)
        held.append(connection)
    asked = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 50

    def asks_more() -> bool:
        for connection in held:
            with contextlib.suppress(BlockingIOError, ConnectionError):
                connection.send(asked)
        return files(server) <= before

    time.sleep(0.5)
    assert not asks_more()
    assert until(asks_more, 60), "however much they ask for"
    assert get(port, "/livez")[0] == 200
    for connection in held:
        connection.close()
    server.end()


def test_probes_are_answered_while_very_many_connections_are_held(attacked: tuple[Process, int]) -> None:
    server, port = attacked
    before = files(server)
    kinds = list(HALF_OPEN.values())
    held = []
    for number in range(500):
        held.append(connect(port, kinds[number % len(kinds)]))
        if number % 50 == 49:
            assert get(port, "/livez")[:2] == (200, "ok\n")
            assert get(port, "/readyz")[0] == 200
            assert get(port, "/metrics")[0] == 200
            assert files(server) <= before + MAX_CONNECTIONS + 2
    for connection in held:
        connection.close()
    server.end()


@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + b"a" * 10000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 10000 + b"\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 10000 + b"\r\n",
        b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n" + bytes(4 * MAX_REQUEST_BYTES),
        b"GET /livez HTTP/1.1\r\nHost: x\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n" + bytes(4 * MAX_REQUEST_BYTES),
        b"GET /livez HTTP/1.1 and nonsense\r\n\x00\xff\r\n\r\n",
    ],
    ids=["long-line", "long-header", "many-headers", "long-body", "upgrade", "nonsense"],
)
def test_large_and_broken_requests_end_at_once(attacked: tuple[Process, int], data: bytes) -> None:
    server, port = attacked
    before = files(server)
    for _ in range(50):
        connect(port, data).close()
    connection = connect(port, data)
    assert until(lambda: ended(connection), 8)
    connection.close()
    assert get(port, "/livez")[0] == 200
    assert until(lambda: files(server) <= before, 10)
    server.end()
    assert len(server.log) < 1 << 16
