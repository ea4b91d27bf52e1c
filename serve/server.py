"""A server's life: bind, load, warm up, serve, drain."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc.aio
import torch
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from torso.errors import ServerError
from torso.nets.files import atomic_write_bytes
from torso.serve.auth import TokenCheck, check_bind, read_tokens
from torso.serve.config import ServeConfig
from torso.serve.listen import Listener
from torso.serve.metrics import Metrics
from torso.serve.repository import Repository, WrapBackend
from torso.serve.requests import Door
from torso.serve.service import PredictionServicer
from torso.serve.wire import SERVICE

logger = logging.getLogger(__name__)

FLUSH_S = 1.0  # what replies may take to leave once the last request is answered
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Server:
    """A server that is bound to ``address`` and ``port``; `load` makes it ready, `drain` or `stop` ends it.

    From `start` on it answers: health says NOT_SERVING and predictions are UNAVAILABLE until the models are loaded.
    Create it inside the running loop. Raises ServerError where it cannot listen as configured.
    """

    def __init__(self, config: ServeConfig, wrap_backend: WrapBackend | None = None) -> None:
        self.config = config
        self.door = Door(Metrics())
        self.repository = Repository(config, self.door.metrics, wrap_backend)
        self._servicer = PredictionServicer(self.repository, self.door)
        self._health = health.aio.HealthServicer()
        tokens = () if config.token_file is None else read_tokens(config.token_file)
        check_bind(
            config.host,
            tls=config.tls_cert is not None,
            tokens=bool(tokens),
            allow_plaintext=config.allow_plaintext,
            allow_anonymous=config.allow_anonymous,
        )
        self._listener = Listener(config, self._register, (TokenCheck(tokens),) if tokens else ())
        self.address, self.port = self._listener.address, self._listener.port

    def _register(self, server: grpc.aio.Server) -> None:
        self._servicer.add_to(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        services = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(services, server)

    async def start(self) -> None:
        """Answer, though not yet with predictions."""
        for name in (*self.repository.names, SERVICE, ""):
            await self._health.set(name, NOT_SERVING)
        await self._listener.start()

    async def load(self) -> None:
        """Load and warm up the models, without blocking the loop; then serve. ServerError as `Repository.load_all`."""
        await asyncio.get_running_loop().run_in_executor(None, self.repository.load_all)
        for name in (*self.repository.models, SERVICE, ""):
            await self._health.set(name, SERVING)
        logger.info("serving %s on %s", ", ".join(self.repository.models), self.address)

    async def drain(self, grace_s: float | None = None) -> None:
        """Leave in good order: health says so first, new requests are UNAVAILABLE, those in flight finish, all ends.

        After ``grace_s`` seconds (default: the configuration's ``finish_s``) what still runs is cancelled.
        """
        await self._health.enter_graceful_shutdown()
        self.door.closed = True
        try:
            await asyncio.wait_for(self.door.wait_idle(), self.config.finish_s if grace_s is None else grace_s)
            flush_s = FLUSH_S
        except TimeoutError:
            flush_s = 0
        await self._listener.stop(flush_s)  # health watchers and reflection streams end here at the latest
        self.door.end()
        self.repository.close()

    async def stop(self) -> None:
        """End at once; what is in flight is cancelled."""
        await self.drain(0)

    async def __aenter__(self) -> Server:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()


async def create_server(config: ServeConfig, wrap_backend: WrapBackend | None = None) -> Server:
    """Start a server and load its models; it is ready, on its ``port``, when this returns.

    ``async with await create_server(config) as server: ...`` stops it at the end. Raises ServerError.
    """
    server = Server(config, wrap_backend)
    try:
        await server.start()
        await server.load()
    except BaseException:
        await server.stop()
        raise
    return server


def serve(config: ServeConfig, wrap_backend: WrapBackend | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return; a second signal ends it at once. Raises ServerError."""
    torch.set_num_threads(config.threads)  # the process is the server's own, and its cores may be few
    with asyncio.Runner(loop_factory=_new_event_loop) as runner:
        runner.run(_serve(config, wrap_backend))


def _new_event_loop() -> asyncio.AbstractEventLoop:
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


async def _serve(config: ServeConfig, wrap_backend: WrapBackend | None) -> None:
    drain, hurry = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, lambda: (hurry if drain.is_set() else drain).set())
    server = Server(config, wrap_backend)
    try:
        _remove(config.port_file)  # whoever waits for it must not read an old one
        await server.start()
        if await _first(server.load(), drain.wait()):
            if config.port_file is not None:
                atomic_write_bytes(config.port_file, f"{server.port or server.address}\n".encode())
            await drain.wait()
        logger.info("draining: requests in flight have %g s to finish", config.finish_s)
        await _first(server.drain(), hurry.wait())
    finally:
        await server.stop()
        _remove(config.port_file)


def _remove(port_file: Path | None) -> None:
    try:
        if port_file is not None:
            port_file.unlink(missing_ok=True)
    except OSError as error:
        raise ServerError(f"port file {port_file}: cannot be removed: {error.strerror or error}") from error


async def _first(work: Coroutine[Any, Any, None], interruption: Coroutine[Any, Any, object]) -> bool:
    """Run ``work`` until it ends or ``interruption`` does; say whether it ended. What it raises is raised."""
    working, interrupting = asyncio.ensure_future(work), asyncio.ensure_future(interruption)
    await asyncio.wait((working, interrupting), return_when=asyncio.FIRST_COMPLETED)
    interrupting.cancel()
    if working.done():
        working.result()
        return True
    working.cancel()
    return False
