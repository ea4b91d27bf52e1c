"""Load a model for serving: choose its backend, warm it up and measure its latency."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from torso.arrays import Array
from torso.errors import ServerError
from torso.nets import Predictor, find_model, load_model
from torso.serve.backends.forward_memory import MIB, PROBE_BYTES, measure_row_bytes, rows_within
from torso.serve.backends.padding import batch_sizes
from torso.serve.backends.selection import WrapBackend, choose_backend, probe_batch
from torso.serve.config import ServeConfig
from torso.serve.inference.batcher import Batcher
from torso.serve.inference.forward_times import LatencyEstimate
from torso.serve.inference.state_records import StateRecords
from torso.serve.models.served_model import ServedModel
from torso.serve.observability.metrics import ModelMetrics
from torso.serve.wire.oip_signature import Signature

logger = logging.getLogger(__name__)

INLINE_S = 300e-6  # the longest forward that may block the event loop
MEASUREMENTS = 20  # of each batch size
MEASURE_S = 0.05  # after which no further measurement begins


def load_served_model(
    name: str,
    version: str,
    directory: Path,
    config: ServeConfig,
    metrics: ModelMetrics,
    wrap_backend: WrapBackend | None = None,
) -> ServedModel:
    """Load one model, warm it up and measure it; this takes a while, and belongs in a thread.

    ``directory`` is a model or run directory. ``wrap_backend(name, backend)`` may wrap the backend; one that blocks on
    others must have an attribute ``inline = False``, and never runs on the event loop; one of a recurrent model must
    have the inner backend's ``initial_state``.

    Where rows are large, batches have fewer than ``max_batch_rows`` and probes fewer still, see `forward_memory`.

    Raises TorsoError or OSError: see `torso.nets.load_model`; ServerError for a wrapper that lacks the state, and for a
    model of which one row takes more memory than a forward may.
    """
    started = time.perf_counter()
    directory = find_model(directory)
    card, network = load_model(directory)
    row_bytes = measure_row_bytes(network, config.max_forward_mib)
    max_rows = rows_within(config.max_forward_mib * MIB, row_bytes, config.max_batch_rows)
    probe_rows = rows_within(PROBE_BYTES, row_bytes, max_rows)
    backend = choose_backend(
        directory,
        card,
        network,
        config.backend,
        threads=config.threads,
        cache_dir=config.cache_dir,
        max_rows=max_rows,
        probe_rows=probe_rows,
        row_bytes=row_bytes,
    )
    if wrap_backend is not None:
        backend = wrap_backend(name, backend)
    predictor = Predictor(card, backend)
    if network.is_recurrent and not predictor.is_recurrent:
        raise ServerError(
            f"the wrapped backend of the recurrent model {name!r} must have an attribute initial_state, got none; "
            "hand on the inner backend's"
        )
    records = StateRecords(predictor) if predictor.is_recurrent and predictor.kind == "policy" else None
    forward: Callable[[Array], Array] = predictor.answer if records is None else records
    seconds = {}
    for rows in batch_sizes(probe_rows):
        probe = probe_batch(predictor.input, rows)
        seconds[rows] = measure_forward(forward, probe if records is None else records.pack(probe, ()))
    inline_rows = choose_inline_rows(seconds) if getattr(backend, "inline", True) else 0
    batcher = Batcher(
        name,
        forward,  # a classifier's gives probabilities: once a batch, not once a request
        max_batch_rows=max_rows,
        max_queue_rows=config.max_queue_rows,
        max_delay_us=config.max_delay_us,
        inline_rows=inline_rows,
        metrics=metrics,
        latency=LatencyEstimate(seconds),
    )
    logger.info(
        "model %s version %s: %s, %s %s -> %d outputs, by %s (%.2f ms a row, %.2f ms %d rows; %s), "
        "loaded from %s in %.1f s",
        *(name, version, card.kind, predictor.input.dtype, list(predictor.input.shape), predictor.num_outputs),
        *(
            backend.name,
            seconds[1] * 1e3,
            seconds[probe_rows] * 1e3,
            probe_rows,
            _execution_text(inline_rows, max_rows),
        ),
        *(directory, time.perf_counter() - started),
    )
    return ServedModel(
        name=name,
        version=version,
        directory=directory,
        predictor=predictor,
        signature=Signature(predictor),
        batcher=batcher,
        metrics=metrics,
        records=records,
    )


def measure_forward(forward: Callable[[Array], Array], probe: Array) -> float:
    """Warm up and measure a forward of a probe batch; return its seconds, the least of several calls."""
    forward(probe)
    best_s, end = math.inf, time.perf_counter() + MEASURE_S
    for _ in range(MEASUREMENTS):
        started = time.perf_counter()
        forward(probe)
        ended = time.perf_counter()
        best_s = min(best_s, ended - started)  # other load on the machine only ever adds to it
        if ended > end:
            break
    return best_s


def choose_inline_rows(seconds: Mapping[int, float]) -> int:
    """Choose the most rows, of those measured, up to which forwards are short enough for the event loop; 0: none."""
    inline_rows = 0
    for rows, forward_s in sorted(seconds.items()):
        if forward_s > INLINE_S:
            break
        inline_rows = rows
    return inline_rows


def _execution_text(inline_rows: int, max_rows: int) -> str:
    if inline_rows == 0:
        return "in a thread"
    return "on the event loop" if inline_rows == max_rows else f"on the event loop up to {inline_rows} rows"
