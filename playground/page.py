"""The page's HTTP server: static files, and a WebSocket for each tab."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from torso.errors import ConfigError, ServerError
from torso.playground.messages import SendToTab, TabPart, packed_message, parse_tab_message
from torso.playground.sessions import PageSession, add_headers

logger = logging.getLogger(__name__)

STATIC = Path(__file__).with_name("static")
LARGEST_MESSAGE = 16 << 20  # bytes; images that are dropped are that large at most
HEARTBEAT_S = 20.0
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


TabParts = Mapping[str, Callable[[SendToTab], TabPart]]


class Page:
    """Server of the page. ``parts``: what makes each part of a tab, by name."""

    def __init__(self, session: PageSession, parts: TabParts) -> None:
        self._session = session
        self._parts = parts
        self._sockets: set[web.WebSocketResponse] = set()
        self._files = {
            f"/{path.name}": (path.read_bytes(), TYPES[path.suffix]) for path in STATIC.iterdir() if path.is_file()
        }
        self._files["/"] = self._files.pop("/index.html")
        application = web.Application(middlewares=[session.guard])
        application.on_response_prepare.append(add_headers)
        application.router.add_get("/socket", self._socket)
        application.router.add_get("/{name:.*}", self._file)
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1.0)

    async def start(self, host: str, port: int) -> None:
        """Start listening. ServerError where the address is taken, or not this machine's."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, host.strip("[]"), port)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise ServerError(
                f"cannot listen on {host} port {port}: {error.strerror or error}; choose another with --port"
            ) from error
        self._session.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close the tabs' sockets, and stop listening."""
        for socket in tuple(self._sockets):
            await socket.close(code=WSCloseCode.GOING_AWAY, message=b"the playground has ended")
        await self._runner.cleanup()

    async def _file(self, request: web.Request) -> web.Response:
        if request.path not in self._files:
            raise web.HTTPNotFound(text=f"nothing at {request.path}\n")
        content, kind = self._files[request.path]
        return web.Response(body=content, content_type=kind, charset="utf-8")

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT_S, max_msg_size=LARGEST_MESSAGE, compress=False)
        await socket.prepare(request)
        self._sockets.add(socket)

        def sender(part: str) -> SendToTab:
            async def send(type: str, body: bytes | None = None, **fields: Any) -> None:
                message = packed_message({"part": part, "type": type, **fields}, body)
                with suppress(ConnectionError):  # the tab has gone; the loop below ends
                    await (socket.send_str(message) if isinstance(message, str) else socket.send_bytes(message))

            return send

        senders = {name: sender(name) for name in (*self._parts, "page")}
        parts = {name: make(senders[name]) for name, make in self._parts.items()}
        work = [asyncio.create_task(_reported(part.run(), senders[name])) for name, part in parts.items()]
        try:
            async for message in socket:
                if message.type not in (WSMsgType.BINARY, WSMsgType.TEXT):
                    continue
                told = "page"
                try:
                    parsed = parse_tab_message(message.data)
                    if parsed.part not in parts:
                        raise ConfigError(f"part must be one of {', '.join(parts)}, got {parsed.part!r}")
                    told = parsed.part
                    parts[told].put(parsed)
                except ConfigError as error:
                    await senders[told]("error", text=str(error))
        finally:
            self._sockets.discard(socket)
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
        return socket


async def _reported(work: Coroutine[Any, Any, None], send: SendToTab) -> None:
    """Do the work of a tab's part; an error that nobody expected is logged, and the tab is told."""
    try:
        await work
    except Exception:
        logger.exception("a tab of the playground is not answered any more")
        await send("failed", text="an unexpected error, which is a bug: the terminal has it")
