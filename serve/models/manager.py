"""What decides which models serve: it looks at the repository, and brings the replica to what lies there.

A change of one model is prepared as a whole before it is switched to. Where a part cannot be loaded, what served before
goes on; the index and the log say why. The replica is this process' `Repository`, or all workers as one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from torso.errors import ServerError, UnavailableError, UnknownModelError, WrongKindError
from torso.serve.config import ServeConfig
from torso.serve.models.catalogue import TAKEN, Catalogue, Listing, Policy
from torso.serve.models.control import ModelState, Replica, VersionSource, VersionState
from torso.serve.models.version_policy import Chooser, NotLoadedError, Versions
from torso.serve.observability.metrics import Snapshot

logger = logging.getLogger(__name__)


class Manager:
    """The `Control` over a replica. All methods belong to the event loop.

    `start` loads what is to serve at first; then the repository is followed as ``model_control`` says.
    """

    def __init__(self, config: ServeConfig, catalogue: Catalogue, replica: Replica) -> None:
        self._config = config
        self._catalogue = catalogue
        self._replica = replica
        self._chooser = Chooser(replica)
        self._given: Mapping[str, Sequence[VersionSource]] = {}
        self._listing = Listing()
        self._told: set[tuple[str, str]] = set()  # what the log has of folders that are passed over
        self._serving: dict[str, Versions] = {}
        self._started = False
        self._lock = asyncio.Lock()  # one change at a time
        self._tasks: set[asyncio.Task[None]] = set()

    # -- life ---------------------------------------------------------------------------------------------------------

    @property
    def serving(self) -> Sequence[VersionSource]:
        """What serves now, by name and then oldest first."""
        return [source for _, versions in sorted(self._serving.items()) for source in versions.values()]

    async def start(self) -> None:
        """Load what is to serve and switch all of it on at once; with poll, begin to look.

        Raises ServerError for a model that is missing or damaged; with ``skip_broken``, only where none is left.
        """
        async with self._lock:
            await self._scan()
            for name, path in self._catalogue.given.items():
                if self._listing.ignored.get(name) == TAKEN:
                    raise ServerError(f"two models are named {name!r}: {path} and one of {self._catalogue.folder}")
            names = self._first_names()
            for name in names:
                self._serve(name, await self._first(name))
            if not self._serving and (names or self._config.model_control == "none"):
                raise ServerError(self._nothing(len(names)))
            await self._replica.switch(self.serving)
            self._started = True
        if self._config.model_control == "poll":
            self._begin(self._poll())

    def _first_names(self) -> Sequence[str]:
        if self._config.model_control == "explicit":
            return list(dict.fromkeys((*self._given, *self._config.load_models)))
        return [*self._given, *sorted({*self._listing.models, *self._listing.unreadable})]

    async def _first(self, name: str) -> Versions:
        """What is to serve of a model at the start."""
        try:
            there = self._versions(name)
            if not self._config.skip_broken:
                return await self._chooser.insist(there, self._policy(name))
            versions = await self._chooser.settle(there, self._policy(name), {}, unpublished=True)
        except (UnknownModelError, NotLoadedError) as error:
            if not self._config.skip_broken:
                raise ServerError(str(error)) from error
            logger.error("%s; it is skipped", error)
            return {}
        if not versions:
            logger.error("model %r is skipped: no version of it can be served", name)
        return versions

    def _nothing(self, num_names: int) -> str:
        if num_names:
            return f"none of the {num_names} models could be loaded"
        passed_over = "; ".join(f"{path}: {why}" for path, why in list(self._listing.ignored.items())[:3])
        folder = self._catalogue.folder
        return f"no model in the repository {folder}: expected folders MODEL/VERSION, got {passed_over or 'none'}"

    async def close(self) -> None:
        """Look no more; a change under way is given up. The replica is not closed."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- control ------------------------------------------------------------------------------------------------------

    async def index(self) -> Sequence[VersionState]:
        """Every model that there is, loaded or not, sorted by name and version."""
        if self._config.model_control == "explicit" and self._started:
            try:
                await self._scan()
            except ServerError as error:
                logger.warning("%s; the index is of an earlier look", error)
        there = {(source.name, source.version): source for source in self._there()}
        keys = {*there, *((source.name, source.version) for source in (*self.serving, *self._chooser.loading))}
        ordered = sorted(keys, key=lambda key: (key[0], int(key[1])))
        return [self._line(name, version, there.get((name, version))) for name, version in ordered]

    def _line(self, name: str, version: str, source: VersionSource | None) -> VersionState:
        fault = self._chooser.faults.get((name, version))
        why = fault.reason if fault else self._listing.unreadable.get(name, "")
        if not why and source is None:
            why = "its files are gone"
        if not why and source is not None and not source.stamp:
            why = "it has no model.json"
        state: ModelState = "UNAVAILABLE"
        if self._started and version in self._serving.get(name, {}):
            state = "READY"
        elif not self._started or any((name, version) == (one.name, one.version) for one in self._chooser.loading):
            state = "UNAVAILABLE" if fault else "LOADING"
        elif not why:
            why = "the version policy leaves it out" if name in self._serving else "it is not loaded"
        return VersionState(name=name, version=version, state=state, reason=why)

    async def load(self, name: str) -> None:
        """Load a model, or load it anew; it serves when this returns. Raises as `Control.load`."""
        await self._on_demand(self._load, name)

    async def unload(self, name: str) -> None:
        """Serve a model no more, from when this returns. Raises as `Control.unload`."""
        await self._on_demand(self._unload, name)

    async def snapshot(self) -> Snapshot:
        """The replica's counts."""
        return await self._replica.snapshot()

    async def _on_demand(self, change: Callable[[str], Coroutine[Any, Any, None]], name: str) -> None:
        """Make a change as a whole, even where its caller goes away meanwhile."""
        control = self._config.model_control
        if control != "explicit":
            raise WrongKindError(f"models change on demand where model_control is explicit; this server's is {control}")
        await asyncio.shield(self._begin(change(name)))

    async def _load(self, name: str) -> None:
        async with self._lock:
            await self._scan_on_demand()
            try:
                versions = await self._chooser.insist(self._versions(name), self._policy(name))
            except NotLoadedError as error:
                error.log("what served before still does")
                raise WrongKindError(
                    f"model {name!r} cannot be loaded, what served before still does: {error.reason}"
                ) from error
            self._serve(name, versions)
            await self._replica.switch(self.serving)

    async def _unload(self, name: str) -> None:
        async with self._lock:
            await self._scan_on_demand()
            if name not in self._serving and name not in self._listing.unreadable:
                self._versions(name)
            self._serve(name, {})
            await self._replica.switch(self.serving)

    async def _scan_on_demand(self) -> None:
        try:
            await self._scan()
        except ServerError as error:
            logger.error("%s", error)
            raise UnavailableError("the repository cannot be listed") from error

    # -- following the repository -------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Look at the repository and follow it; with poll this happens every ``poll_s``. ServerError as of `scan`."""
        async with self._lock:
            await self._scan()
        for name in sorted({*self._listing.models, *self._serving}):
            if name in self._given or name in self._listing.unreadable:
                continue
            async with self._lock:
                there, serving = self._listing.models.get(name), self._serving.get(name, {})
                versions = {} if there is None else await self._chooser.settle(there, self._policy(name), serving)
                if versions != serving:
                    self._serve(name, versions)
                    await self._replica.switch(self.serving)

    async def _poll(self) -> None:
        last = ""
        while True:
            await asyncio.sleep(self._config.poll_s)
            try:
                await self.look()
                last = ""
            except Exception as error:
                if str(error) != last:
                    ours = not isinstance(error, ServerError)
                    logger.error("the repository is not followed: %s", error, exc_info=ours)
                last = str(error)

    async def _scan(self) -> None:
        given = await asyncio.to_thread(self._catalogue.given_sources)
        self._listing = await asyncio.to_thread(self._catalogue.scan)
        self._given = {source.name: (source,) for source in given}
        self._chooser.forget(set(self._there()))
        told = {*self._listing.ignored.items(), *self._listing.unreadable.items()}
        for path, why in sorted(told - self._told):
            logger.info("repository %s: %s is passed over: %s", self._catalogue.folder, path, why)
        self._told = told

    def _there(self) -> Sequence[VersionSource]:
        """All versions that lie there."""
        known = {**self._listing.models, **self._given}
        return [source for versions in known.values() for source in versions]

    def _versions(self, name: str) -> Sequence[VersionSource]:
        """A model's versions that lie there. UnknownModelError, or NotLoadedError where that cannot be known."""
        if name in self._listing.unreadable:
            raise NotLoadedError(name, None, ServerError(self._listing.unreadable[name]))
        versions = self._given.get(name) or self._listing.models.get(name)
        if versions is None:
            raise UnknownModelError(f"unknown model {name[:128]!r}: the repository has none of that name")
        return versions

    def _policy(self, name: str) -> Policy:
        return Policy() if name in self._given else self._catalogue.policy

    def _serve(self, name: str, versions: Versions) -> None:
        """Note what serves from now on."""
        before = self._serving.pop(name, {})
        if versions:
            self._serving[name] = versions
        if before and list(before) != list(versions):
            now = f"version {' and '.join(versions)} serves" if versions else "it serves no more"
            logger.info("model %r: %s; before, version %s did", name, now, " and ".join(before))

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
