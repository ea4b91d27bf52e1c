"""A worker as its supervisor sees it: a process, a line to it, and what it was last heard to have counted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence

from torso.serve.config import ServeConfig
from torso.serve.models.control import VersionSource
from torso.serve.observability.metrics import Snapshot
from torso.serve.workers.ipc import IpcChannel, IpcHandler, PeerGoneError

SNAPSHOT_S = 2.0  # a worker that is slower to say what it counts is taken at its last word
REAP_S = 5.0  # what a process may take to end once it has closed its line


class RemoteReplica:
    """One worker process. Every call raises PeerGoneError where the worker ends before it has done what was asked.

    ``handlers`` are what it may ask of the supervisor.
    """

    def __init__(self, number: int, process: subprocess.Popen[bytes]) -> None:
        self.number = number
        self.prepared: set[VersionSource] = set()
        self.serving: set[VersionSource] = set()
        self.counts: Snapshot = {}  # as last heard
        self._process = process
        self._channel: IpcChannel

    @classmethod
    async def spawn(cls, number: int, handlers: Mapping[str, IpcHandler]) -> RemoteReplica:
        """Start a process. It waits for `begin`."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                (sys.executable, "-P", "-m", "torso.serve.workers.worker", str(theirs.fileno())),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
            )
        worker = cls(number, process)
        worker._channel = await IpcChannel.open(ours, {**handlers, "count": worker._count}, f"worker {number}")
        return worker

    @property
    def pid(self) -> int:
        """The process' number."""
        return self._process.pid

    async def begin(self, config: ServeConfig) -> None:
        """Have it set itself up, as yet without models or a port. ServerError where it cannot."""
        await self._channel.call("begin", config, self.number, logging.getLogger("torso").getEffectiveLevel())

    async def prepare(self, source: VersionSource) -> None:
        """Have it load a version beside what it serves. Raises as `Replica.prepare`."""
        await self._channel.call("prepare", source)
        self.prepared.add(source)

    async def switch(self, serving: Sequence[VersionSource]) -> None:
        """Have it serve these."""
        await self._channel.call("switch", tuple(serving))
        self.serving = (self.serving | self.prepared) & set(serving)
        self.prepared -= self.serving

    async def discard(self, source: VersionSource) -> None:
        """Have it drop what it prepared."""
        self.prepared.discard(source)
        await self._channel.call("discard", source)

    async def snapshot(self) -> Snapshot:
        """What it counts, as far as it can be heard."""
        with contextlib.suppress(TimeoutError, PeerGoneError):
            self.counts = await asyncio.wait_for(self._channel.call("snapshot"), SNAPSHOT_S)
        return self.counts

    async def open(self) -> None:
        """Have it listen, and answer. ServerError where it cannot."""
        await self._channel.call("open")

    async def leave(self) -> None:
        """Have it say that it is about to end."""
        await self._channel.call("leave")

    async def reload(self) -> None:
        """Have it read tokens and certificates again. Raises TorsoError or OSError: those it has stay."""
        await self._channel.call("reload")

    async def drain(self) -> None:
        """Have it refuse new requests, finish those in flight, and end."""
        with contextlib.suppress(PeerGoneError):
            await self._channel.call("drain")

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    async def ended(self) -> str:
        """Wait until it has ended, whatever the cause, and say how it did."""
        await self._channel.wait_closed()
        self._channel.close()
        waiting = asyncio.get_running_loop().run_in_executor(None, self._process.wait, REAP_S)
        try:
            code = await waiting
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.wait()
        return f"exit code {code}" if code >= 0 else signal.Signals(-code).name

    async def _count(self, counts: Snapshot) -> None:
        self.counts = counts
