"""Sessions of attackers: counts, a throttle, and an HTTP/2 connection that answers the server as a client would."""

from __future__ import annotations

import contextlib
import re
import select
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc
from bare_http2 import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Connection,
    Frame,
    call_headers,
    frame,
)

CANCEL = 8  # an error code (RFC 9113, 7)
HEADER_TABLE_SIZE = 1  # a setting's number; 0 keeps `grpc-status` readable in every frame
WINDOW = 65_535
MAX_FRAME = 16_384
SEND_S = 5.0  # the most seconds that the server may leave what is sent unread
STATUSES = {code.value[0]: code.name for code in grpc.StatusCode}
STATUS = re.compile(rb"grpc-status[\x01\x02](\d+)")


class Tally:
    """Counts of attempts and of the server's answers, for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._attempts = 0
        self._answers: Counter[str] = Counter()

    def attempt(self, count: int = 1) -> None:
        """Count attempts."""
        with self._lock:
            self._attempts += count

    def answer(self, what: str) -> None:
        """Count an answer."""
        with self._lock:
            self._answers[what] += 1

    def snapshot(self) -> dict[str, Any]:
        """Return the counts so far."""
        with self._lock:
            return {"attempts": self._attempts, "answers": dict(self._answers.most_common())}


@dataclass(frozen=True, kw_only=True)
class Target:
    """Server under attack. ``token``: the attackers' own, of role predict. `begin` returns when the siege begins."""

    port: int
    ops_port: int
    token: str
    max_message_bytes: int
    begin: Callable[[], object]
    tally: Tally = field(default_factory=Tally)

    @property
    def authorization(self) -> tuple[bytes, bytes]:
        """The header field with the token."""
        return b"authorization", b"Bearer " + self.token.encode()


class Pace:
    """Throttle to so many times a second; time that was missed is not made up for."""

    def __init__(self, rate: float) -> None:
        self._period_s = 1 / rate
        self._next = 0.0

    def wait(self) -> None:
        """Sleep until the next turn."""
        now = time.monotonic()
        self._next = max(self._next, now - self._period_s)
        time.sleep(max(self._next - now, 0))
        self._next += self._period_s


