"""Server of one process: models, gRPC services, port, health."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING

from grpc_health.v1 import health_pb2_grpc

from torso.errors import ServerError
from torso.serve.backends.selection import WrapBackend
from torso.serve.config import ServeConfig
from torso.serve.models.catalogue import Catalogue
from torso.serve.models.control import Control, named_states
from torso.serve.models.manager import Manager
from torso.serve.models.repository import Repository
from torso.serve.observability.bounded_logs import RefusalLog
from torso.serve.observability.exposition import to_text
from torso.serve.observability.metrics import Metrics
from torso.serve.observability.ops_port import OpsServer
from torso.serve.server.health import HEALTH_SERVICE, HealthServicer
from torso.serve.server.lifecycle import import_modules
from torso.serve.server.listener import Listener, raise_open_file_limit
from torso.serve.services.method_table import MethodTable
from torso.serve.services.oip import OipServicer
from torso.serve.services.prediction import PredictionServicer
from torso.serve.services.reflection import enable_reflection
from torso.serve.services.request_handler import RequestHandler
from torso.serve.wire.message_cost import MAX_FIELDS
from torso.serve.wire.messages import MessageLimits
from torso.serve.wire.oip_tensors import OIP_SERVICE
from torso.serve.wire.tensors import SERVICE
from torso.serve.worker_threads import run_in_daemon

if TYPE_CHECKING:
    from torso.serve.observability.tracing import Tracing

logger = logging.getLogger(__name__)

LINGER_S = 0.2  # requests that are on their way when the server drains still get a status
FLUSH_S = 1.0  # the most seconds that sending replies may take once the last request is answered
END_S = 0.4  # the most seconds that the end may take beyond the time for requests in flight
LAST_S = 0.1  # of which the ops port and the last traces have at least so many
SERVER_NAMES = (SERVICE, OIP_SERVICE, "")  # names of the server, not of a model, in the health service


class Server:
    """Server of one process: `start` binds it to ``address`` and ``port``, `load` makes it ready.

    From `start` on it answers: health is NOT_SERVING and predictions are UNAVAILABLE until the models are loaded.
    Create it inside the running loop; `drain` or `stop` ends it. A worker's server is given its ``control``, shares its
    port with others (``reuse_port``), and has its models before it starts.
    """

    def __init__(
        self,
        config: ServeConfig,
        wrap_backend: WrapBackend | None = None,
        *,
        control: Control | None = None,
        reuse_port: bool = False,
    ) -> None:
        self.config = config
        self.ready = False  # whether requests should be sent here
        self._stopped = False
        self.address, self.port, self.ops_port = "", 0, 0
        self._tracing = _tracing(config)
        self.handler = RequestHandler(
            Metrics(),
            limits=MessageLimits(
                max_fields=max(MAX_FIELDS, 2 * config.max_queue_rows), max_bytes=2 * config.max_message_mib << 20
            ),
            log_requests=config.log_requests,
            tracing=self._tracing,
        )
        self.repository = Repository(config, self.handler.metrics, wrap_backend, self._update_health)
        self._manager: Manager | None = None
        if control is None:
            control = self._manager = Manager(config, Catalogue(config), self.repository)
        self.control = control
        self._servicers = (
            PredictionServicer(self.repository, self.handler, config),
            OipServicer(self.repository, self.handler, self.control, config, lambda: self.ready),
        )
        self._health = HealthServicer()
        self._refusals = RefusalLog()
        self._reuse_port = reuse_port
        self._listener: Listener | None = None
        self._ops: OpsServer | None = None

    # -- lifecycle ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen and answer, though not yet with predictions.

        ServerError where it cannot listen as configured, or the token file or certificates cannot be used.
        """
        raise_open_file_limit(self.config.max_connections)
        if self.config.ops_port is not None:
            self._ops = OpsServer(self.config.ops_host, self.config.ops_port, lambda: self.ready, self._metrics)
            await self._ops.start()
            self.ops_port = self._ops.port
        for name in (*SERVER_NAMES, *self.repository.names):
            self._health.set(name, False)
        self._listener = Listener(
            self.config, self._register, reuse_port=self._reuse_port, on_refusal=self._count_refusal
        )
        self.address, self.port = self._listener.address, self._listener.port
        await self._listener.start()

    async def load(self) -> None:
        """Load and warm up the models, without blocking the loop; then be ready. ServerError where one cannot be."""
        if self._manager is not None:
            await self._manager.start()
        self.ready = True
        self._update_health({**self.repository.states, **dict.fromkeys(SERVER_NAMES, True)})
        logger.info("serving %s on %s", ", ".join(self.repository.models) or "no model yet", self.address)

    async def announce_shutdown(self) -> None:
        """Announce the shutdown by health and ``/readyz``. Requests are still answered."""
        self.ready = False
        self._health.announce_shutdown()

    async def drain(self, grace_s: float | None = None) -> None:
        """Shut down gracefully: announce it, refuse new requests as UNAVAILABLE, finish those in flight, then stop.

        After ``grace_s`` seconds (default: the configuration's ``finish_s``) requests still in flight are cancelled,
        and soon afterwards this returns, whatever callers and models do.
        """
        if self._stopped:
            return
        await self.announce_shutdown()
        self.handler.closed = True
        end = monotonic() + (self.config.finish_s if grace_s is None else grace_s)
        if self._manager is not None:
            await self._manager.close()
        try:
            async with asyncio.timeout(max(end - monotonic(), 0)):
                await self.handler.wait_idle()
                if self._listener is not None:
                    await asyncio.sleep(LINGER_S)
        except TimeoutError:
            pass
        self._health.end_watches()
        flush_s = min(FLUSH_S, max(end - monotonic(), 0))
        if self._listener is not None:
            await self._listener.stop(flush_s)  # reflection streams end here at the latest
        self._refusals.close()
        self.handler.shutdown()
        self.repository.close()
        await self.repository.wait_drained(max(end + END_S - monotonic(), 0))
        await self._end_reports(max(end + END_S - monotonic(), LAST_S))
        self._stopped = True

    async def _end_reports(self, limit_s: float) -> None:
        """Send the last traces and close the ops port, or leave both behind after ``limit_s``."""
        endings: list[asyncio.Future[None]] = []
        if self._tracing is not None:
            endings.append(run_in_daemon("end-of-traces", self._tracing.end))
        if self._ops is not None:
            endings.append(asyncio.ensure_future(self._ops.stop()))
        if endings:
            await asyncio.wait(endings, timeout=limit_s)

    async def stop(self) -> None:
        """Stop at once; requests in flight are cancelled."""
        await self.drain(0)

    async def reload(self) -> None:
        """Reload tokens and certificates. Files that cannot be used are logged, and the old ones stay in use."""
        if self._listener is not None:
            self._listener.reload()

    async def __aenter__(self) -> Server:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    # -- services -----------------------------------------------------------------------------------------------------

    def _register(self, table: MethodTable) -> None:
        for servicer in self._servicers:
            servicer.add_to(table)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, table)
        enable_reflection(table, (SERVICE, OIP_SERVICE, HEALTH_SERVICE))

    def _count_refusal(self, status: str) -> None:
        self.handler.metrics.unknown.ended(status, 0.0)
        self._refusals.count(status)

    def _update_health(self, states: Mapping[str, bool]) -> None:
        """Update the health of models, each by its name, once the server is ready."""
        if self.ready:
            for name, serves in states.items():
                self._health.set(name, serves)

    async def _metrics(self) -> bytes:
        return to_text(await self.control.snapshot(), named_states(await self.control.index()))


async def create_server(config: ServeConfig, wrap_backend: WrapBackend | None = None) -> Server:
    """Start a server in this process and load its models; it is ready, on its ``port``, when this returns.

    ``async with await create_server(config) as server: ...`` stops it at the end. Raises ServerError.
    """
    if config.workers > 1:
        raise ServerError(
            f"workers must be 1 for a server in this process, got {config.workers}; `serve` starts several"
        )
    import_modules(config)
    server = Server(config, wrap_backend)
    try:
        await server.start()
        await server.load()
    except BaseException:
        await server.stop()
        raise
    return server


def _tracing(config: ServeConfig) -> Tracing | None:
    if not config.otlp_endpoint:
        return None
    from torso.serve.observability.tracing import Tracing

    return Tracing.to(config.otlp_endpoint)
