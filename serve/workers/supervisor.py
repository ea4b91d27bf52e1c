"""Supervisor of several workers behind one port: models, counts, ops port and the workers' lifecycle."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import socket

from torso.errors import ServerError
from torso.serve.backends.selection import WrapBackend
from torso.serve.config import ServeConfig
from torso.serve.models.catalogue import Catalogue
from torso.serve.models.control import named_states
from torso.serve.models.manager import Manager
from torso.serve.observability.exposition import to_text
from torso.serve.observability.ops_port import OpsServer
from torso.serve.server.auth import Authority, check_bind
from torso.serve.server.listener import format_address, listen_error, resolve_address
from torso.serve.server.tls import Certificates
from torso.serve.workers.ipc import IpcHandler
from torso.serve.workers.worker_set import WorkerSet

logger = logging.getLogger(__name__)


class Supervisor:
    """Server of ``config.workers`` processes. This process answers no requests: it reserves the port that they share.

    Create it inside the running loop; `start`, `load`, and then `drain` or `stop`, as a `Server`. ServerError where
    processes cannot share a port here, or with ``wrap_backend``, which other processes cannot have.
    """

    def __init__(self, config: ServeConfig, wrap_backend: WrapBackend | None = None) -> None:
        if wrap_backend is not None:
            raise ServerError(
                f"wrap_backend must be None with {config.workers} workers, which are other processes, "
                f"got {wrap_backend!r}"
            )
        if not hasattr(socket, "SO_REUSEPORT"):
            raise ServerError(
                f"workers must be 1, got {config.workers}: processes cannot share a port on this platform"
            )
        check_bind(config)
        Authority(config.token_file, "predict")
        Certificates(config)  # as each worker will; fail before any starts where the files cannot be used
        catalogue = Catalogue(config)
        self.config = config
        self.ready = False
        self.ops_port = 0
        self._reserved = reserve_port(config.host, config.port)
        self.port: int = self._reserved.getsockname()[1]
        self.address = format_address(config.host, self.port)
        handlers: dict[str, IpcHandler] = {}
        self._workers = WorkerSet(_worker_config(config, self.port), handlers)
        self._manager = Manager(config, catalogue, self._workers)
        for method in (self._manager.index, self._manager.load, self._manager.unload, self._manager.snapshot):
            handlers[method.__name__] = method
        self._ops: OpsServer | None = None

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are up."""
        return self._workers.pids

    async def start(self) -> None:
        """Open the ops port. ServerError where it cannot be opened."""
        if self.config.ops_port is not None:
            self._ops = OpsServer(
                self.config.ops_host, self.config.ops_port, lambda: self.ready and len(self._workers) > 0, self._metrics
            )
            await self._ops.start()
            self.ops_port = self._ops.port

    async def load(self) -> None:
        """Start the workers, load the models on every one, then have all listen. ServerError where one cannot."""
        await self._workers.start()
        await self._manager.start()
        await self._workers.open()
        self.ready = True
        logger.info("%d workers serve on %s", len(self._workers), self.address)

    async def announce_shutdown(self) -> None:
        """Announce the shutdown by health and ``/readyz``. Requests are still answered."""
        self.ready = False
        await self._workers.announce_shutdown()

    async def drain(self) -> None:
        """Have every worker refuse new requests, finish those in flight, and end; then stop."""
        self.ready = False
        await self._manager.close()
        await self._workers.drain()
        await self.stop()

    async def stop(self) -> None:
        """Stop the workers at once."""
        self.ready = False
        await self._manager.close()
        await self._workers.stop()
        self._reserved.close()
        if self._ops is not None:
            await self._ops.stop()

    async def reload(self) -> None:
        """Reload every worker's tokens and certificates."""
        await self._workers.reload()

    async def _metrics(self) -> bytes:
        snapshot, states = await self._manager.snapshot(), await self._manager.index()
        return to_text(snapshot, named_states(states), workers=len(self._workers))


def reserve_port(host: str, port: int) -> socket.socket:
    """Reserve a port, 0 for a free one, for this user's processes to share; nothing listens there yet.

    ServerError where it is in use, be it by another supervisor whose workers do not listen yet.
    """
    with contextlib.ExitStack() as failed:
        try:
            family, kind, protocol, address = resolve_address(host, port)
            reserved = failed.enter_context(socket.socket(family, kind, protocol))
            try:
                reserved.bind(address)
            except OSError:  # perhaps only connections in TIME_WAIT, which SO_REUSEADDR ignores
                reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                reserved.bind(address)
                reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # only now: the bind was exclusive
        except OSError as error:
            raise listen_error(host, port, error) from error
        failed.pop_all()
        return reserved


def _worker_config(config: ServeConfig, port: int) -> ServeConfig:
    """Copy the configuration for workers, without the supervisor's settings, as an instance of the plain class."""
    settings = {field.name: getattr(config, field.name) for field in dataclasses.fields(ServeConfig)}
    return ServeConfig(**{**settings, "port": port, "port_file": None, "ops_port": None, "ops_port_file": None})
