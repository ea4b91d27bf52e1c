"""Messages of a stream, as its method reads them."""

from __future__ import annotations

from typing import Protocol


class Messages(Protocol):
    """Async iterator over a stream's messages. Each holds room of the server's until it is reported as answered."""

    def __aiter__(self) -> Messages:
        """Return itself."""

    async def __anext__(self) -> bytes:
        """Return the next message. Raises ServiceError or InputError where the stream must end."""

    def answered(self, size: int) -> None:
        """Free the room of a message of so many bytes."""
