"""The workers of a supervisor: together they are one `Replica`, and one that dies is replaced."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from torso.errors import ServerError, TorsoError
from torso.serve.config import ServeConfig
from torso.serve.models.catalogue import stamp
from torso.serve.models.control import VersionSource
from torso.serve.observability.metrics import NO_MODEL, Snapshot, merge, remains
from torso.serve.workers.ipc import IpcHandler, PeerGoneError
from torso.serve.workers.remote_worker import RemoteReplica

logger = logging.getLogger(__name__)

STABLE_S = 10.0  # a worker that lived this long is replaced at once
FIRST_DELAY_S, LAST_DELAY_S = 0.5, 30.0  # others wait longer and longer, or a fault of theirs would keep us busy
END_S = 5.0  # what workers may take to end beyond ``finish_s``


class Workers:
    """So many worker processes, from `start` on. ``handlers`` are what they may ask of the supervisor.

    A change is under way on all of them or on none: joining and changing wait for each other.
    """

    def __init__(self, config: ServeConfig, handlers: Mapping[str, IpcHandler]) -> None:
        self._config = config
        self._handlers = handlers
        self._members: dict[int, RemoteReplica] = {}
        self._starting: set[RemoteReplica] = set()  # processes that are no members yet
        self._keepers: list[asyncio.Task[None]] = []
        self._changing = asyncio.Lock()
        self._serving: tuple[VersionSource, ...] = ()
        self._buried: Snapshot = {}  # what workers that ended had counted
        self._opened = False
        self._ending = False

    def __len__(self) -> int:
        return len(self._members)

    @property
    def pids(self) -> list[int]:
        """The process numbers of those that are up."""
        return [worker.pid for worker in self._members.values()]

    async def start(self) -> None:
        """Start the processes. ServerError where one cannot be set up."""
        started = await asyncio.gather(*(self._begun(number) for number in range(1, self._config.workers + 1)))
        for worker in started:
            self._admit(worker)
        self._keepers = [asyncio.ensure_future(self._keep(worker)) for worker in started]

    async def open(self) -> None:
        """Have all listen, now that they have models. ServerError where none can."""
        async with self._changing:
            self._opened = True
            await self._each(RemoteReplica.open)

    # -- Replica ----------------------------------------------------------------------------------------------------

    async def prepare(self, source: VersionSource) -> None:
        """Load a version on every worker, or on none.

        One does so before the others: what kills a process that loads it kills but one.
        """
        async with self._changing:
            members = list(self._members.values())
            if not members:
                raise ServerError("no worker is up to load it; one will be soon")
            try:
                await members[0].prepare(source)
                await self._each(lambda worker: worker.prepare(source), members[1:])
            except PeerGoneError as error:
                raise ServerError("the worker that was loading it died") from error
            except Exception:
                await self._each(lambda worker: worker.discard(source))
                raise

    async def switch(self, serving: Sequence[VersionSource]) -> None:
        """Serve exactly these on every worker; one that cannot is replaced."""
        async with self._changing:
            self._serving = tuple(serving)
            await self._each(self._bring_or_replace)

    async def discard(self, source: VersionSource) -> None:
        """Drop what was prepared, on every worker."""
        async with self._changing:
            await self._each(lambda worker: worker.discard(source))

    async def snapshot(self) -> Snapshot:
        """The counts of all, those that have ended included as far as they were heard of."""
        await asyncio.gather(*(worker.snapshot() for worker in self._members.values()))
        return merge([self._buried, *(worker.counts for worker in self._members.values())])

    async def _bring_or_replace(self, worker: RemoteReplica) -> None:
        try:
            await self._bring(worker)
        except PeerGoneError:
            raise
        except (TorsoError, OSError) as error:
            logger.error("worker %d is replaced: %s", worker.number, error)
            worker.kill()

    async def _bring(self, worker: RemoteReplica) -> None:
        """Have a worker serve what all do.

        Raises TorsoError or OSError where it cannot, unless there is no other worker: then it serves the rest.
        """
        for source in self._serving:
            if source in worker.serving or source in worker.prepared:
                continue
            try:
                if stamp(source.directory) != source.stamp:
                    raise ServerError("its files are no longer those that were loaded before")
                await worker.prepare(source)
            except (TorsoError, OSError) as error:
                told = f"version {source.version} of model {source.name!r} cannot be loaded: {error}"
                if isinstance(error, PeerGoneError) or set(self._members.values()) - {worker}:
                    raise ServerError(told) from error
                logger.error("%s; nobody serves it any more", told)
        await worker.switch(self._serving)

    async def _each(
        self, ask: Callable[[RemoteReplica], Awaitable[None]], workers: Sequence[RemoteReplica] | None = None
    ) -> None:
        """Ask every worker at once, wait for all, and raise the first error, but for those of workers that end."""
        asked = list(self._members.values()) if workers is None else workers
        for outcome in await asyncio.gather(*map(ask, asked), return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, PeerGoneError):
                raise outcome

    # -- their lives ------------------------------------------------------------------------------------------------

    async def leave(self) -> None:
        """Have all say that they are about to end; none is replaced from now on."""
        self._end()
        await self._each(RemoteReplica.leave)

    async def reload(self) -> None:
        """Have all read tokens and certificates again. Raises TorsoError or OSError where one keeps those it had."""
        await self._each(RemoteReplica.reload)

    async def drain(self) -> None:
        """Have all refuse new requests, finish those in flight, and end."""
        self._end()
        try:
            async with asyncio.timeout(self._config.finish_s + END_S):
                await asyncio.gather(*(_to_its_end(worker) for worker in self._members.values()))
        except TimeoutError:
            logger.error("workers that have not ended by now are killed")
        await self.stop()

    async def stop(self) -> None:
        """End all at once."""
        self._end()
        for keeper in self._keepers:
            keeper.cancel()
        everyone = (*self._members.values(), *self._starting)
        for worker in everyone:
            worker.kill()
        await asyncio.gather(*(worker.ended() for worker in everyone))
        self._members.clear()

    def _end(self) -> None:
        """Replace none from now on."""
        self._ending = True
        for worker in self._starting:
            worker.kill()

    async def _begun(self, number: int) -> RemoteReplica:
        """Start a process and have it set itself up."""
        worker = await RemoteReplica.spawn(number, self._handlers)
        self._starting.add(worker)
        if self._ending:
            worker.kill()
        try:
            await worker.begin(self._config)
        except Exception as error:
            await self._give_up(worker)
            if not isinstance(error, PeerGoneError):
                raise
            raise ServerError(f"worker {number} ended before it was ready: {await worker.ended()}") from error
        return worker

    async def _give_up(self, worker: RemoteReplica) -> None:
        """End a worker that has not become one of us."""
        worker.kill()
        await worker.ended()
        self._starting.discard(worker)

    async def _keep(self, worker: RemoteReplica) -> None:
        """See to it that there is a worker of this number, for good."""
        clock = asyncio.get_running_loop().time
        failures = 0
        while True:
            began_s = clock()
            how = await worker.ended()
            self._bury(worker)
            if self._ending:
                return
            failures = 0 if clock() - began_s > STABLE_S else failures + 1
            logger.error("worker %d (process %d) ended: %s; another takes its place", worker.number, worker.pid, how)
            while True:
                if failures:
                    await asyncio.sleep(min(FIRST_DELAY_S * 2 ** (failures - 1), LAST_DELAY_S))
                if self._ending:
                    return
                try:
                    worker = await self._joined(worker.number)
                    break
                except (TorsoError, OSError) as error:
                    if self._ending:
                        return
                    failures += 1
                    logger.error("no worker takes the place of worker %d yet: %s", worker.number, error)

    async def _joined(self, number: int) -> RemoteReplica:
        """Start a worker that serves what the others do."""
        worker = await self._begun(number)
        try:
            async with self._changing:
                await self._bring(worker)
                if self._opened:
                    await worker.open()
                self._admit(worker)
        except Exception:
            await self._give_up(worker)
            raise
        logger.info("worker %d (process %d) is up", number, worker.pid)
        return worker

    def _admit(self, worker: RemoteReplica) -> None:
        self._members[worker.number] = worker
        self._starting.discard(worker)

    def _bury(self, worker: RemoteReplica) -> None:
        """Take a worker that has ended off the list; what it counted stays, for the versions that are still told of."""
        self._members.pop(worker.number, None)
        self._buried = merge([self._buried, remains(worker.counts)])
        told = {key for other in self._members.values() for key in other.counts}
        told |= {NO_MODEL, *((source.name, source.version) for source in self._serving)}
        self._buried = {key: counts for key, counts in self._buried.items() if key in told}


async def _to_its_end(worker: RemoteReplica) -> None:
    await worker.drain()
    await worker.ended()
