"""Connections of the server's port: how much they have sent, and which are closed to make room for others.

gRPC shows Python no connections. On Linux they are found among the process' open files; shutting a socket down there
looks to gRPC like a client that left. Elsewhere, and on Unix sockets, nothing is measured or closed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
import struct
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from time import monotonic

logger = logging.getLogger(__name__)

OPEN_FILES = Path("/proc/self/fd")
BYTES_RECEIVED = 128  # offset of tcpi_bytes_received, 8 bytes, in Linux' struct tcp_info
HEADERS_BYTES = 256  # that a message comes with: mostly a third of it, as headers are not repeated
FRAMES = 10  # a frame's 9 bytes come with 16 KiB of a message at most: less than 1/1024
NEWCOMER_S = 2.0  # a connection that is younger may yet make its first call
CROWDED = 0.75  # of the most connections: beyond it, those that do nothing are closed
SWEEP_S, CROWDED_SWEEP_S = 1.0, 0.25  # between two looks
LOG_S = 10.0  # between two lines of the log about closed connections


class ClientConnection:
    """ClientConnection of a client, under the name that gRPC gives it, such as ``ipv4:192.0.2.1:50000``."""

    __slots__ = ("_baseline", "_consumed", "calls", "file", "is_known", "name", "readings", "seen_at")

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen_at = monotonic()
        self.is_known = False  # a call on it was allowed
        self.calls = 0  # that go on
        self.readings = 0  # messages that are being received, or waited for
        self._consumed = 0  # bytes of whole messages since `settle`, and of what came with them
        self.file: tuple[int, int] | None = None  # descriptor and inode of its socket, once it is found
        self._baseline = 0  # bytes that had been received by `settle`

    @property
    def host(self) -> str:
        """Name without the port."""
        return self.name.rpartition(":")[0]

    def consume(self, size: int) -> None:
        """Note a whole message of so many bytes: it came with frames and, as a rule, with headers."""
        self._consumed += size + (size >> FRAMES) + HEADERS_BYTES

    def unread_bytes(self) -> int | None:
        """Return the most bytes that can have come for messages that are not whole; None where that is not known."""
        received = self._received()
        return None if received is None else max(received - self._baseline - self._consumed, 0)

    def settle(self) -> None:
        """Measure from here on, unless a message may be on its way: what came with others must not add up."""
        if not (self.calls or self._consumed):
            return  # nothing came since, but for pings
        received = self._received() or 0
        if not self.readings or received <= self._baseline + self._consumed:
            self._baseline, self._consumed = received, 0

    def close(self) -> None:
        """Shut the connection down."""
        with contextlib.suppress(OSError):
            if (found := self._socket()) is not None:
                with found:
                    found.shutdown(socket.SHUT_RDWR)

    def _received(self) -> int | None:
        try:
            if (found := self._socket()) is None:
                return None
            with found:
                info = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        except OSError:  # it was closed
            return None
        received: int = struct.unpack_from("=Q", info, BYTES_RECEIVED)[0]
        return received

    def _socket(self) -> socket.socket | None:
        """Duplicate its socket; None where there is none, or none any more. OSError where it was closed meanwhile."""
        if self.file is None:
            return None
        descriptor = os.dup(self.file[0])
        if os.fstat(descriptor).st_ino != self.file[1]:  # another file has the descriptor now
            os.close(descriptor)
            return None
        return socket.socket(fileno=descriptor)


class Connections:
    """Connections of one listening port, by name. `sweep` finds them, and closes some where they are many."""

    def __init__(self, max_connections: int) -> None:
        self.port = 0  # that is listened on; 0: none, or a Unix socket
        self._most = int(CROWDED * max_connections)
        self._by_name: dict[str, ClientConnection] = {}
        self._files: dict[
            tuple[int, int], ClientConnection | None
        ] = {}  # by descriptor and inode; None: something else
        self._closed: Counter[str] = Counter()  # by host, since the last line of the log
        self._logged_at = -LOG_S

    def get(self, name: str) -> ClientConnection:
        """Return the connection of a call."""
        connection = self._by_name.get(name)
        if connection is None:
            connection = self._by_name[name] = ClientConnection(name)
        return connection

    @property
    def _can_find(self) -> bool:
        return self.port > 0 and OPEN_FILES.is_dir()

    def measure(self, connections: Iterable[ClientConnection]) -> dict[ClientConnection, int | None]:
        """Return the most bytes that each has received for messages that are not whole; None where it is not known."""
        measured = {connection: connection.unread_bytes() for connection in connections}
        if self._can_find and any(connection.file is None for connection in measured):
            self._find()  # it is newer than the last sweep
            measured = {connection: connection.unread_bytes() for connection in measured}
        return measured

    def sweep(self) -> float:
        """Find new connections, forget those that ended, close some where they are many.

        Returns the seconds until the next sweep.
        """
        if not self._can_find:
            self._by_name = {name: kept for name, kept in self._by_name.items() if kept.calls}
            return SWEEP_S
        self._find()
        for connection in self._by_name.values():
            connection.settle()
        if len(self._by_name) <= self._most:
            return SWEEP_S
        self._close_idle(len(self._by_name) - self._most)
        return CROWDED_SWEEP_S

    def _find(self) -> None:
        files: dict[tuple[int, int], ClientConnection | None] = {}
        for descriptor in [int(path.name) for path in OPEN_FILES.iterdir()]:
            try:
                status = os.fstat(descriptor)
            except OSError:  # closed meanwhile
                continue
            file = (descriptor, status.st_ino)
            if file in self._files:
                files[file] = self._files[file]
            elif stat.S_ISSOCK(status.st_mode):
                name = _peer_name(descriptor, self.port)
                files[file] = None if name is None else self.get(name)
                if (connection := files[file]) is not None:
                    connection.file = file
        self._files = files
        open_now = {connection.name for connection in files.values() if connection is not None}
        self._by_name = {name: kept for name, kept in self._by_name.items() if kept.calls or name in open_now}

    def _close_idle(self, count: int) -> None:
        """Close connections on which nothing happens: those without an allowed call first, of the busiest hosts."""
        now = monotonic()
        idle = [each for each in self._by_name.values() if not each.calls and now - each.seen_at > NEWCOMER_S]
        hosts = Counter(each.host for each in idle)
        idle.sort(key=lambda each: (each.is_known, -hosts[each.host], each.seen_at))
        self._log_closed(each.host for each in idle[:count])
        for connection in idle[:count]:
            connection.close()

    def _log_closed(self, hosts: Iterable[str]) -> None:
        self._closed.update(hosts)
        if self._closed and monotonic() - self._logged_at > LOG_S:
            most, count = self._closed.most_common(1)[0]
            logger.warning(
                "closed %d connections without calls, %d of them from %s: more than %d are open; see max_connections",
                *(self._closed.total(), count, most, self._most),
            )
            self._closed.clear()
            self._logged_at = monotonic()


def _peer_name(descriptor: int, port: int) -> str | None:
    """Return gRPC's name of a socket's peer; None where the socket is not a connection to this port."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as found:
            if found.family not in (socket.AF_INET, socket.AF_INET6) or found.getsockname()[1] != port:
                return None
            host, peer_port = found.getpeername()[:2]
    except OSError:  # it listens, or was closed
        return None
    host = host.removeprefix("::ffff:")
    return f"ipv6:%5B{host}%5D:{peer_port}" if ":" in host else f"ipv4:{host}:{peer_port}"
