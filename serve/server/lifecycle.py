"""Process lifecycle: start, readiness, drain and shutdown on signals.

| signal | effect |
|---|---|
| SIGTERM | health and /readyz say no; after ``drain_s`` seconds new requests are refused, those in flight finish |
| SIGINT | the same, without waiting for ``drain_s`` |
| SIGHUP | tokens and certificates are read again |
| SIGTERM or SIGINT again | the process ends at once |
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Coroutine
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from torso.errors import ServerError, TorsoError
from torso.files import atomic_write_bytes
from torso.serve.config import ServeConfig

logger = logging.getLogger(__name__)


class Service(Protocol):
    """Interface of a service with a lifecycle: one process' server, or the supervisor of several."""

    @property
    def address(self) -> str:
        """Address for clients, once the service has started."""

    @property
    def port(self) -> int:
        """TCP port; 0 on a Unix socket."""

    @property
    def ops_port(self) -> int:
        """Port of /livez, /readyz and /metrics; 0 without."""

    async def start(self) -> None:
        """Bind the address. ServerError where that is not possible."""

    async def load(self) -> None:
        """Load the models, and be ready. ServerError where one cannot be loaded."""

    async def announce_shutdown(self) -> None:
        """Announce the shutdown; requests are still answered."""

    async def drain(self) -> None:
        """Refuse new requests, finish those in flight, stop."""

    async def stop(self) -> None:
        """Stop at once, whatever is in flight; does nothing where it has stopped."""

    async def reload(self) -> None:
        """Read tokens and certificates again."""


def import_modules(config: ServeConfig) -> None:
    """Import the configuration's modules, such as those that register torsos. ServerError where one cannot be."""
    for name in config.import_modules:
        try:
            import_module(name)
        except Exception as error:
            raise ServerError(f"import_modules: cannot import {name}: {type(error).__name__}: {error}") from error


def freeze_garbage_collector() -> None:
    """Freeze all current objects out of the garbage collector, in a process that is a server's own.

    It would traverse all that was imported, again and again, while requests wait. Objects made later are still
    collected.
    """
    gc.collect()
    gc.freeze()


class Signals:
    """Signal handlers of the process, and the events that they set."""

    def __init__(self) -> None:
        self.shutdown = asyncio.Event()
        self.force = asyncio.Event()
        self.drains = True  # whether requests are still answered for ``drain_s``
        self.reload = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        if hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, self.reload.set)

    def _on_signal(self, number: int) -> None:
        if self.shutdown.is_set():
            self.force.set()
        else:
            self.drains = number == signal.SIGTERM
            self.shutdown.set()


async def run_service(service: Service, config: ServeConfig, signals: Signals) -> None:
    """Run a service through its lifecycle until signals end it. ServerError where it cannot start."""
    reloading = asyncio.ensure_future(_reload_on_request(service, signals.reload))
    try:
        await service.start()
        if await _run_until(service.load(), signals.shutdown.wait()):
            _write_port_file(config.ops_port_file, service.ops_port)
            _write_port_file(config.port_file, service.port or service.address)
            await signals.shutdown.wait()
            await _shut_down(service, config, signals)
    finally:
        reloading.cancel()
        await service.stop()
        remove_port_files(config)
    logger.info("the server has stopped")


async def _shut_down(service: Service, config: ServeConfig, signals: Signals) -> None:
    if signals.drains:
        logger.info("shutting down in %g s: health is NOT_SERVING, requests are still answered", config.drain_s)
        await service.announce_shutdown()
        await _run_until(asyncio.sleep(config.drain_s), signals.force.wait())
    if not signals.force.is_set():
        logger.info("draining: requests in flight have %g s to finish", config.finish_s)
        await _run_until(service.drain(), signals.force.wait())


async def _reload_on_request(service: Service, requested: asyncio.Event) -> None:
    while True:
        await requested.wait()
        requested.clear()
        try:
            await service.reload()
        except (TorsoError, OSError) as error:
            logger.error("nothing is reloaded: %s", error)


def _write_port_file(port_file: Path | None, port: int | str) -> None:
    if port_file is not None:
        atomic_write_bytes(port_file, f"{port}\n".encode())


def remove_port_files(config: ServeConfig) -> None:
    """Remove the port files: processes that wait for one must not read an old one."""
    for path in (config.port_file, config.ops_port_file):
        try:
            if path is not None:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise ServerError(f"port file {path} cannot be removed: {error.strerror or error}") from error


async def _run_until(work: Coroutine[Any, Any, None], interruption: Coroutine[Any, Any, object]) -> bool:
    """Run ``work`` until it ends or ``interruption`` does; return whether it ended, or raise its error."""
    working, interrupting = asyncio.ensure_future(work), asyncio.ensure_future(interruption)
    await asyncio.wait((working, interrupting), return_when=asyncio.FIRST_COMPLETED)
    interrupting.cancel()
    if working.done():
        working.result()
        return True
    working.cancel()
    return False
