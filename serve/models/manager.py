"""Model manager: scan the repository and reconcile the replica with it.

A change of one model is prepared as a whole before it is switched to. Where a part cannot be loaded, the versions that
served before go on; index and log have the reason. The replica is this process' `Repository`, or all workers as one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

from torso.errors import ServerError, UnavailableError, UnknownModelError, WrongKindError
from torso.serve.config import ServeConfig
from torso.serve.models.catalogue import TAKEN, Catalogue, Listing, SelectionPolicy
from torso.serve.models.control import (
    GONE,
    NO_CARD,
    NOT_LOADED,
    NOT_SELECTED,
    ModelState,
    Replica,
    VersionSource,
    VersionState,
)
from torso.serve.models.version_policy import NotLoadedError, Versions, VersionSelector
from torso.serve.observability.metrics import Snapshot
from torso.serve.worker_threads import run_in_daemon

logger = logging.getLogger(__name__)

SCAN_S = 30.0  # the most seconds that a scan of the repository may take
CANCEL_S = 0.2  # the most seconds that cancelled tasks may take to end


class Manager:
    """Implementation of `Control` over a replica. All methods belong to the event loop.

    `start` loads the initial models; then the replica follows the repository as ``model_control`` says.
    """

    def __init__(self, config: ServeConfig, catalogue: Catalogue, replica: Replica) -> None:
        self._config = config
        self._catalogue = catalogue
        self._replica = replica
        self._selector = VersionSelector(replica)
        self._direct: Mapping[str, Sequence[VersionSource]] = {}
        self._listing = Listing()
        self._logged: set[tuple[str, str]] = set()  # ignored paths and reasons that are in the log
        self._serving: dict[str, Versions] = {}
        self._started = False
        self._start_ended = asyncio.Event()
        self._changing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # a model's one change at a time
        self._switching = asyncio.Lock()
        self._scanning = asyncio.Lock()
        self._scan_result: asyncio.Future[tuple[Sequence[VersionSource], Listing]] | None = None
        self._following: set[str] = set()  # models that are being compared with the repository
        self._tasks: set[asyncio.Task[None]] = set()

    # -- lifecycle ----------------------------------------------------------------------------------------------------

    @property
    def serving(self) -> Sequence[VersionSource]:
        """Versions that serve now, by name and then oldest first."""
        return [source for _, versions in sorted(self._serving.items()) for source in versions.values()]

    async def start(self) -> None:
        """Load the initial models and switch to all of them at once; with poll, start polling.

        Raises ServerError for a model that is missing or damaged; with ``skip_broken``, only where none is left.
        """
        await self._scan()
        for name, path in self._catalogue.direct.items():
            if self._listing.ignored.get(name) == TAKEN:
                raise ServerError(f"two models are named {name!r}: {path} and one of {self._catalogue.folder}")
        names = self._initial_names()
        for name in names:
            self._set_serving(name, await self._initial_versions(name))
        if not self._serving and (names or self._config.model_control == "none"):
            raise ServerError(self._no_models_text(len(names)))
        await self._replica.switch(self.serving)
        self._started = True
        self._start_ended.set()
        if self._config.model_control == "poll":
            self._start_task(self._poll())

    def _initial_names(self) -> Sequence[str]:
        if self._config.model_control == "explicit":
            return list(dict.fromkeys((*self._direct, *self._config.load_models)))
        return [*self._direct, *sorted({*self._listing.models, *self._listing.unreadable})]

    async def _initial_versions(self, name: str) -> Versions:
        """Prepare the versions of a model that serve at the start."""
        try:
            available = self._versions(name)
            if not self._config.skip_broken:
                return await self._selector.prepare_all(available, self._policy(name))
            versions = await self._selector.prepare_loadable(available, self._policy(name), {}, unpublished=True)
        except (UnknownModelError, NotLoadedError) as error:
            if not self._config.skip_broken:
                raise ServerError(str(error)) from error
            logger.error("%s; it is skipped", error)
            return {}
        if not versions:
            logger.error("model %r is skipped: no version of it can be served", name)
        return versions

    def _no_models_text(self, num_names: int) -> str:
        if num_names:
            return f"none of the {num_names} models could be loaded"
        ignored = "; ".join(f"{path}: {reason}" for path, reason in list(self._listing.ignored.items())[:3])
        folder = self._catalogue.folder
        return f"repository {folder} must hold folders MODEL/VERSION, got {ignored or 'none'}"

    async def close(self) -> None:
        """Stop polling and cancel a change in progress, as far as it can be. The replica is not closed."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CANCEL_S)

    # -- control ------------------------------------------------------------------------------------------------------

    async def index(self) -> Sequence[VersionState]:
        """List every model of the repository, loaded or not, sorted by name and version."""
        if self._config.model_control == "explicit" and self._started:
            try:
                await self._scan()
            except ServerError as error:
                logger.warning("%s; the index is of an earlier scan", error)
        available = {(source.name, source.version): source for source in self._available()}
        keys = {*available, *((source.name, source.version) for source in (*self.serving, *self._selector.loading))}
        ordered = sorted(keys, key=lambda key: (key[0], int(key[1])))
        return [self._version_state(name, version, available.get((name, version))) for name, version in ordered]

    def _version_state(self, name: str, version: str, source: VersionSource | None) -> VersionState:
        fault = self._selector.faults.get((name, version))
        reason = fault.reason if fault else self._listing.unreadable.get(name, "")
        if not reason and source is None:
            reason = GONE
        if not reason and source is not None and not source.stamp:
            reason = NO_CARD
        state: ModelState = "UNAVAILABLE"
        if self._started and version in self._serving.get(name, {}):
            state = "READY"
        elif not self._started or any((name, version) == (one.name, one.version) for one in self._selector.loading):
            state = "UNAVAILABLE" if fault else "LOADING"
        elif not reason:
            reason = NOT_SELECTED if name in self._serving else NOT_LOADED
        return VersionState(name=name, version=version, state=state, reason=reason)

    async def load(self, name: str) -> None:
        """Load a model, or load it anew; it serves when this returns. Raises as `Control.load`."""
        await self._on_demand(self._load, name)

    async def unload(self, name: str) -> None:
        """Unload a model; it no longer serves when this returns. Raises as `Control.unload`."""
        await self._on_demand(self._unload, name)

    async def snapshot(self) -> Snapshot:
        """Return the replica's counts."""
        return await self._replica.snapshot()

    async def _on_demand(self, change: Callable[[str], Coroutine[Any, Any, None]], name: str) -> None:
        """Run a change to its end, even where its caller is cancelled meanwhile."""
        control = self._config.model_control
        if control != "explicit":
            raise WrongKindError(f"model_control must be explicit for models to change on demand, got {control}")
        changing = self._start_task(change(name))
        changing.add_done_callback(lambda task: task.cancelled() or task.exception())  # its caller may have left
        await asyncio.shield(changing)

    async def _load(self, name: str) -> None:
        async with self._change(name):
            await self._scan_on_demand()
            try:
                versions = await self._selector.prepare_all(self._versions(name), self._policy(name))
            except NotLoadedError as error:
                error.log("the versions that served before still do")
                raise WrongKindError(
                    f"model {name!r} cannot be loaded, the versions that served before still do: {error.reason}"
                ) from error
            await self._switch(name, versions)

    async def _unload(self, name: str) -> None:
        async with self._change(name):
            await self._scan_on_demand()
            if name not in self._serving and name not in self._listing.unreadable:
                self._versions(name)
            await self._switch(name, {})

    @contextlib.asynccontextmanager
    async def _change(self, name: str) -> AsyncIterator[None]:
        """Change one model, once the start has ended and after other changes of it. Other models change beside it."""
        await self._start_ended.wait()
        async with self._changing.setdefault(name, asyncio.Lock()):
            yield

    async def _switch(self, name: str, versions: Versions) -> None:
        """Have the replica serve these versions of a model from now on."""
        async with self._switching:
            self._set_serving(name, versions)
            await self._replica.switch(self.serving)

    async def _scan_on_demand(self) -> None:
        try:
            await self._scan()
        except ServerError as error:
            logger.error("%s", error)
            raise UnavailableError("the repository cannot be listed") from error

    # -- reconciling with the repository ------------------------------------------------------------------------------

    async def reconcile(self) -> None:
        """Scan the repository and follow its changes; with poll this happens every ``poll_s``.

        Raises ServerError as `Catalogue.scan`.
        """
        await asyncio.gather(*await self._begin_following())

    async def _begin_following(self) -> list[asyncio.Task[None]]:
        """Scan the repository, and begin to follow each model's changes, but for those that are still loading."""
        await self._scan()
        names = sorted({*self._listing.models, *self._serving} - set(self._direct) - set(self._listing.unreadable))
        return [self._start_task(self._follow(name)) for name in names if name not in self._following]

    async def _follow(self, name: str) -> None:
        self._following.add(name)
        try:
            async with self._change(name):
                available, serving = self._listing.models.get(name), self._serving.get(name, {})
                versions = (
                    {}
                    if available is None
                    else await self._selector.prepare_loadable(available, self._policy(name), serving)
                )
                if versions != serving:
                    await self._switch(name, versions)
        finally:
            self._following.discard(name)

    async def _poll(self) -> None:
        last = ""
        while True:
            await asyncio.sleep(self._config.poll_s)
            try:
                following = await self._begin_following()
                if following:  # models that take longer are followed beside the others
                    done, _ = await asyncio.wait(following, timeout=self._config.poll_s)
                    for task in done:
                        task.result()
                last = ""
            except Exception as error:
                if str(error) != last:
                    unexpected = not isinstance(error, ServerError)
                    logger.error("the repository is not followed: %s", error, exc_info=unexpected)
                last = str(error)

    async def _scan(self) -> None:
        async with self._scanning:
            direct, self._listing = await self._list()
        self._direct = {source.name: (source,) for source in direct}
        self._selector.forget(set(self._available()))
        ignored = {*self._listing.ignored.items(), *self._listing.unreadable.items()}
        for path, reason in sorted(ignored - self._logged):
            logger.info("repository %s: %s is ignored: %s", self._catalogue.folder, path, reason)
        self._logged = ignored

    async def _list(self) -> tuple[Sequence[VersionSource], Listing]:
        """List the models on disk, in a thread: a file system may hang. ServerError where that takes too long."""
        where = f"repository {self._catalogue.folder} cannot be listed"
        if self._scan_result is not None and not self._scan_result.done():
            raise ServerError(f"{where}: an earlier scan of it has not ended")
        catalogue = self._catalogue
        self._scan_result = run_in_daemon("scan", lambda: (catalogue.direct_sources(), catalogue.scan()))
        await asyncio.wait((self._scan_result,), timeout=SCAN_S)
        if not self._scan_result.done():
            raise ServerError(f"{where}: it does not answer within {SCAN_S:g} s")
        return self._scan_result.result()

    def _available(self) -> Sequence[VersionSource]:
        """List all versions on disk."""
        known = {**self._listing.models, **self._direct}
        return [source for versions in known.values() for source in versions]

    def _versions(self, name: str) -> Sequence[VersionSource]:
        """List a model's versions on disk. UnknownModelError, or NotLoadedError where its folder is unreadable."""
        if name in self._listing.unreadable:
            raise NotLoadedError(name, None, ServerError(self._listing.unreadable[name]))
        versions = self._direct.get(name) or self._listing.models.get(name)
        if versions is None:
            raise UnknownModelError(f"unknown model {name[:128]!r}: the repository has none of that name")
        return versions

    def _policy(self, name: str) -> SelectionPolicy:
        return SelectionPolicy() if name in self._direct else self._catalogue.policy

    def _set_serving(self, name: str, versions: Versions) -> None:
        """Record the versions of a model that serve from now on."""
        before = self._serving.pop(name, {})
        if versions:
            self._serving[name] = versions
        if before and list(before) != list(versions):
            now = f"version {' and '.join(versions)} serves" if versions else "it no longer serves"
            logger.info("model %r: %s; before, version %s did", name, now, " and ".join(before))

    def _start_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
