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
from typing import Any

from torso.serve.config import ServeConfig
from torso.serve.models.control import VersionSource
from torso.serve.observability.metrics import Snapshot
from torso.serve.workers.ipc import COUNT_S, IpcChannel, IpcHandler, PeerGoneError

logger = logging.getLogger(__name__)

SNAPSHOT_S = 2.0  # after which a worker's last reported counts are used
REAP_S = 5.0  # the most seconds that a process may take to end once it has closed its connection
# The most seconds for an answer, and for silence: workers report their counts every ``COUNT_S``. One that takes longer
# is killed. Loading may hold Python's lock for long, where it imports large libraries.
CALL_S, LOAD_S, START_S = 30.0, 600.0, 300.0
SILENCE_S, LOADING_SILENCE_S = 5.0, 60.0
SHUTDOWN_ANSWER_S = 0.25  # beyond ``finish_s``


class RemoteReplica:
    """Remote `Replica`: one worker process, which is killed where it does not answer in time, or falls silent.

    Every call raises PeerGoneError where the worker ends before it answers. ``handlers`` are what it may call of the
    supervisor.
    """

    def __init__(self, number: int, process: subprocess.Popen[bytes]) -> None:
        self.number = number
        self.prepared: set[VersionSource] = set()
        self.serving: set[VersionSource] = set()
        self.counts: Snapshot = {}  # as last reported
        self._process = process
        self._channel: IpcChannel
        self._killed = False
        self._allowed_silence_s = SILENCE_S
        self._watching: asyncio.Task[None] | None = None

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

    @property
    def ended(self) -> bool:
        """True once the process was killed here, or has ended by itself."""
        return self._killed or self._channel.closed

    async def configure(self, config: ServeConfig) -> None:
        """Configure the worker, as yet without models or a port. ServerError where it cannot be."""
        level = logging.getLogger("torso").getEffectiveLevel()
        await self._call("configure", config, self.number, level, limit_s=START_S)
        self._watching = asyncio.ensure_future(self._watch())

    async def require_answer(self, limit_s: float = SILENCE_S) -> None:
        """Require any answer within this time."""
        await self._call("snapshot", limit_s=limit_s)

    async def prepare(self, source: VersionSource) -> None:
        """Prepare a version on the worker. Raises as `Replica.prepare`."""
        self._allowed_silence_s = LOADING_SILENCE_S
        try:
            await self._call("prepare", source, limit_s=LOAD_S)
        finally:
            self._allowed_silence_s = SILENCE_S
        self.prepared.add(source)

    async def switch(self, serving: Sequence[VersionSource]) -> None:
        """Switch the worker to these versions. See `Replica.switch`."""
        await self._call("switch", tuple(serving))
        self.serving = (self.serving | self.prepared) & set(serving)
        self.prepared -= self.serving

    async def discard(self, source: VersionSource) -> None:
        """Discard a prepared version on the worker."""
        self.prepared.discard(source)
        await self._call("discard", source)

    async def snapshot(self) -> Snapshot:
        """Return the worker's counts, or those last reported where it does not answer in time."""
        with contextlib.suppress(TimeoutError, PeerGoneError):
            self.counts = await asyncio.wait_for(self._channel.call("snapshot"), SNAPSHOT_S)
        return self.counts

    async def open(self) -> None:
        """Have the worker listen and answer. ServerError where it cannot."""
        await self._call("open")

    async def announce_shutdown(self) -> None:
        """Have the worker announce its shutdown."""
        await self._call("announce_shutdown")

    async def reload(self) -> None:
        """Reload the worker's tokens and certificates. Raises TorsoError or OSError: the old ones stay in use."""
        await self._call("reload")

    async def drain(self, finish_s: float) -> None:
        """Have the worker refuse new requests, finish those in flight, and end; one that hangs gets ``finish_s``."""
        with contextlib.suppress(PeerGoneError):
            await asyncio.gather(self.require_answer(finish_s + SHUTDOWN_ANSWER_S), self._channel.call("drain"))

    def kill(self) -> None:
        """Kill the process."""
        self._killed = True
        self._process.kill()

    async def wait_ended(self) -> str:
        """Wait until the process has ended, whatever the cause; return its exit code or signal as text."""
        await self._channel.wait_closed()
        self._channel.close()
        if self._watching is not None:
            self._watching.cancel()
        waiting = asyncio.get_running_loop().run_in_executor(None, self._process.wait, REAP_S)
        try:
            code = await waiting
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.wait()
        return f"exit code {code}" if code >= 0 else signal.Signals(-code).name

    async def _call(self, method: str, *arguments: Any, limit_s: float = CALL_S) -> None:
        try:
            async with asyncio.timeout(limit_s):
                await self._channel.call(method, *arguments)
        except TimeoutError as error:
            reason = f"it has not answered {method} within {limit_s:g} s"
            self._end_hung(reason)
            raise PeerGoneError(f"worker {self.number} was killed: {reason}") from error

    async def _watch(self) -> None:
        """Kill the worker once it is silent for too long, in seconds that this process has seen pass itself."""
        silent_s = 0.0
        while True:
            num_received = self._channel.num_received
            await asyncio.sleep(COUNT_S)
            silent_s = 0.0 if self._channel.num_received > num_received else silent_s + COUNT_S
            if silent_s >= self._allowed_silence_s:
                self._end_hung(f"it has been silent for {silent_s:g} s")
                return

    def _end_hung(self, reason: str) -> None:
        if not self.ended:
            logger.error("worker %d (process %d) hangs and is killed: %s", self.number, self.pid, reason)
            self.kill()

    async def _record_counts(self, counts: Snapshot) -> None:
        self.counts = counts