class Session(Connection):
    """Raw HTTP/2 connection that acknowledges settings and pings, and keeps to the windows that the server grants.

    ``window``: bytes that the server may send on each stream. ``replies``: to be set to False in the middle of a frame.
    Answers are counted in the target's tally.
    """

    def __init__(self, target: Target, *, window: int = WINDOW, preface: bool = True) -> None:
        settings = struct.pack(">HIHI", HEADER_TABLE_SIZE, 0, INITIAL_WINDOW_SIZE, window)
        self.gone = False
        self.replies = preface
        self.ended: set[int] = set()  # streams that the server ended
        self._tally = target.tally
        self._reads = window > 0
        self._initial = self._room = WINDOW
        self._rooms: Counter[int] = Counter()  # by stream, what was granted less what was sent
        super().__init__(target.port, settings=settings if preface else None)
        self.socket.settimeout(SEND_S)

    def send(self, *frames: bytes) -> None:
        """Send frames, unless the connection has ended."""
        if self.gone:
            return
        try:
            super().send(*frames)
        except TimeoutError:
            self._end("not read")
        except OSError:
            self._end("closed")

    def begin_call(self, path: bytes, stream: int, *more: tuple[bytes, bytes], flags: int = 0) -> None:
        """Send a call's headers."""
        self.send(frame(HEADERS, END_HEADERS | flags, stream, call_headers(path, *more)))

    def reset(self, stream: int) -> None:
        """Cancel a call."""
        self.send(frame(RST_STREAM, 0, stream, struct.pack(">I", CANCEL)))

    def send_data(self, stream: int, data: bytes, *, ends: bool = False, patience_s: float = 10.0) -> bool:
        """Send a call's data as the server grants room for it. False where it does not, or ends the call before."""
        end, start = time.monotonic() + patience_s, 0
        while start < len(data):
            room = min(self._room, self._initial + self._rooms[stream], 64 * MAX_FRAME)
            part = data[start : start + max(room, 0)]
            pieces = [part[at : at + MAX_FRAME] for at in range(0, len(part), MAX_FRAME)]
            start += len(part)
            last = ends and start == len(data)
            self.send(*(frame(DATA, 0, stream, piece) for piece in pieces[:-1]))
            self.send(*(frame(DATA, END_STREAM * last, stream, piece) for piece in pieces[-1:]))
            self._room -= len(part)
            self._rooms[stream] -= len(part)
            attend([self], 0 if part else 0.05)
            if self.gone or stream in self.ended or (not part and time.monotonic() > end):
                return False
        return True

    def take(self) -> list[Frame]:
        """Read what has come, without waiting, and reply to it."""
        if self.gone:
            return []
        self.socket.settimeout(0)
        try:
            more = self.socket.recv(1 << 18)
        except BlockingIOError:
            return []
        except OSError:
            more = b""
        finally:
            self.socket.settimeout(SEND_S)
        if not more:
            self._end("closed")
            return []
        self._received += more
        frames = []
        while len(self._received) >= 9 and len(self._received) >= 9 + self._length():
            read = self.read()
            if read is not None:
                frames.append(read)
                self._reply(read)
        return frames

    def _reply(self, read: Frame) -> None:
        match read.kind:
            case frame_kind if frame_kind in (SETTINGS, PING):
                if self.replies and not read.flags & ACK:
                    self.send(frame(read.kind, ACK, 0, read.payload if read.kind == PING else b""))
                if read.kind == SETTINGS:
                    self._initial = dict(struct.iter_unpack(">HI", read.payload)).get(
                        INITIAL_WINDOW_SIZE, self._initial
                    )
            case frame_kind if frame_kind == WINDOW_UPDATE:
                (grant,) = struct.unpack(">I", read.payload)
                if read.stream:
                    self._rooms[read.stream] += grant
                else:
                    self._room += grant
            case frame_kind if frame_kind == HEADERS:
                found = STATUS.search(read.payload)
                self._tally.answer(STATUSES.get(int(found[1]), "no gRPC status") if found else "headers")
            case frame_kind if frame_kind == RST_STREAM:
                self._tally.answer(f"RST_STREAM {int.from_bytes(read.payload, 'big')}")
            case frame_kind if frame_kind == GOAWAY:
                self._tally.answer("GOAWAY")
            case frame_kind if frame_kind == DATA and self._reads and read.payload:
                grant = struct.pack(">I", len(read.payload))
                self.send(frame(WINDOW_UPDATE, 0, 0, grant), frame(WINDOW_UPDATE, 0, read.stream, grant))
        if read.kind == RST_STREAM or (read.kind == HEADERS and read.flags & END_STREAM):
            self.ended.add(read.stream)

    def _end(self, why: str) -> None:
        self._tally.answer(why)
        self.gone = True
        self.close()


def connect(target: Target, **how: Any) -> Session | None:
    """Open a connection; None, and a short wait, where the server takes none."""
    try:
        return Session(target, **how)
    except OSError:
        target.tally.answer("no connection")
        time.sleep(0.1)
        return None


def attend(sessions: Iterable[Session], seconds: float) -> None:
    """Read and reply on connections for so long."""
    end, poll = time.monotonic() + seconds, select.poll()
    by_file = {session.socket.fileno(): session for session in sessions if not session.gone}
    for file in by_file:
        poll.register(file, select.POLLIN)
    while True:
        for file, _ in poll.poll(max(end - time.monotonic(), 0) * 1000):
            session = by_file[file]
            session.take()
            if session.gone:
                with contextlib.suppress(KeyError):
                    poll.unregister(file)
        if time.monotonic() >= end:
            return
