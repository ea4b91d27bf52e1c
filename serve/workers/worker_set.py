"""Set of a supervisor's workers: together they are one `Replica`, and one that dies is replaced."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from torso.errors import ServerError, TorsoError
from torso.serve.config import ServeConfig
from torso.serve.models.catalogue import stamp
from torso.serve.models.control import VersionSource
from torso.serve.observability.metrics import NO_MODEL, Snapshot, merge, without_gauges
from torso.serve.workers.ipc import IpcHandler, PeerGoneError
from torso.serve.workers.remote_worker import RemoteReplica

logger = logging.getLogger(__name__)

STABLE_S = 10.0  # a worker that ran this long is replaced at once
FIRST_DELAY_S, LAST_DELAY_S = 0.5, 30.0  # exponential backoff for others: a persistent fault must not keep us busy
END_S = 5.0  # the most seconds that workers may take to end beyond ``finish_s``
TELL_S = 0.2  # the most seconds that a shutdown or a reload waits for workers, of which one may hang


class WorkerSet:
    """Worker processes, as many as configured, from `start` on. ``handlers`` are what they may call of the supervisor.

    A change is made on all of them or on none: a lock keeps workers from joining during a change.
    """

    def __init__(self, config: ServeConfig, handlers: Mapping[str, IpcHandler]) -> None:
        self._config = config
        self._handlers = handlers
        self._members: dict[int, RemoteReplica] = {}
        self._starting: set[RemoteReplica] = set()  # processes that are no members yet
        self._monitors: list[asyncio.Task[None]] = []
        self._changing = asyncio.Lock()
        self._serving: tuple[VersionSource, ...] = ()
        self._ended_counts: Snapshot = {}  # of workers that have ended
        self._opened = False
        self._ending = False
        self._telling: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._members)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are up."""
        return [worker.pid for worker in self._members.values()]

    async def start(self) -> None:
        """Start the processes. ServerError where one cannot be set up."""
        started = await asyncio.gather(*(self._spawn(number) for number in range(1, self._config.workers + 1)))
        for worker in started:
            self._add(worker)
        self._monitors = [asyncio.ensure_future(self._monitor(worker)) for worker in started]

    async def open(self) -> None:
        """Have all workers listen, now that they have models. ServerError where one cannot."""
        async with self._changing:
            self._opened = True
            await self._call_each(RemoteReplica.open)

    # -- Replica ----------------------------------------------------------------------------------------------------

    async def prepare(self, source: VersionSource) -> None:
        """Prepare a version on every worker, or on none.

        One worker does so before the others: a model that kills the process that loads it then kills only one. Workers
        that hang are killed first, and do not make it fail.
        """
        async with self._changing:
            await self._call_each(RemoteReplica.require_answer)
            members = [worker for worker in self._members.values() if not worker.ended]
            if not members:
                raise ServerError("no worker is up to load it; one will be soon")
            try:
                await members[0].prepare(source)
                await self._call_each(lambda worker: worker.prepare(source), members[1:])
            except PeerGoneError as error:
                raise ServerError("the worker that was loading it died") from error
            except Exception:
                await self._call_each(lambda worker: worker.discard(source))
                raise

    async def switch(self, serving: Sequence[VersionSource]) -> None:
        """Serve exactly these on every worker; one that cannot is replaced."""
        async with self._changing:
            self._serving = tuple(serving)
            await self._call_each(self._sync_or_replace)

    async def discard(self, source: VersionSource) -> None:
        """Discard a prepared version on every worker."""
        async with self._changing:
            await self._call_each(lambda worker: worker.discard(source))

    async def snapshot(self) -> Snapshot:
        """Return the counts of all workers, those that have ended included as far as they were reported."""
        await asyncio.gather(*(worker.snapshot() for worker in self._members.values()))
        return merge([self._ended_counts, *(worker.counts for worker in self._members.values())])

    async def _sync_or_replace(self, worker: RemoteReplica) -> None:
        try:
            await self._sync(worker)
        except PeerGoneError:
            raise
        except (TorsoError, OSError) as error:
            logger.error("worker %d is replaced: %s", worker.number, error)
            worker.kill()

    async def _sync(self, worker: RemoteReplica) -> None:
        """Synchronise a worker with the versions that all serve.

        Raises TorsoError or OSError where it cannot load one, unless there is no other worker: then it serves the rest.
        """
        for source in self._serving:
            if source in worker.serving or source in worker.prepared:
                continue
            try:
                if stamp(source.directory) != source.stamp:
                    raise ServerError("its files are no longer those that were loaded before")
                await worker.prepare(source)
            except (TorsoError, OSError) as error:
                message = f"version {source.version} of model {source.name!r} cannot be loaded: {error}"
                if isinstance(error, PeerGoneError) or set(self._members.values()) - {worker}:
                    raise ServerError(message) from error
                logger.error("%s; no worker serves it any more", message)
        await worker.switch(self._serving)

    async def _call_each(
        self, call: Callable[[RemoteReplica], Awaitable[None]], workers: Sequence[RemoteReplica] | None = None
    ) -> None:
        """Call every worker concurrently, wait for all, and raise the first error that is no PeerGoneError."""
        targets = list(self._members.values()) if workers is None else workers
        for outcome in await asyncio.gather(*map(call, targets), return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, PeerGoneError):
                raise outcome

    # -- lifecycle --------------------------------------------------------------------------------------------------

    async def announce_shutdown(self) -> None:
        """Have all workers announce the shutdown, without waiting for one that hangs; none is replaced from now on."""
        self._stop_replacing()
        await self._tell_each(RemoteReplica.announce_shutdown)

    async def reload(self) -> None:
        """Reload all workers' tokens and certificates, without waiting for one that hangs.

        Raises TorsoError or OSError where one keeps its old ones.
        """
        await self._tell_each(RemoteReplica.reload)

    async def _tell_each(self, call: Callable[[RemoteReplica], Awaitable[None]]) -> None:
        """Call every worker as `_call_each` does, and leave those that do not answer soon to a task."""
        telling = asyncio.ensure_future(self._call_each(call))
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)
        done, _ = await asyncio.wait((telling,), timeout=TELL_S)
        for told in done:
            told.result()

    async def drain(self) -> None:
        """Have all workers refuse new requests, finish those in flight, and end."""
        self._stop_replacing()
        finish_s = self._config.finish_s
        try:
            async with asyncio.timeout(finish_s + END_S):
                await asyncio.gather(*(_drain_and_wait(worker, finish_s) for worker in self._members.values()))
        except TimeoutError:
            logger.error("workers that have not ended by now are killed")
        await self.stop()

    async def stop(self) -> None:
        """Kill all workers."""
        self._stop_replacing()
        for task in (*self._monitors, *self._telling):
            task.cancel()
        processes = (*self._members.values(), *self._starting)
        for worker in processes:
            worker.kill()
        await asyncio.gather(*(worker.wait_ended() for worker in processes))
        self._members.clear()

    def _stop_replacing(self) -> None:
        """Stop replacing workers, and kill those that are starting."""
        self._ending = True
        for worker in self._starting:
            worker.kill()

    async def _spawn(self, number: int) -> RemoteReplica:
        """Start a process and configure it."""
        worker = await RemoteReplica.spawn(number, self._handlers)
        self._starting.add(worker)
        if self._ending:
            worker.kill()
        try:
            await worker.configure(self._config)
        except Exception as error:
            await self._terminate(worker)
            if not isinstance(error, PeerGoneError):
                raise
            raise ServerError(f"worker {number} ended before it was ready: {await worker.wait_ended()}") from error
        return worker

    async def _terminate(self, worker: RemoteReplica) -> None:
        """Kill a worker that has not been added."""
        worker.kill()
        await worker.wait_ended()
        self._starting.discard(worker)

    async def _monitor(self, worker: RemoteReplica) -> None:
        """Monitor the worker of one number, and replace it whenever it ends."""
        clock = asyncio.get_running_loop().time
        failures = 0
        while True:
            started_s = clock()
            exit_text = await worker.wait_ended()
            self._remove(worker)
            if self._ending:
                return
            failures = 0 if clock() - started_s > STABLE_S else failures + 1
            logger.error(
                "worker %d (process %d) ended: %s; another takes its place", worker.number, worker.pid, exit_text
            )
            while True:
                if failures:
                    await asyncio.sleep(min(FIRST_DELAY_S * 2 ** (failures - 1), LAST_DELAY_S))
                if self._ending:
                    return
                try:
                    worker = await self._spawn_synced(worker.number)
                    break
                except (TorsoError, OSError) as error:
                    if self._ending:
                        return
                    failures += 1
                    logger.error("no worker takes the place of worker %d yet: %s", worker.number, error)

    async def _spawn_synced(self, number: int) -> RemoteReplica:
        """Start a worker, synchronise it with the others and add it."""
        worker = await self._spawn(number)
        try:
            async with self._changing:
                await self._sync(worker)
                if self._opened:
                    await worker.open()
                self._add(worker)
        except Exception:
            await self._terminate(worker)
            raise
        logger.info("worker %d (process %d) is up", number, worker.pid)
        return worker

    def _add(self, worker: RemoteReplica) -> None:
        self._members[worker.number] = worker
        self._starting.discard(worker)

    def _remove(self, worker: RemoteReplica) -> None:
        """Remove a worker that has ended; keep its counts of the versions that are still reported."""
        self._members.pop(worker.number, None)
        self._ended_counts = merge([self._ended_counts, without_gauges(worker.counts)])
        reported = {key for other in self._members.values() for key in other.counts}
        reported |= {NO_MODEL, *((source.name, source.version) for source in self._serving)}
        self._ended_counts = {key: counts for key, counts in self._ended_counts.items() if key in reported}


async def _drain_and_wait(worker: RemoteReplica, finish_s: float) -> None:
    await worker.drain(finish_s)
    await worker.wait_ended()
