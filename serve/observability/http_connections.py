"""Connection limits of an aiohttp server: number, time and bytes of a request, time of an answer.

aiohttp waits for the rest of a request, and for a peer to read its answer, without a limit of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, cast

MAX_CONNECTIONS: Final = 128  # at once; one more takes the place of another
REQUEST_S: Final = 10.0  # the most seconds from a connection's opening to the end of its first request's headers
ANSWER_S: Final = 15.0  # the most seconds from then to the next request's: to be answered, to read it, and to ask again
MAX_REQUEST_BYTES: Final = 1 << 18  # of a request and its body; the parser limits lines and headers further


class LimitedConnections:
    """Connections of a server: a protocol factory for ``loop.create_server`` around aiohttp's own, ``make_protocol``.

    Every connection has a deadline, and is aborted there, also with an answer that its peer does not read. Where there
    are ``MAX_CONNECTIONS`` a new one takes the place of the oldest that has sent no complete request, or, where all
    have, of that whose last request is the oldest: a probe, which asks at once, is answered however many are held.
    """

    def __init__(self, make_protocol: Callable[[], asyncio.Protocol]) -> None:
        self._make_protocol = make_protocol
        self._connections: dict[asyncio.BaseProtocol, _Connection] = {}  # by aiohttp's protocol

    def __call__(self) -> asyncio.Protocol:
        """Make the protocol of a new connection."""
        return _Connection(self._make_protocol(), self._connections)

    def begin_answer(self, protocol: asyncio.BaseProtocol) -> None:
        """Record that a request's headers are complete, on the connection of this protocol of aiohttp's."""
        connection = self._connections.get(protocol)
        if connection is not None:
            connection.begin_answer()


class _Connection(asyncio.Protocol):
    """One connection: passes all on to aiohttp's protocol, and has a deadline."""

    def __init__(self, inner: asyncio.Protocol, connections: dict[asyncio.BaseProtocol, _Connection]) -> None:
        self._inner = inner
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._deadline: asyncio.TimerHandle
        self._received = 0  # bytes since the last complete headers
        self.rank = (False, self._loop.time())  # whether it has sent a request, and since when; the least is evicted

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if len(self._connections) >= MAX_CONNECTIONS:
            min(self._connections.values(), key=lambda connection: connection.rank).abort()
        self._connections[self._inner] = self
        self._deadline = self._loop.call_later(REQUEST_S, self.abort)
        self._inner.connection_made(transport)

    def begin_answer(self) -> None:
        """Begin to answer a request, which pushes the deadline back."""
        self.rank = (True, self._loop.time())
        self._received = 0
        self._deadline.cancel()
        self._deadline = self._loop.call_later(ANSWER_S, self.abort)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > MAX_REQUEST_BYTES:
            self.abort()
        else:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def abort(self) -> None:
        """Close at once, whatever is not sent yet."""
        self._connections.pop(self._inner, None)
        self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.pop(self._inner, None)
        self._deadline.cancel()
        self._inner.connection_lost(error)
