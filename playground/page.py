"""The page's HTTP server: static files, and a WebSocket for each tab."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import WSCloseCode, WSMsgType, web

from torso.errors import ConfigError, ServerError, TorsoError
from torso.playground.drawing import Draw, parse_drawing, parse_question
from torso.playground.network_views import NetworkViews
from torso.playground.sessions import PageSession, add_headers
from torso.playground.unit_views import UnitViews

if TYPE_CHECKING:
    from torso.serve import AsyncClient

logger = logging.getLogger(__name__)

STATIC = Path(__file__).with_name("static")
LARGEST_MESSAGE = 16 << 20  # bytes; images that are dropped are that large at most
HEARTBEAT_S = 20.0
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class Page:
    """Server of the page. ``client``: awaits the client of the gRPC server, which may not be ready for a while."""

    def __init__(
        self, session: PageSession, client: Callable[[], Awaitable[AsyncClient]], views: NetworkViews, thread: Executor
    ) -> None:
        self._session = session
        self._client = client
        self._views = views
        self._units = UnitViews(views)
        self._thread = thread
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

        async def send(message: Mapping[str, Any] | bytes) -> None:
            try:
                if isinstance(message, bytes):
                    await socket.send_bytes(message)
                else:
                    await socket.send_str(json.dumps(message))
            except ConnectionError:
                pass  # the tab has gone; the loop below ends

        draw = Draw(self._client, self._views, self._units, self._thread, send)
        work = [asyncio.create_task(_reported(part, send)) for part in (draw.run(), self._send_models(send))]
        try:
            async for message in socket:
                try:
                    if message.type is WSMsgType.BINARY:
                        draw.put(parse_drawing(message.data))
                    elif message.type is WSMsgType.TEXT:
                        draw.ask(parse_question(message.data))
                except ConfigError as error:
                    await send({"type": "error", "text": str(error)})
        finally:
            self._sockets.discard(socket)
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
        return socket

    async def _send_models(self, send: Callable[[Mapping[str, Any] | bytes], Awaitable[None]]) -> None:
        """Tell a tab of the classifiers of images, once the server is ready."""
        try:
            client = await self._client()
            found = []
            for summary in await client.list_models():
                if summary.kind == "classifier":
                    info = await client.get_model(summary.name)
                    if info.image is not None:
                        found.append({"name": info.name, "labels": info.labels, "inside": info.name in self._views})
        except TorsoError as error:
            await send({"type": "failed", "text": str(error)})
        else:
            await send({"type": "models", "models": found})


async def _reported(
    work: Coroutine[Any, Any, None], send: Callable[[Mapping[str, Any] | bytes], Awaitable[None]]
) -> None:
    """Do a tab's work; an error that nobody expected is logged, and the tab is told."""
    try:
        await work
    except Exception:
        logger.exception("a tab of the playground is not answered any more")
        await send({"type": "failed", "text": "an unexpected error, which is a bug: the terminal has it"})
