"""HTTP server of the operations port: ``/livez``, ``/readyz`` and ``/metrics``, for probes and for Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from torso.errors import ServerError
from torso.serve.observability.http_connections import LimitedConnections

SHUTDOWN_S = 1.0  # timeout of requests in flight at shutdown
KEEP_ALIVE_S = 5.0  # the most seconds that a connection may be idle after an answer
LIMITS: Final[dict[str, Any]] = {  # of aiohttp's request handler
    "keepalive_timeout": KEEP_ALIVE_S,
    "lingering_time": 1.0,  # the most seconds to read a body, which nothing here uses, after the answer
    "max_line_size": 4096,
    "max_field_size": 4096,
    "max_headers": 64,
    "read_bufsize": 1 << 14,
}


class OpsServer:
    """HTTP server of liveness, readiness and metrics, without authentication. ``port``: the bound one, once started.

    ``is_ready`` returns whether requests should be sent here; ``metrics`` renders Prometheus' text format, once for all
    who ask meanwhile. `LimitedConnections` has the limits of what a peer may hold.
    """

    def __init__(
        self, host: str, port: int, is_ready: Callable[[], bool], metrics: Callable[[], Awaitable[bytes]]
    ) -> None:
        self._host = host.strip("[]")
        self.port = port
        self._is_ready = is_ready
        self._metrics = metrics
        self._rendering: asyncio.Task[bytes] | None = None
        self._server: asyncio.Server | None = None
        self._connections: LimitedConnections
        application = web.Application(middlewares=(self._begin_answer,))
        application.router.add_get("/livez", self._livez)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._answer_metrics)
        application.on_response_prepare.append(_hide_server_version)
        self._runner = web.AppRunner(
            application,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=SHUTDOWN_S,
            handler_cancellation=True,
            **LIMITS,
        )

    async def start(self) -> None:
        """Start listening. ServerError where the address is taken or not this machine's."""
        await self._runner.setup()
        self._connections = LimitedConnections(cast(web.Server, self._runner.server))  # None only before the set-up
        try:
            self._server = await asyncio.get_running_loop().create_server(self._connections, self._host, self.port)
        except OSError as error:
            await self._runner.cleanup()
            raise ServerError(
                f"cannot listen on {self._host} port {self.port} for /livez, /readyz and /metrics: "
                f"{error.strerror or error}; choose another with --ops-port"
            ) from error
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()

    @web.middleware
    async def _begin_answer(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self._connections.begin_answer(request.protocol)
        return await handler(request)

    async def _livez(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        ready = self._is_ready()
        return web.Response(text="ok\n" if ready else "not ready\n", status=200 if ready else 503)

    async def _answer_metrics(self, _request: web.Request) -> web.Response:
        if self._rendering is None:
            self._rendering = asyncio.ensure_future(self._render())
        body = await asyncio.shield(self._rendering)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    async def _render(self) -> bytes:
        await asyncio.sleep(0)  # for all requests that have arrived, also where the metrics are rendered at once
        try:
            return await self._metrics()
        finally:
            self._rendering = None


async def _hide_server_version(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "torso"
