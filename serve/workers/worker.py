"""A worker: one of several processes that share a port. Its supervisor starts it, tells it what to do, and outlives it.

``python -m torso.serve.workers.worker N``: N is the file descriptor of its end of the line to the supervisor. Signals
are the supervisor's to handle: a terminal's Ctrl-C, and a service manager's SIGTERM, reach every process.
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
from torso.serve.observability.logs import log_as
from torso.serve.observability.metrics import Snapshot
from torso.serve.server.lifecycle import import_modules, settle_collector
from torso.serve.workers.ipc import IpcChannel, PeerGoneError

if TYPE_CHECKING:
    from torso.serve.server.grpc_server import Server

logger = logging.getLogger(__name__)

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
COUNT_S = 1.0  # a worker that is killed takes what it counted since with it


class RemoteControl:
    """The supervisor's `Control`, as its workers have it."""

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
    """What the supervisor may have this process do, each method by its name."""

    def __init__(self) -> None:
        self._channel: IpcChannel
        self._log = contextlib.ExitStack()
        self._begun: Server | None = None
        self._done = asyncio.Event()

    async def run(self, line: socket.socket) -> bool:
        """Do as the supervisor says, until it says drain, or is gone. Say whether it did say so."""
        methods = (self.begin, self.prepare, self.switch, self.discard, self.snapshot)
        life = (self.open, self.leave, self.reload, self.drain)
        handlers = {method.__name__: method for method in (*methods, *life)}
        self._channel = await IpcChannel.open(line, handlers, "the supervisor")
        counting = asyncio.ensure_future(self._count())
        done = asyncio.ensure_future(self._done.wait())
        gone = asyncio.ensure_future(self._channel.wait_closed())
        await asyncio.wait((done, gone), return_when=asyncio.FIRST_COMPLETED)
        counting.cancel()
        if not done.done() and self._begun is not None:
            logger.error("the supervisor is gone; this worker ends once what is in flight has")
            await self._begun.drain()
        self._channel.close()
        return done.done()

    @property
    def _server(self) -> Server:
        if self._begun is None:
            raise RuntimeError("begin comes first")
        return self._begun

    async def begin(self, config: ServeConfig, number: int, level: int) -> None:
        """Set up, as yet without models or a port."""
        import torch

        from torso.serve.server.grpc_server import Server

        self._log.enter_context(log_as(config.log_format))
        logging.getLogger("torso").setLevel(level)
        import_modules(config)
        torch.set_num_threads(config.threads)
        settle_collector()
        self._begun = Server(config, control=RemoteControl(self._channel), reuse_port=True)

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

    async def leave(self) -> None:
        """Say that this process is about to end."""
        await self._server.leave()

    async def reload(self) -> None:
        """Read tokens and certificates again."""
        await self._server.reload()

    async def drain(self) -> None:
        """Refuse new requests, finish those in flight, and end."""
        await self._server.drain()
        await self._channel.call("count", await self.snapshot())
        self._done.set()

    async def _count(self) -> None:
        """Tell the supervisor what is counted here, now and then."""
        told: Snapshot = {}
        with contextlib.suppress(PeerGoneError):
            while True:
                await asyncio.sleep(COUNT_S)
                counts = {} if self._begun is None else await self.snapshot()
                if counts != told:
                    await self._channel.call("count", counts)
                    told = counts


def main(descriptor: int) -> None:
    """Be a worker, for as long as there is a supervisor."""
    for name in SIGNALS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    worker = Worker()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        told_to_end = runner.run(worker.run(socket.socket(fileno=descriptor)))
    if not told_to_end:
        os._exit(1)  # whatever its threads still do: nobody is left to end this process


if __name__ == "__main__":
    main(int(sys.argv[1]))
