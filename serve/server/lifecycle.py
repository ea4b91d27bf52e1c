"""A server's life in a process of its own: begin, be ready, and end as signals say.

| signal | what happens |
|---|---|
| SIGTERM | health and /readyz say no; after ``drain_s`` seconds new requests are refused, those in flight finish |
| SIGINT | the same, without waiting for ``drain_s`` |
| SIGHUP | tokens and certificates are read again |
| SIGTERM or SIGINT again | all ends at once |
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
    """What lives: one process' server, or the supervisor of several."""

    @property
    def address(self) -> str:
        """Where clients find it, once it has started."""

    @property
    def port(self) -> int:
        """Its TCP port; 0 on a Unix socket."""

    @property
    def ops_port(self) -> int:
        """The port of /livez, /readyz and /metrics; 0 without."""

    async def start(self) -> None:
        """Take the address. ServerError where that cannot be had."""

    async def load(self) -> None:
        """Load the models, and be ready. ServerError where one cannot be loaded."""

    async def leave(self) -> None:
        """Say that it is about to end; requests are still answered."""

    async def drain(self) -> None:
        """Refuse new requests, let those in flight finish, end."""

    async def stop(self) -> None:
        """End at once, whatever is in flight; nothing where it has ended."""

    async def reload(self) -> None:
        """Read tokens and certificates again."""


def import_modules(config: ServeConfig) -> None:
    """Import what the configuration names, such as modules that register torsos. ServerError where one cannot be."""
    for name in config.import_modules:
        try:
            import_module(name)
        except Exception as error:
            raise ServerError(f"import_modules: cannot import {name}: {type(error).__name__}: {error}") from error


def settle_collector() -> None:
    """Spare a process that is a server's own most of what the garbage collector does: it would pass over all that was
    imported, again and again, while requests wait. What requests leave behind is still collected.
    """
    gc.collect()
    gc.freeze()


class Signals:
    """What signals have asked for so far."""

    def __init__(self) -> None:
        self.end = asyncio.Event()
        self.hurry = asyncio.Event()
        self.drains = True  # whether requests are answered for a while yet
        self.reload = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ask, number)
        if hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, self.reload.set)

    def _ask(self, number: int) -> None:
        if self.end.is_set():
            self.hurry.set()
        else:
            self.drains = number == signal.SIGTERM
            self.end.set()


async def live(service: Service, config: ServeConfig, signals: Signals) -> None:
    """Live, to a good end. ServerError where it cannot begin."""
    reloading = asyncio.ensure_future(_reload_when_asked(service, signals.reload))
    try:
        await service.start()
        if await _first(service.load(), signals.end.wait()):
            _write(config.ops_port_file, service.ops_port)
            _write(config.port_file, service.port or service.address)
            await signals.end.wait()
            await _end(service, config, signals)
    finally:
        reloading.cancel()
        await service.stop()
        remove_port_files(config)


async def _end(service: Service, config: ServeConfig, signals: Signals) -> None:
    if signals.drains:
        logger.info("ending in %g s: health says so, requests are still answered", config.drain_s)
        await service.leave()
        await _first(asyncio.sleep(config.drain_s), signals.hurry.wait())
    if not signals.hurry.is_set():
        logger.info("draining: requests in flight have %g s to finish", config.finish_s)
        await _first(service.drain(), signals.hurry.wait())


async def _reload_when_asked(service: Service, asked: asyncio.Event) -> None:
    while True:
        await asked.wait()
        asked.clear()
        try:
            await service.reload()
        except (TorsoError, OSError) as error:
            logger.error("nothing is reloaded: %s", error)


def _write(port_file: Path | None, port: int | str) -> None:
    if port_file is not None:
        atomic_write_bytes(port_file, f"{port}\n".encode())


def remove_port_files(config: ServeConfig) -> None:
    """Remove the port files: whoever waits for one must not read an old one."""
    for path in (config.port_file, config.ops_port_file):
        try:
            if path is not None:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise ServerError(f"port file {path}: cannot be removed: {error.strerror or error}") from error


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
