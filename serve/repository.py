"""The models of a server, by name."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torso.errors import (
    ServerError,
    TorsoError,
    UnavailableError,
    UnknownModelError,
    WrongKindError,
)
from torso.nets import Backend, Predictor, find_model, load_model
from torso.serve.backends import choose_backend, probe_batch
from torso.serve.batcher import Batcher
from torso.serve.config import ServeConfig
from torso.serve.metrics import Metrics, ModelMetrics

logger = logging.getLogger(__name__)

VERSION = "1"  # of a directory that is served directly
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
SHOWN_NAMES = 10
METHODS = {"classifier": "Classify", "policy": "Act"}  # what a model of each served kind is asked with

WrapBackend = Callable[[str, Backend], Backend]


@dataclass(frozen=True, kw_only=True)
class Model:
    """One served model."""

    name: str
    version: str
    directory: Path
    predictor: Predictor
    batcher: Batcher
    metrics: ModelMetrics

    def require(self, kind: str) -> Model:
        """Return the model; WrongKindError where it is of another kind."""
        if self.predictor.kind != kind:
            came = self.predictor.kind
            raise WrongKindError(f"model {self.name!r} is a {came}, not a {kind}: ask it with {METHODS[came]}")
        return self


class Repository:
    """Which models there are to be, and those that are loaded.

    ``wrap_backend(name, backend)`` may put something around what computes a model, such as a tracer.
    """

    def __init__(self, config: ServeConfig, metrics: Metrics, wrap_backend: WrapBackend | None = None) -> None:
        self._config = config
        self._metrics = metrics
        self._wrap_backend = wrap_backend
        self._directories = parse_models(config.models)
        self._models: dict[str, Model] = {}
        self._loading = set(self._directories)

    @property
    def names(self) -> tuple[str, ...]:
        """The models that there are to be, loaded or not."""
        return tuple(self._directories)

    @property
    def models(self) -> Mapping[str, Model]:
        """The loaded models, by name, sorted."""
        return dict(sorted(self._models.items()))

    def load_all(self) -> None:
        """Load and warm up every model; this takes a while.

        Raises ServerError for a missing or damaged model; with ``skip_broken``, only where none is left.
        """
        for name, directory in self._directories.items():
            try:
                self._models[name] = self._load(name, directory)
            except (TorsoError, OSError) as error:
                if not self._config.skip_broken:
                    raise ServerError(f"model {name!r} ({directory}): {error}") from error
                logger.error("model %r (%s) is skipped: %s", name, directory, error)
            finally:
                self._loading.discard(name)
        if not self._models:
            raise ServerError(f"none of the {len(self._directories)} models could be loaded")

    def get(self, name: str, version: str = "") -> Model:
        """Find a model; UnknownModelError where there is none, UnavailableError while it is loading."""
        model = self._models.get(name)
        if model is None:
            if name in self._loading:
                raise UnavailableError(f"model {name!r} is loading", retry_after_s=1.0)
            raise UnknownModelError(f"unknown model {name[:128]!r}: {_served(self._models)}")
        if version not in ("", model.version):
            raise UnknownModelError(f"unknown version {version[:128]!r} of model {name!r}: it has {model.version!r}")
        return model

    def close(self) -> None:
        """End every model's inference thread."""
        for model in self._models.values():
            model.batcher.close()

    def _load(self, name: str, path: Path) -> Model:
        started = time.perf_counter()
        directory = find_model(path)
        card, network = load_model(directory)
        if card.kind not in METHODS:
            raise ServerError(
                f"a {card.kind} cannot be served; regressors answer through torso.nets.Predictor, the service labels "
                "and acts"
            )
        backend = choose_backend(directory, card, network, self._config.backend, threads=self._config.threads)
        if self._wrap_backend is not None:
            backend = self._wrap_backend(name, backend)
        predictor = Predictor(card, backend)
        for rows in {1, self._config.max_batch_rows}:  # the first call of a size is slower than the rest
            predictor.run(probe_batch(predictor.input, rows))
        batcher = Batcher(
            name,
            predictor.run,
            max_batch_rows=self._config.max_batch_rows,
            max_queue_rows=self._config.max_queue_rows,
        )
        logger.info(
            "model %s: %s, %s %s -> %d outputs, by %s, loaded from %s in %.1f s",
            *(name, card.kind, predictor.input.dtype, list(predictor.input.shape), predictor.num_outputs),
            *(backend.name, directory, time.perf_counter() - started),
        )
        return Model(
            name=name,
            version=VERSION,
            directory=directory,
            predictor=predictor,
            batcher=batcher,
            metrics=self._metrics.model(name, VERSION),
        )


def parse_models(arguments: Iterable[str]) -> dict[str, Path]:
    """Read ``DIR`` and ``NAME=DIR`` into directories by name; ServerError on a bad name, or one given twice."""
    directories: dict[str, Path] = {}
    for argument in arguments:
        name, equals, rest = argument.partition("=")
        if not equals or Path(argument).exists() or not NAME.fullmatch(name):
            name, rest = Path(argument).resolve().name, argument
        if not NAME.fullmatch(name):
            raise ServerError(
                f"model name {name!r}: expected letters, digits, '.', '_' and '-', first a letter or digit; "
                f"choose one with NAME={rest}"
            )
        if name in directories:
            raise ServerError(f"two models are named {name!r}: {directories[name]} and {rest}; choose with NAME=DIR")
        directories[name] = Path(rest)
    return directories


def _served(names: Iterable[str]) -> str:
    shown = sorted(names)
    more = ", ..." if len(shown) > SHOWN_NAMES else ""
    return f"served are {', '.join(shown[:SHOWN_NAMES])}{more}" if shown else "none is loaded"
