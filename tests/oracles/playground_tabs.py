"""Tabs of a playground as a program: sockets that speak to it as the page does."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from playground_process import Playground


def packed(header: Any, image: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<I", len(text)) + text + image


class Tab:
    """Tab of a playground; it has the page's cookie."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.models: list[dict[str, Any]] = []
        self.repertoire: dict[str, Any] | None = None

    async def draw(self, serial: int, image: bytes, model: str = "digits", **more: Any) -> None:
        header = {"part": "draw", "type": "drawing", "serial": serial, "model": model, **more}
        await self.socket.send_bytes(packed(header, image))

    async def say(self, part: str, kind: str, **fields: Any) -> None:
        await self.socket.send_str(json.dumps({"part": part, "type": kind, **fields}))

    async def receive(self, kind: str, part: str = "draw") -> tuple[dict[str, Any], bytes]:
        """Wait for a message of a kind; an error or a failure in its place is an error."""
        return await self.any_of({kind}, part)

    async def any_of(self, kinds: set[str], part: str) -> tuple[dict[str, Any], bytes]:
        """Wait for a message of any of these kinds. Others are left out, but for what can be played: it comes once."""
        if part == "play" and kinds == {"repertoire"} and self.repertoire is not None:
            return self.repertoire, b""
        async with asyncio.timeout(60):
            return await self._wait_for(kinds, part)

    async def _wait_for(self, kinds: set[str], part: str) -> tuple[dict[str, Any], bytes]:
        while True:
            message = await self.socket.receive()
            pixels = b""
            if message.type is aiohttp.WSMsgType.BINARY:
                (length,) = struct.unpack_from("<I", message.data)
                found, pixels = json.loads(message.data[4 : 4 + length]), message.data[4 + length :]
            else:
                assert message.type is aiohttp.WSMsgType.TEXT, message
                found = json.loads(message.data)
            if found["type"] == "repertoire":
                self.repertoire = found
            if found["part"] == part and found["type"] in kinds:
                return found, pixels
            assert found["type"] not in ("error", "failed"), found


@asynccontextmanager
async def tabs(playground: Playground, count: int = 1) -> AsyncIterator[list[Tab]]:
    origin = f"http://{playground.host}:{playground.port}"
    jar = aiohttp.CookieJar(unsafe=True)  # of an IP address
    async with aiohttp.ClientSession(cookie_jar=jar) as session:
        async with session.get(playground.url) as page:
            assert page.status == 200
        opened = []
        for _ in range(count):
            opened.append(Tab(await session.ws_connect(f"{origin}/socket", origin=origin, max_msg_size=0)))
            opened[-1].models = (await opened[-1].receive("models"))[0]["models"]
        yield opened


def with_tabs(playground: Playground, test: Callable[..., Awaitable[None]], count: int = 1) -> None:
    async def run() -> None:
        async with tabs(playground, count) as opened:
            await test(*opened)

    asyncio.run(run())
