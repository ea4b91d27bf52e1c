"""Raw HTTP/2 client: frames that no gRPC client would send, and the server's replies."""

from __future__ import annotations

import socket
import struct
from collections import deque
from types import TracebackType
from typing import NamedTuple

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
INITIAL_WINDOW_SIZE = 4
REFUSED_STREAM, ENHANCE_YOUR_CALM = 7, 11
WINDOW, FRAME_BYTES = 65535, 16384  # of HTTP/2, until other settings are agreed
MAGIC = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def header(name: bytes, value: bytes) -> bytes:
    """Encode a header field that is not indexed (RFC 7541, 6.2.2); its parts have fewer than 127 bytes."""
    assert len(name) < 127
    assert len(value) < 127
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def call_headers(path: bytes, *more: tuple[bytes, bytes]) -> bytes:
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"x")]
    fields += [(b"te", b"trailers"), (b"content-type", b"application/grpc"), *more]
    return b"".join(header(name, value) for name, value in fields)


def grpc_message(data: bytes) -> bytes:
    return b"\0" + struct.pack(">I", len(data)) + data


class Connection:
    """Raw connection that sends nothing on its own: it acknowledges nothing and grants no window.

    `upload` keeps to the windows that the server grants; `send` sends whatever it is given.
    """

    def __init__(self, port: int, settings: bytes | None = b"") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.settimeout(30)  # a test that waits longer has failed; gRPC's own limits are a minute
        self._received = b""
        self._kept: deque[Frame] = deque()  # read while an upload waited
        self._initial_window = self._window = WINDOW
        self._stream_windows: dict[int, int] = {}  # by stream: what it was granted, less what it took
        if settings is not None:  # None: not even the preface
            self.socket.sendall(MAGIC + frame(SETTINGS, 0, 0, settings))

    def send(self, *frames: bytes) -> None:
        self.socket.sendall(b"".join(frames))

    def call(self, path: bytes, data: bytes = b"", stream: int = 1) -> None:
        """Make a whole unary call."""
        headers = frame(HEADERS, END_HEADERS, stream, call_headers(path))
        self.send(headers, frame(DATA, END_STREAM, stream, grpc_message(data)))

    def upload(self, stream: int, data: bytes, *, last: bool = False) -> bool:
        """Send data of a stream as the server's windows let it; return False where it has ended the call."""
        for start in range(0, max(len(data), 1), FRAME_BYTES):
            part = data[start : start + FRAME_BYTES]
            while min(self._window, self._initial_window + self._stream_windows.get(stream, 0)) < len(part):
                received = self._receive()
                if received is None:
                    return False
                self._kept.append(received)
                if received.stream == stream and received.kind in (HEADERS, RST_STREAM):
                    return False
            self._window -= len(part)
            self._stream_windows[stream] = self._stream_windows.get(stream, 0) - len(part)
            self.send(frame(DATA, END_STREAM if last and start + FRAME_BYTES >= len(data) else 0, stream, part))
        return True

    def read(self) -> Frame | None:
        """Return the next frame; None once the server has ended the connection."""
        return self._kept.popleft() if self._kept else self._receive()

    def _receive(self) -> Frame | None:
        while len(self._received) < 9 or len(self._received) < 9 + self._length():
            try:
                more = self.socket.recv(1 << 16)
            except (ConnectionResetError, BrokenPipeError):
                return None
            if not more:
                return None
            self._received += more
        end = 9 + self._length()
        whole, self._received = self._received[:end], self._received[end:]
        received = Frame(whole[3], whole[4], struct.unpack(">I", whole[5:9])[0], whole[9:])
        self._note_windows(received)
        return received

    def _note_windows(self, received: Frame) -> None:
        if received.kind == WINDOW_UPDATE:
            grown = int.from_bytes(received.payload, "big")
            if received.stream:
                self._stream_windows[received.stream] = self._stream_windows.get(received.stream, 0) + grown
            else:
                self._window += grown
        elif received.kind == SETTINGS and not received.flags:
            for setting, value in struct.iter_unpack(">HI", received.payload):
                if setting == INITIAL_WINDOW_SIZE:
                    self._initial_window = value

    def read_until(self, kind: int, stream: int = 0) -> Frame:
        """Return the next frame of one kind on one stream; skip others."""
        while (read := self.read()) is not None:
            if (read.kind, read.stream) == (kind, stream):
                return read
        raise ConnectionError("the server ended the connection first")

    def read_to_end(self) -> list[Frame]:
        """Return all frames until the server ends the connection."""
        frames = []
        while (read := self.read()) is not None:
            frames.append(read)
        return frames

    def _length(self) -> int:
        return int.from_bytes(self._received[:3], "big")

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
