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
import contextlib
import gc
import logging
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Coroutine
from importlib import import_module
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

from torso.errors import ServerError, TorsoError
from torso.files import atomic_write_bytes
from torso.serve.config import ServeConfig
from torso.serve.worker_threads import flush_output

logger = logging.getLogger(__name__)

FORCE_S = 0.5  # after the second signal, for a last word to callers
LAST_WORDS_S = 0.2
LOOK_S = 3600.0  # the longest wait for a signal in one piece: a socket takes no longer one than some days
SWITCH_S = 0.0005
OVERTIME_S = 0.8  # beyond ``drain_s`` and ``finish_s``, before the process is ended from outside of its event loop


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


def tune_interpreter() -> None:
    """Tune the interpreter of a process that is a server's own.

    All current objects are frozen out of the garbage collector, which would traverse all that was imported, again and
    again, while requests wait; objects made later are still collected. A thread that computes in Python hands over to
    the event loop after half a millisecond, not five.
    """
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_S)


class Signals:
    """Signal handlers of the process, and the events that they set.

    A thread receives the signals, so that they count even while the event loop is stuck in a model's code. It ends the
    process, with exit code 0, where the loop does not in time: ``FORCE_S`` after the second signal, or, after the
    first, once the configuration's ``drain_s`` and ``finish_s`` and another ``limit_s`` seconds have passed.
    Create it in the main thread, inside the running loop, and `close` it when the loop has ended.
    """

    def __init__(self, config: ServeConfig, limit_s: float = OVERTIME_S) -> None:
        self.shutdown = asyncio.Event()
        self.force = asyncio.Event()
        self.drains = True  # whether requests are still answered for ``drain_s``
        self.reload = asyncio.Event()
        self._config = config
        self._limit_s = limit_s
        self._loop = asyncio.get_running_loop()
        self._received, self._arrivals = socket.socketpair()
        self._arrivals.setblocking(False)
        signal.set_wakeup_fd(self._arrivals.fileno(), warn_on_full_buffer=False)
        numbers = [signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
        self._before = {number: signal.signal(number, lambda _number, _frame: None) for number in numbers}
        threading.Thread(target=self._receive, name="signals", daemon=True).start()

    def close(self) -> None:
        """Restore the handlers of before."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._arrivals.close()  # ends the thread

    def _receive(self) -> None:
        """Receive signals, in the thread, until `close`; end the process where the loop does not."""
        stop_at = math.inf
        stopping = False
        while True:
            self._received.settimeout(min(max(stop_at - monotonic(), 0.001), LOOK_S))
            try:
                numbers = self._received.recv(64)
            except TimeoutError:
                if monotonic() < stop_at:
                    continue
                self._end_process()
                return
            if not numbers:
                self._received.close()
                return
            for number in numbers:
                if number in (signal.SIGTERM, signal.SIGINT):
                    drain_s = self._config.drain_s if number == signal.SIGTERM else 0.0
                    rest_s = FORCE_S if stopping else drain_s + self._config.finish_s + self._limit_s
                    stop_at = min(stop_at, monotonic() + rest_s)
                    stopping = True
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    self._loop.call_soon_threadsafe(self._on_signal, number)

    def _on_signal(self, number: int) -> None:
        if hasattr(signal, "SIGHUP") and number == signal.SIGHUP:
            self.reload.set()
        elif number not in (signal.SIGTERM, signal.SIGINT):
            return
        elif self.shutdown.is_set():
            self.force.set()
        else:
            self.drains = number == signal.SIGTERM
            self.shutdown.set()

    def _end_process(self) -> None:
        """End the process with exit code 0. Last words have a limit, too: stderr may be a pipe that nobody reads."""
        last_words = threading.Thread(target=self._say_last_words, daemon=True)
        last_words.start()
        last_words.join(LAST_WORDS_S)
        os._exit(0)

    def _say_last_words(self) -> None:
        with contextlib.suppress(ServerError):
            remove_port_files(self._config)
        logger.warning("the process ends without waiting any longer for what still runs")
        flush_output()


async def run_service(service: Service, config: ServeConfig, signals: Signals) -> None:
    """Run a service through its lifecycle until signals end it. ServerError where it cannot start."""
    reloading = asyncio.ensure_future(_reload_on_request(service, signals.reload))
    try:
        if await _run_until(_begin(service), signals.shutdown.wait()):
            _write_port_file(config.ops_port_file, service.ops_port)
            _write_port_file(config.port_file, service.port or service.address)
            await signals.shutdown.wait()
            await _shut_down(service, config, signals)
    finally:
        reloading.cancel()
        await service.stop()
        remove_port_files(config)
    logger.info("the server has stopped")


async def _begin(service: Service) -> None:
    await service.start()
    await service.load()


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
