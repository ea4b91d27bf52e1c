"""Worker process: one of several that share a port, started and controlled by the supervisor.

``python -m torso.serve.workers.worker N``: N is the file descriptor of its end of the connection to the supervisor.
Signals are the supervisor's to handle: a terminal's Ctrl-C, and a service manager's SIGTERM, reach every process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torso.serve.config import ServeConfig
from torso.serve.event_loop import new_event_loop
from torso.serve.models.control import VersionSource, VersionState
from torso.serve.observability.bounded_logs import bounded_logs
from torso.serve.observability.logs import log_as
from torso.serve.observability.metrics import Snapshot
from torso.serve.server.lifecycle import import_modules, tune_interpreter
from torso.serve.workers.ipc import COUNT_S, IpcChannel, PeerGoneError

if TYPE_CHECKING:
    from torso.serve.server.grpc_server import Server

logger = logging.getLogger(__name__)

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class RemoteControl:
    """Remote `Control`: the supervisor's, called by its workers."""

    def __init__(self, channel: IpcChannel) -> None:
        self._channel = channel

    async def index(self) -> Sequence[VersionState]:
        """See `Control.index`."""
        states: Sequence[VersionState] = await self._channel.call("index")
        return states

    async def load(self, name: str) -> None:
        """See `Control.load`."""
        await self._channel.call("load", name)

    async def unload(self, name: str) -> None:
        """See `Control.unload`."""
        await self._channel.call("unload", name)

    async def snapshot(self) -> Snapshot:
        """See `Control.snapshot`."""
        snapshot: Snapshot = await self._channel.call("snapshot")
        return snapshot


class Worker:
    """Handlers of the supervisor's calls, each method by its name."""

    def __init__(self) -> None:
        self._channel: IpcChannel
        self._log = contextlib.ExitStack()
        self._configured: Server | None = None
        self._done = asyncio.Event()

    async def run(self, connection: socket.socket) -> bool:
        """Handle the supervisor's calls until it has this worker drain, or has ended. Return whether it was drained."""
        methods = (self.configure, self.prepare, self.switch, self.discard, self.snapshot)
        lifecycle = (self.open, self.announce_shutdown, self.reload, self.drain)
        handlers = {method.__name__: method for method in (*methods, *lifecycle)}
        self._channel = await IpcChannel.open(connection, handlers, "the supervisor")
        counting = asyncio.ensure_future(self._report_counts())
        done = asyncio.ensure_future(self._done.wait())
        disconnected = asyncio.ensure_future(self._channel.wait_closed())
        await asyncio.wait((done, disconnected), return_when=asyncio.FIRST_COMPLETED)
        counting.cancel()
        if not done.done() and self._configured is not None:
            logger.error("the supervisor has ended; this worker drains and ends")
            await self._configured.drain()
        self._channel.close()
        return done.done()

    @property
    def _server(self) -> Server:
        if self._configured is None:
            raise RuntimeError("configure must be called first")
        return self._configured

    async def configure(self, config: ServeConfig, number: int, level: int) -> None:
        """Create the server, as yet without models or a port."""
        self._log.enter_context(bounded_logs())
        import torch

        from torso.serve.server.grpc_server import Server

        self._log.enter_context(log_as(config.log_format))
        logging.getLogger("torso").setLevel(level)
        import_modules(config)
        torch.set_num_threads(config.threads)
        tune_interpreter()
        self._configured = Server(config, control=RemoteControl(self._channel), reuse_port=True)

    async def prepare(self, source: VersionSource) -> None:
        """See `Replica.prepare`."""
        await self._server.repository.prepare(source)

    async def switch(self, serving: Sequence[VersionSource]) -> None:
        """See `Replica.switch`."""
        await self._server.repository.switch(serving)

    async def discard(self, source: VersionSource) -> None:
        """See `Replica.discard`."""
        await self._server.repository.discard(source)

    async def snapshot(self) -> Snapshot:
        """See `Replica.snapshot`."""
        return await self._server.repository.snapshot()

    async def open(self) -> None:
        """Listen, and answer."""
        await self._server.start()
        await self._server.load()

    async def announce_shutdown(self) -> None:
        """Announce the shutdown."""
        await self._server.announce_shutdown()

    async def reload(self) -> None:
        """Read tokens and certificates again."""
        await self._server.reload()

    async def drain(self) -> None:
        """Refuse new requests, finish those in flight, and end."""
        await self._server.drain()
        await self._channel.call("count", await self.snapshot())
        self._done.set()

    async def _report_counts(self) -> None:
        """Report the counts to the supervisor every ``COUNT_S``, which says also that this process does not hang."""
        with contextlib.suppress(PeerGoneError):
            while True:
                await asyncio.sleep(COUNT_S)
                await self._channel.call("count", {} if self._configured is None else await self.snapshot())


def main(descriptor: int) -> None:
    """Run a worker for as long as there is a supervisor."""
    for name in SIGNALS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    worker = Worker()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        drained = runner.run(worker.run(socket.socket(fileno=descriptor)))
    if not drained:
        os._exit(1)  # without waiting for threads: no supervisor is left to kill this process


if __name__ == "__main__":
    main(int(sys.argv[1]))
