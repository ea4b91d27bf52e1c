"""Messages between a tab and the playground, and what each part of a tab does with its own.

A message is a JSON object with the name of its ``part`` and its ``type``. As text it is that alone; as bytes the object
stands behind its length (4 bytes, little-endian), and the rest is the message's body: an image file, or pixels.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from torso.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class TabMessage:
    """Message of a tab. ``fields``: the whole JSON object; ``body``: what came behind it."""

    part: str
    type: str
    fields: Mapping[str, Any]
    body: bytes = b""


class SendToTab(Protocol):
    """Sender of messages to a tab, for one of its parts; what is sent to a tab that has gone is dropped."""

    async def __call__(self, type: str, body: bytes | None = None, **fields: Any) -> None:
        """SendToTab an object of a type with these fields, with the body as bytes behind it where there is one."""
        ...


class TabPart(Protocol):
    """TabPart of a tab: it takes the tab's messages, and works until it is cancelled."""

    def put(self, message: TabMessage) -> None:
        """Take a message. ConfigError where it is none of this part's; the tab is told."""
        ...

    async def run(self) -> None:
        """Do what the messages ask for, until cancelled."""
        ...


def parse_tab_message(data: str | bytes) -> TabMessage:
    """Parse a message of the page. ConfigError where it is none."""
    try:
        text, body = data, b""
        if isinstance(data, bytes):
            (length,) = struct.unpack_from("<I", data)
            text, body = data[4 : 4 + length].decode(), data[4 + length :]
        fields = json.loads(text)
        return TabMessage(part=str(fields["part"]), type=str(fields["type"]), fields=fields, body=body)
    except (struct.error, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"a message must be a JSON object with part and type, as bytes with its length before it, got "
            f"{len(data)} others"
        ) from error


def packed_message(fields: Mapping[str, Any], body: bytes | None = None) -> str | bytes:
    """Pack a message for the page: text, or bytes where there is a body."""
    text = json.dumps(fields)
    if body is None:
        return text
    header = text.encode()
    return b"".join([struct.pack("<I", len(header)), header, body])


class Newest(Generic[T]):
    """Slot for the newest of what a tab sends: what nobody has taken yet is replaced."""

    def __init__(self) -> None:
        self._slot: deque[T] = deque(maxlen=1)
        self._has_come = asyncio.Event()

    def put(self, message: T) -> None:
        """Replace what is there."""
        self._slot.append(message)
        self._has_come.set()

    async def take(self) -> T:
        """Wait for a message, and take it."""
        await self._has_come.wait()
        self._has_come.clear()
        return self._slot.pop()
