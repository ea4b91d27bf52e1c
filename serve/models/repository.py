"""The models that this process has loaded.

A change is prepared beside what serves and then switched to at once, on the event loop, where all of this lives. A
request keeps the `ServedModel` it began with; a model that no longer serves is closed once nobody holds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from torso.errors import ServerError, UnavailableError, UnknownModelError
from torso.serve.config import ServeConfig
from torso.serve.inference.backends import WrapBackend
from torso.serve.inference.batcher import Batcher
from torso.serve.models.begin_serving import load_served_model
from torso.serve.models.catalogue import parse_models
from torso.serve.models.control import VersionSource
from torso.serve.models.served_model import METHODS, ServedModel
from torso.serve.observability.metrics import Metrics, ModelKey, Snapshot

__all__ = ["METHODS", "Repository", "ServedModel", "WrapBackend", "parse_models"]

logger = logging.getLogger(__name__)

SHOWN_NAMES = 10
LOADING_RETRY_S = 1.0

OnChange = Callable[[Mapping[str, bool]], None]


class Repository:
    """This process' models: a `Replica`, and where requests find theirs.

    ``wrap_backend(name, backend)`` may put something around what computes a model, such as a tracer. ``on_change`` is
    called on the event loop with `states` whenever these change.
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
        self._loading: Counter[str] = Counter()  # by name, what is being prepared
        self._lacking: set[ModelKey] = set()  # what should serve and is not here
        self._states = dict.fromkeys(parse_models(config.models), False)
        self._begun = False  # whether anything was switched to
        self._closed = False
        self._retired: set[Batcher] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._loader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="load")

    # -- what requests ask --------------------------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """The models that are known of, loaded or not."""
        return tuple(self._states)

    @property
    def models(self) -> Mapping[str, ServedModel]:
        """The newest served version of every model, by name, sorted."""
        return dict(sorted(self._newest.items()))

    @property
    def served(self) -> Sequence[ServedModel]:
        """Every served version of every model, by name and then oldest first."""
        return [model for _, versions in sorted(self._served.items()) for model in versions.values()]

    @property
    def states(self) -> Mapping[str, bool]:
        """Whether each model that is known of is served; one that was unloaded is still known of."""
        return dict(self._states)

    def get(self, name: str, version: str = "") -> ServedModel:
        """Find a model, its newest version unless told otherwise.

        UnknownModelError where there is none, UnavailableError while it is loading.
        """
        if not version and (model := self._newest.get(name)) is not None:
            return model
        versions = self._served.get(name)
        if versions is not None and version in versions:
            return versions[version]
        raise self._absence(name, version, versions or {})

    def _absence(
        self, name: str, version: str, versions: Mapping[str, ServedModel]
    ) -> UnavailableError | UnknownModelError:
        shown = name[:128]
        if any(key[0] == name and version in ("", key[1]) for key in self._lacking):
            return UnavailableError(f"model {shown!r} could not be loaded here", retry_after_s=LOADING_RETRY_S)
        if not versions and (not self._begun or self._loading[name] or any(key[0] == name for key in self._prepared)):
            return UnavailableError(f"model {shown!r} is loading", retry_after_s=LOADING_RETRY_S)
        if not versions:
            return UnknownModelError(f"unknown model {shown!r}: {_served(self._newest)}")
        has = " and ".join(repr(known) for known in versions)
        return UnknownModelError(f"unknown version {version[:128]!r} of model {shown!r}: it has {has}")

    # -- what the manager asks ----------------------------------------------------------------------------------------

    async def prepare(self, source: VersionSource) -> None:
        """Load and warm up a version beside what serves. Raises TorsoError or OSError; nothing has changed then."""
        key = (source.name, source.version)
        if self._closed:
            raise ServerError("the server is shutting down")
        self._loading[source.name] += 1
        if source.name not in self._states:
            self._states[source.name] = False
            self._changed()
        counts = self._metrics.model(*key)
        loading = asyncio.get_running_loop().run_in_executor(
            self._loader, load_served_model, *key, source.directory, self._config, counts, self._wrap_backend
        )
        try:
            model = await asyncio.shield(loading)
        except asyncio.CancelledError:
            loading.add_done_callback(_close_unwanted)
            raise
        finally:
            self._loading[source.name] -= 1
        await self.discard(source)
        if self._closed:
            model.batcher.close()
            raise ServerError("the server is shutting down")
        self._prepared[key] = model

    async def switch(self, serving: Sequence[VersionSource]) -> None:
        """Serve exactly these from now on, at once: prepared ones begin, others go on or end, none is interrupted."""
        before = self._served
        after: dict[str, dict[str, ServedModel]] = {}
        self._lacking.clear()
        for source in sorted(serving, key=lambda source: (source.name, int(source.version))):
            key = (source.name, source.version)
            model = self._prepared.pop(key, None) or before.get(source.name, {}).get(source.version)
            if model is None:
                self._lacking.add(key)
            else:
                after.setdefault(source.name, {})[source.version] = model
        self._served = after
        self._newest = {name: versions[next(reversed(versions))] for name, versions in after.items()}
        self._begun = True
        for name in {*self._states, *after}:
            self._states[name] = name in after
        self._changed()
        kept = {id(model) for model in self.served}
        for versions in before.values():
            for model in versions.values():
                if id(model) not in kept:
                    self._retire(model)
        self._metrics.forget({(model.name, model.version) for model in self.served})

    async def discard(self, source: VersionSource) -> None:
        """Drop what was prepared; nothing happens where nothing was."""
        model = self._prepared.pop((source.name, source.version), None)
        if model is not None:
            model.batcher.close()

    async def snapshot(self) -> Snapshot:
        """This process' counts."""
        return self._metrics.snapshot()

    def close(self) -> None:
        """End every model's inference thread, and refuse what is queued. Nothing can be loaded any more."""
        self._closed = True
        self._loader.shutdown(wait=False, cancel_futures=True)
        for model in (*self.served, *self._prepared.values()):
            model.batcher.close()
        for batcher in tuple(self._retired):
            batcher.close()
        self._prepared.clear()
        self._retired.clear()

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change(self.states)

    # -- what no longer serves ----------------------------------------------------------------------------------------

    def _retire(self, model: ServedModel) -> None:
        """Close a model once its last request, or stream, lets go of it."""
        self._retired.add(model.batcher)
        loop = asyncio.get_running_loop()
        weakref.finalize(model, self._let_go, loop, model.batcher).atexit = False

    def _let_go(self, loop: asyncio.AbstractEventLoop, batcher: Batcher) -> None:
        """Nobody can ask it any more. This may be any thread, and any time, such as after the loop's end."""
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._begin_closing, batcher)

    def _begin_closing(self, batcher: Batcher) -> None:
        closing = asyncio.ensure_future(self._close_idle(batcher))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _close_idle(self, batcher: Batcher) -> None:
        await batcher.drained()
        batcher.close()
        self._retired.discard(batcher)


def _close_unwanted(loading: asyncio.Future[ServedModel]) -> None:
    """Close a model that was loaded when nobody waited for it any more."""
    if not loading.cancelled() and loading.exception() is None:
        loading.result().batcher.close()


def _served(names: Iterable[str]) -> str:
    shown = sorted(names)
    more = ", ..." if len(shown) > SHOWN_NAMES else ""
    return f"served are {', '.join(shown[:SHOWN_NAMES])}{more}" if shown else "none is loaded"
