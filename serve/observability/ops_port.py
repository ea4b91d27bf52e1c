"""HTTP server of the operations port: ``/livez``, ``/readyz`` and ``/metrics``, for probes and for Prometheus."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from torso.errors import ServerError

SHUTDOWN_S = 1.0  # timeout of requests in flight at shutdown


class OpsServer:
    """HTTP server of liveness, readiness and metrics, without authentication. ``port``: the bound one, once started.

    ``is_ready`` returns whether requests should be sent here; ``metrics`` renders Prometheus' text format.
    """

    def __init__(
        self, host: str, port: int, is_ready: Callable[[], bool], metrics: Callable[[], Awaitable[bytes]]
    ) -> None:
        self._host = host.strip("[]")
        self.port = port
        self._is_ready = is_ready
        self._metrics = metrics
        application = web.Application()
        application.router.add_get("/livez", self._livez)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._answer_metrics)
        application.on_response_prepare.append(_hide_server_version)
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_S)

    async def start(self) -> None:
        """Start listening. ServerError where the address is taken or not this machine's."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self.port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise ServerError(
                f"cannot listen on {self._host} port {self.port} for /livez, /readyz and /metrics: "
                f"{error.strerror or error}; choose another with --ops-port"
            ) from error
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    async def _livez(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        ready = self._is_ready()
        return web.Response(text="ok\n" if ready else "not ready\n", status=200 if ready else 503)

    async def _answer_metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=await self._metrics(), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})


async def _hide_server_version(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "torso"
