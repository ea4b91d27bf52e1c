"""Inter-process communication: concurrent calls in both directions over a socket between two processes of a program.

Frames are a length of four bytes and a pickle: only this program and its user can write to the connection.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from torso.errors import TorsoError, UnavailableError

logger = logging.getLogger(__name__)

LENGTH_BYTES = 4
COUNT_S = 1.0  # between a worker's reports: what a killed one counted since the last is lost, and silence is told by it

IpcHandler = Callable[..., Awaitable[Any]]


class PeerGoneError(UnavailableError):
    """Error of a call whose peer process has ended, or is ending."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status="UNAVAILABLE")


class IpcChannel:
    """One end of a connection. ``handlers`` are what the peer may call, by name; ``peer`` names it in errors.

    Errors of a handler are raised at the caller's end: torso's own as they are, OSError with its text, any other as
    RuntimeError, after its traceback is logged here.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        handlers: Mapping[str, IpcHandler],
        peer: str,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._handlers = handlers
        self._peer = peer
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._calls = 0
        self.num_received = 0  # frames, of either kind
        self._answering: set[asyncio.Task[None]] = set()
        self._closed = asyncio.Event()
        self._reading = asyncio.ensure_future(self._read())

    @classmethod
    async def open(cls, end: socket.socket, handlers: Mapping[str, IpcHandler], peer: str) -> IpcChannel:
        """Open a channel on one end of a ``socket.socketpair()``, which then belongs to it."""
        end.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=end)
        return cls(reader, writer, handlers, peer)

    @property
    def closed(self) -> bool:
        """True once the peer has closed the connection, by ending or otherwise."""
        return self._closed.is_set()

    async def wait_closed(self) -> None:
        """Wait until the peer has closed the connection; all its earlier messages have arrived then."""
        await self._closed.wait()

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call a handler of the peer and return its value. PeerGoneError where the peer ends before it answers."""
        if self.closed:
            raise PeerGoneError(f"{self._peer} has ended")
        self._calls += 1
        number = self._calls
        future = self._pending[number] = asyncio.get_running_loop().create_future()
        try:
            self._send(_frame(number, method, arguments))
            return await future
        finally:
            del self._pending[number]

    def close(self) -> None:
        """Close the connection; the peer notices."""
        self._writer.close()
        self._end()

    def _end(self) -> None:
        self._closed.set()
        for future in self._pending.values():
            if not future.done():
                future.set_exception(PeerGoneError(f"{self._peer} has ended"))

    def _send(self, frame: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.write(frame)

    async def _read(self) -> None:
        try:
            while True:
                length = int.from_bytes(await self._reader.readexactly(LENGTH_BYTES), "big")
                message = pickle.loads(await self._reader.readexactly(length))
                self.num_received += 1
                self._dispatch(*message)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._end()

    def _dispatch(self, number: int, method: str | None, content: Any) -> None:
        """Dispatch a frame: a call (a method and its arguments), or an answer (no method; a value or an error)."""
        if method is not None:
            answering = asyncio.ensure_future(self._answer(number, method, content))
            self._answering.add(answering)
            answering.add_done_callback(self._answering.discard)
            return
        future = self._pending.get(number)
        if future is None or future.done():  # the caller was cancelled
            return
        value, error = content
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(_decode_error(*error))

    async def _answer(self, number: int, method: str, arguments: tuple[Any, ...]) -> None:
        try:
            frame = _frame(number, None, (await self._handlers[method](*arguments), None))
        except Exception as error:  # noqa: BLE001 - it is raised at the caller's end
            frame = _frame(number, None, (None, _encode_error(error, method)))
        self._send(frame)


def _frame(*message: object) -> bytes:
    data = pickle.dumps(message)
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


def _encode_error(error: Exception, method: str) -> tuple[type[Exception], str, dict[str, Any]]:
    """Convert an error to data: errors whose constructors take other arguments cannot be unpickled as they are."""
    if isinstance(error, TorsoError):
        return type(error), str(error), vars(error)
    if isinstance(error, OSError):
        return OSError, str(error), {}
    logger.error("%s failed", method, exc_info=error)
    return RuntimeError, f"{type(error).__name__}: {error}", {}


def _decode_error(kind: type[Exception], text: str, attributes: dict[str, Any]) -> Exception:
    error = kind.__new__(kind, text)
    Exception.__init__(error, text)
    vars(error).update(attributes)
    return error
