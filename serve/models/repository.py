"""Repository of the models that this process has loaded, with hot swap.

A change is prepared in the background and then switched to at once, on the event loop, to which all of this belongs. A
request keeps the `ServedModel` it began with; a model that no longer serves is closed once nothing refers to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from torso.errors import ServerError, UnavailableError, UnknownModelError
from torso.serve.backends.selection import WrapBackend
from torso.serve.config import ServeConfig
from torso.serve.inference.batcher import Batcher
from torso.serve.models.begin_serving import load_served_model
from torso.serve.models.catalogue import parse_models
from torso.serve.models.control import VersionSource
from torso.serve.models.served_model import METHODS, ServedModel
from torso.serve.observability.metrics import Metrics, ModelKey, Snapshot
from torso.serve.worker_threads import run_in_daemon

__all__ = ["METHODS", "Repository", "ServedModel", "WrapBackend", "parse_models"]

logger = logging.getLogger(__name__)

SHOWN_NAMES = 10
LOADING_RETRY_S = 1.0
TURN_S = 5.0  # after which a load no longer holds up the next one

OnChange = Callable[[Mapping[str, bool]], None]


class Repository:
    """Loaded models of this process: a `Replica`, and the lookup of a request's model.

    ``wrap_backend(name, backend)`` may wrap a model's backend, for example in a tracer. ``on_change`` is called on the
    event loop with `states` whenever these change.
    """

    def __init__(
        self,
        config: ServeConfig,
        metrics: Metrics,
        wrap_backend: WrapBackend | None = None,
        on_change: OnChange | None = None,
    ) -> None:
        self.on_change = on_change
        self._config = config
        self._metrics = metrics
        self._wrap_backend = wrap_backend
        self._served: dict[str, dict[str, ServedModel]] = {}  # by name and version, oldest first
        self._newest: dict[str, ServedModel] = {}  # by name
        self._prepared: dict[ModelKey, ServedModel] = {}
        self._prepared_sources: dict[ModelKey, VersionSource] = {}
        self._loading: Counter[ModelKey] = Counter()  # that are being prepared
        self._abandoned: set[ModelKey] = set()  # whose loads took too long, and have not ended
        self._turn = asyncio.Semaphore()
        self._missing: set[ModelKey] = set()  # versions that should serve and are not loaded here
        self._states = dict.fromkeys(parse_models(config.models), False)
        self._switched = False  # whether `switch` was called
        self._closed = False
        self._retired: set[Batcher] = set()
        self._closing: set[asyncio.Task[None]] = set()

    # -- lookup -------------------------------------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the known models, loaded or not."""
        return tuple(self._states)

    @property
    def models(self) -> Mapping[str, ServedModel]:
        """Newest served version of every model, by name, sorted."""
        return dict(sorted(self._newest.items()))

    @property
    def served(self) -> Sequence[ServedModel]:
        """All served versions of all models, by name and then oldest first."""
        return [model for _, versions in sorted(self._served.items()) for model in versions.values()]

    @property
    def states(self) -> Mapping[str, bool]:
        """State of each known model, true where it is served; one that was unloaded is still known."""
        return dict(self._states)

    def get(self, name: str, version: str = "") -> ServedModel:
        """Return a model: the newest version unless ``version`` names another.

        UnknownModelError where there is none, UnavailableError while it is loading.
        """
        if not version and (model := self._newest.get(name)) is not None:
            return model
        versions = self._served.get(name)
        if versions is not None and version in versions:
            return versions[version]
        raise self._lookup_error(name, version, versions or {})

    def _lookup_error(
        self, name: str, version: str, versions: Mapping[str, ServedModel]
    ) -> UnavailableError | UnknownModelError:
        shown = name[:128]
        if any(key[0] == name and version in ("", key[1]) for key in self._missing):
            return UnavailableError(f"model {shown!r} could not be loaded here", retry_after_s=LOADING_RETRY_S)
        if not versions and (not self._switched or any(key[0] == name for key in (*+self._loading, *self._prepared))):
            return UnavailableError(f"model {shown!r} is loading", retry_after_s=LOADING_RETRY_S)
        if not versions:
            return UnknownModelError(f"unknown model {shown!r}: {_served_text(self._newest)}")
        has = " and ".join(repr(known) for known in versions)
        return UnknownModelError(f"unknown version {version[:128]!r} of model {shown!r}: it has {has}")

    # -- changes ------------------------------------------------------------------------------------------------------

    async def prepare(self, source: VersionSource) -> None:
        """Load and warm up a version in the background. Raises TorsoError or OSError; nothing has changed then."""
        key = (source.name, source.version)
        if self._closed:
            raise ServerError("the server is shutting down")
        if key in self._abandoned:
            raise ServerError("an earlier load of it has not ended; restart the server if it never does")
        self._loading[key] += 1
        if source.name not in self._states:
            self._states[source.name] = False
            self._notify()
        try:
            model = await self._load(key, source)
        finally:
            self._loading[key] -= 1
        await self.discard(source)
        if self._closed:
            model.batcher.close()
            raise ServerError("the server is shutting down")
        self._prepared[key], self._prepared_sources[key] = model, source

    async def _load(self, key: ModelKey, source: VersionSource) -> ServedModel:
        """Load a version in a thread of its own. ServerError where that takes too long; the thread is left behind then.

        Loads take turns, since each measures its model's latency, but one that takes long holds up no other.
        """
        counts = self._metrics.model(*key)
        limit_s = self._config.load_s
        async with self._turn:
            loading = run_in_daemon(
                f"load-{source.name}",
                *(load_served_model, *key, source.directory, self._config, counts, self._wrap_backend),
            )
            try:
                await asyncio.wait((loading,), timeout=min(TURN_S, limit_s))
            except asyncio.CancelledError:
                self._abandon(key, loading)
                raise
        try:
            await asyncio.wait((loading,), timeout=max(limit_s - TURN_S, 0))
        finally:
            if not loading.done():
                self._abandon(key, loading)
        if not loading.done():
            raise ServerError(f"it was not loaded within {limit_s:g} s; see load_s")
        return loading.result()

    def _abandon(self, key: ModelKey, loading: asyncio.Future[ServedModel]) -> None:
        """Leave a load behind, whose thread cannot be stopped, and close its model should it ever end."""
        self._abandoned.add(key)

        def close(loaded: asyncio.Future[ServedModel]) -> None:
            self._abandoned.discard(key)
            if loaded.exception() is None:
                loaded.result().batcher.close()

        loading.add_done_callback(close)

    async def switch(self, serving: Sequence[VersionSource]) -> None:
        """Serve exactly these from now on, atomically; requests in flight finish on the version they began with."""
        before = self._served
        after: dict[str, dict[str, ServedModel]] = {}
        self._missing.clear()
        for source in sorted(serving, key=lambda source: (source.name, int(source.version))):
            key = (source.name, source.version)
            model = before.get(source.name, {}).get(source.version)
            if key in self._prepared and self._prepared_sources[key] == source:  # not that of a change in progress
                model = self._prepared.pop(key)
            if model is None:
                self._missing.add(key)
            else:
                after.setdefault(source.name, {})[source.version] = model
        self._served = after
        self._newest = {name: versions[next(reversed(versions))] for name, versions in after.items()}
        self._switched = True
        for name in {*self._states, *after}:
            self._states[name] = name in after
        self._notify()
        kept = {id(model) for model in self.served}
        for versions in before.values():
            for model in versions.values():
                if id(model) not in kept:
                    self._retire(model)
        served = {(model.name, model.version) for model in self.served}
        self._metrics.forget({*served, *self._prepared, *+self._loading})

    async def discard(self, source: VersionSource) -> None:
        """Unload a prepared version that is not to serve; nothing happens where it is not prepared."""
        model = self._prepared.pop((source.name, source.version), None)
        if model is not None:
            model.batcher.close()

    async def snapshot(self) -> Snapshot:
        """Return this process' counts."""
        return self._metrics.snapshot()

    def close(self) -> None:
        """Refuse queued requests, and end every model's inference thread. Nothing can be loaded any more.

        Forwards that run, and loads, are not waited for.
        """
        self._closed = True
        for batcher in self._batchers():
            batcher.close()

    async def wait_drained(self, limit_s: float) -> None:
        """Wait until no model computes any more, but no longer than ``limit_s`` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                for batcher in self._batchers():
                    await batcher.wait_drained()

    def _batchers(self) -> set[Batcher]:
        return {model.batcher for model in (*self.served, *self._prepared.values())} | self._retired

    def _notify(self) -> None:
        if self.on_change is not None:
            self.on_change(self.states)

    # -- closing replaced models --------------------------------------------------------------------------------------

    def _retire(self, model: ServedModel) -> None:
        """Close a model once its last request, or stream, has released it."""
        self._retired.add(model.batcher)
        loop = asyncio.get_running_loop()
        weakref.finalize(model, self._on_released, loop, model.batcher).atexit = False

    def _on_released(self, loop: asyncio.AbstractEventLoop, batcher: Batcher) -> None:
        """Schedule the closing of a released model. Called in any thread, at any time, even after the loop's end."""
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._schedule_close, batcher)

    def _schedule_close(self, batcher: Batcher) -> None:
        closing = asyncio.ensure_future(self._close_idle(batcher))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _close_idle(self, batcher: Batcher) -> None:
        await batcher.wait_drained()
        batcher.close()
        self._retired.discard(batcher)


def _served_text(names: Iterable[str]) -> str:
    shown = sorted(names)
    more = ", ..." if len(shown) > SHOWN_NAMES else ""
    return f"served are {', '.join(shown[:SHOWN_NAMES])}{more}" if shown else "none is loaded"
