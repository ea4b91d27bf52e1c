"""Raw HTTP/2 client: frames that no gRPC client would send, and the server's replies."""

from __future__ import annotations

import socket
import struct
from types import TracebackType
from typing import NamedTuple

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
INITIAL_WINDOW_SIZE = 4
REFUSED_STREAM, ENHANCE_YOUR_CALM = 7, 11
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
    """Raw connection that sends nothing on its own: it acknowledges nothing and grants no window."""

    def __init__(self, port: int, settings: bytes | None = b"") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.settimeout(30)  # a test that waits longer has failed; gRPC's own limits are a minute
        self._received = b""
        if settings is not None:  # None: not even the preface
            self.socket.sendall(MAGIC + frame(SETTINGS, 0, 0, settings))

    def send(self, *frames: bytes) -> None:
        self.socket.sendall(b"".join(frames))

    def call(self, path: bytes, data: bytes = b"", stream: int = 1) -> None:
        """Make a whole unary call."""
        headers = frame(HEADERS, END_HEADERS, stream, call_headers(path))
        self.send(headers, frame(DATA, END_STREAM, stream, grpc_message(data)))

    def read(self) -> Frame | None:
        """Return the next frame; None once the server has ended the connection."""
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
        return Frame(whole[3], whole[4], struct.unpack(">I", whole[5:9])[0], whole[9:])

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
