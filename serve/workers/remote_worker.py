"""Supervisor's handle of one worker: its process, the connection to it, and its last reported counts."""

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

SNAPSHOT_S = 2.0  # after which a worker's last reported counts are used
REAP_S = 5.0  # the most seconds that a process may take to end once it has closed its connection


class RemoteReplica:
    """Remote `Replica`: one worker process. Every call raises PeerGoneError where the worker ends before it answers.

    ``handlers`` are what it may call of the supervisor.
    """

    def __init__(self, number: int, process: subprocess.Popen[bytes]) -> None:
        self.number = number
        self.prepared: set[VersionSource] = set()
        self.serving: set[VersionSource] = set()
        self.counts: Snapshot = {}  # as last reported
        self._process = process
        self._channel: IpcChannel

    @classmethod
    async def spawn(cls, number: int, handlers: Mapping[str, IpcHandler]) -> RemoteReplica:
        """Start a process. It waits for `configure`."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                (sys.executable, "-P", "-m", "torso.serve.workers.worker", str(theirs.fileno())),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
            )
        worker = cls(number, process)
        worker._channel = await IpcChannel.open(ours, {**handlers, "count": worker._record_counts}, f"worker {number}")
        return worker

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    async def configure(self, config: ServeConfig) -> None:
        """Configure the worker, as yet without models or a port. ServerError where it cannot be."""
        await self._channel.call("configure", config, self.number, logging.getLogger("torso").getEffectiveLevel())

    async def prepare(self, source: VersionSource) -> None:
        """Prepare a version on the worker. Raises as `Replica.prepare`."""
        await self._channel.call("prepare", source)
        self.prepared.add(source)

    async def switch(self, serving: Sequence[VersionSource]) -> None:
        """Switch the worker to these versions. See `Replica.switch`."""
        await self._channel.call("switch", tuple(serving))
        self.serving = (self.serving | self.prepared) & set(serving)
        self.prepared -= self.serving

    async def discard(self, source: VersionSource) -> None:
        """Discard a prepared version on the worker."""
        self.prepared.discard(source)
        await self._channel.call("discard", source)

    async def snapshot(self) -> Snapshot:
        """Return the worker's counts, or those last reported where it does not answer in time."""
        with contextlib.suppress(TimeoutError, PeerGoneError):
            self.counts = await asyncio.wait_for(self._channel.call("snapshot"), SNAPSHOT_S)
        return self.counts

    async def open(self) -> None:
        """Have the worker listen and answer. ServerError where it cannot."""
        await self._channel.call("open")

    async def announce_shutdown(self) -> None:
        """Have the worker announce its shutdown."""
        await self._channel.call("announce_shutdown")

    async def reload(self) -> None:
        """Reload the worker's tokens and certificates. Raises TorsoError or OSError: the old ones stay in use."""
        await self._channel.call("reload")

    async def drain(self) -> None:
        """Have the worker refuse new requests, finish those in flight, and end."""
        with contextlib.suppress(PeerGoneError):
            await self._channel.call("drain")

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()

    async def wait_ended(self) -> str:
        """Wait until the process has ended, whatever the cause; return its exit code or signal as text."""
        await self._channel.wait_closed()
        self._channel.close()
        waiting = asyncio.get_running_loop().run_in_executor(None, self._process.wait, REAP_S)
        try:
            code = await waiting
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.wait()
        return f"exit code {code}" if code >= 0 else signal.Signals(-code).name

    async def _record_counts(self, counts: Snapshot) -> None:
        self.counts = counts
