from __future__ import annotations

import contextlib
import re
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest


@dataclass
class Mirror:
    """A real HTTP server of a few files, with the faults that real mirrors have."""

    files: dict[str, bytes]
    url: str = ""
    ranges: bool = True  # whether Range is honoured
    cuts: list[int] = field(default_factory=list)  # the n-th answer's connection closes after so many bytes of its body
    stall_after: int | None = None  # an answer pauses here until `resume` is set
    resume: threading.Event = field(default_factory=threading.Event)
    status: int | None = None  # answer everything with this
    content_range: str | None = None  # say this in place of the truth
    declare_length: bool = True
    garbage: bool = False  # not HTTP at all
    requests: list[tuple[str, str | None]] = field(default_factory=list)  # (path, Range)


class _Handler(BaseHTTPRequestHandler):
    mirror: Mirror

    def do_GET(self) -> None:
        mirror = self.mirror
        asked = self.headers.get("Range")
        mirror.requests.append((self.path, asked))
        with contextlib.suppress(ConnectionError):
            if mirror.garbage:
                self.wfile.write(b"\x00\x01 this is no answer\r\n\r\n")
            elif mirror.status is not None or self.path not in mirror.files:
                self.send_error(mirror.status or 404)
            else:
                self._send(mirror.files[self.path], asked)

    def _send(self, content: bytes, asked: str | None) -> None:
        mirror = self.mirror
        body = content
        match = re.fullmatch(r"bytes=(\d+)-", asked or "")
        if match and mirror.ranges:
            start = int(match.group(1))
            body = content[start:]
            self.send_response(206)
            truth = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.send_header("Content-Range", mirror.content_range or truth)
        else:
            self.send_response(200)
        if mirror.declare_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if mirror.cuts:
            body = body[: mirror.cuts.pop(0)]
        if mirror.stall_after is not None:
            self.wfile.write(body[: mirror.stall_after])
            self.wfile.flush()
            mirror.resume.wait()
            body = body[mirror.stall_after :]
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def serve_mirror(files: dict[str, bytes]) -> Iterator[Mirror]:
    mirror = Mirror({f"/{name}": content for name, content in files.items()})
    handler = type("Handler", (_Handler,), {"mirror": mirror})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        mirror.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield mirror
        finally:
            mirror.resume.set()
            server.shutdown()
            thread.join()


@pytest.fixture
def mirrors(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Mirror]]:
    """``mirrors({name: content})`` starts a mirror that ends with the test."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with contextlib.ExitStack() as stack:
        yield lambda files: stack.enter_context(serve_mirror(files))


@pytest.fixture(scope="session")
def encode_idx() -> Callable[[np.ndarray], bytes]:
    """An IDX file's bytes, written from the format's description and not by torso."""
    codes = {"uint8": (8, "B"), "int8": (9, "b"), "int16": (11, "h"), "int32": (12, "i"), "float32": (13, "f")}
    codes["float64"] = (14, "d")

    def encode(array: np.ndarray) -> bytes:
        code, letter = codes[array.dtype.name]
        header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        return header + struct.pack(f">{array.size}{letter}", *array.ravel().tolist())

    return encode
