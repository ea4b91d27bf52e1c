"""Metrics of a process' models: counters, gauges and histograms as plain numbers, updated on the event loop.

A `Snapshot` is plain data that can be summed: that of all workers is the sum of theirs.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

SECONDS_BOUNDS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
ROWS_BOUNDS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

ModelKey = tuple[str, str]  # a model's name and version; both empty for requests that named no served model
Snapshot = dict[ModelKey, dict[str, Any]]
NO_MODEL: Final[ModelKey] = ("", "")
Trace = Callable[[float, float, float, int], None]

MAX_UNLOADED_VERSIONS = 64  # unloaded versions whose counters are kept


class Histogram:
    """Histogram: counts of values between bounds, and their sum. The last count is of values above every bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value; one that equals a bound counts as below it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class ModelMetrics:
    """Counters, gauges and histograms of one version of one model.

    ``trace``, where there is one, is called for every computed request, in its own context, with the times at which it
    was queued, taken and computed, on the event loop's clock, and the rows of its batch.
    """

    def __init__(self, name: str = "", version: str = "", trace: Trace | None = None) -> None:
        self.name = name
        self.version = version
        self.trace = trace
        self.statuses: dict[str, int] = {}  # requests by gRPC status name
        self.total = Histogram(SECONDS_BOUNDS)  # of each request, from its arrival to its answer
        self.succeeded_s = 0.0  # its part of requests that ended OK
        self.failed_s = 0.0  # its part of the others
        self.queue = Histogram(SECONDS_BOUNDS)  # of each request, from being queued to being taken
        self.compute = Histogram(SECONDS_BOUNDS)  # of each batch
        self.batch_rows = Histogram(ROWS_BOUNDS)  # of each batch
        self.batches: dict[int, list[float]] = {}  # by rows of a batch: number, seconds of compute
        self.rows = 0  # computed
        self.compute_request_s = 0.0  # each request's batch's compute, over all requests
        self.last_inference_ms = 0  # since the epoch; 0: never
        self.in_flight = 0  # requests that are not answered yet
        self.queued_rows = 0

    def ended(self, status: str, seconds: float) -> None:
        """Record an answered request, with its status and latency."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.total.observe(seconds)
        if status == "OK":
            self.succeeded_s += seconds
        else:
            self.failed_s += seconds

    def computed(self, rows: int, num_requests: int, seconds: float) -> None:
        """Record a computed batch."""
        self.compute.observe(seconds)
        self.batch_rows.observe(rows)
        self.rows += rows
        self.compute_request_s += num_requests * seconds
        sizes = self.batches.setdefault(rows, [0, 0.0])
        sizes[0] += 1
        sizes[1] += seconds
        self.last_inference_ms = time.time_ns() // 1_000_000

    def computed_at_once(self, rows: int, seconds: float) -> None:
        """Record a request that was computed alone, without being queued."""
        self.queue.counts[0] += 1  # 0 seconds
        self.computed(rows, 1, seconds)

    def snapshot(self) -> dict[str, Any]:
        """Return the metrics as plain data: numbers, lists of numbers that can be summed, and dicts of those."""
        return {
            "statuses": dict(self.statuses),
            "total": [*self.total.counts, self.total.total],
            "succeeded_s": self.succeeded_s,
            "failed_s": self.failed_s,
            "queue": [*self.queue.counts, self.queue.total],
            "compute": [*self.compute.counts, self.compute.total],
            "batch_rows": [*self.batch_rows.counts, self.batch_rows.total],
            "batches": {rows: list(pair) for rows, pair in self.batches.items()},
            "rows": self.rows,
            "compute_request_s": self.compute_request_s,
            "last_inference_ms": self.last_inference_ms,
            "in_flight": self.in_flight,
            "queued_rows": self.queued_rows,
        }


class Metrics:
    """Registry of every model's metrics. A version that is unloaded and soon loaded again continues its counters."""

    def __init__(self) -> None:
        self.trace: Trace | None = None  # of the models that are loaded from now on
        self._models: dict[ModelKey, ModelMetrics] = {}
        # Requests for unknown models: their names, which callers choose, are not kept as labels.
        self.unknown = self.model("", "")

    def model(self, name: str, version: str) -> ModelMetrics:
        """Return a version's metrics."""
        known = self._models.pop((name, version), None)
        metrics = ModelMetrics(name, version, self.trace) if known is None else known
        self._models[name, version] = metrics  # the newest from now on, for `forget`
        return metrics

    def forget(self, serving: Collection[ModelKey]) -> None:
        """Drop the metrics of unloaded versions, except the newest of them: the number of versions is unbounded."""
        ended = [key for key in self._models if key not in serving and key != NO_MODEL]
        for key in ended[: max(len(ended) - MAX_UNLOADED_VERSIONS, 0)]:
            del self._models[key]

    def snapshot(self) -> Snapshot:
        """Return all metrics as plain data."""
        return {key: metrics.snapshot() for key, metrics in self._models.items()}


GAUGES: Final = ("in_flight", "queued_rows")  # zero once a process has ended


def without_gauges(snapshot: Snapshot) -> Snapshot:
    """Return the snapshot of an ended process with its gauges set to zero."""
    return {key: {**counts, **dict.fromkeys(GAUGES, 0)} for key, counts in snapshot.items()}


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Sum snapshots; of ``last_inference_ms`` take the latest."""
    merged: Snapshot = {}
    for snapshot in snapshots:
        for key, counts in snapshot.items():
            known = merged.get(key)
            merged[key] = counts if known is None else _add(known, counts)
    return merged


def _add(left: Mapping[Any, Any], right: Mapping[Any, Any]) -> dict[Any, Any]:
    added = dict(left)
    for name, value in right.items():
        known = added.get(name)
        if known is None:
            added[name] = value
        elif name == "last_inference_ms":
            added[name] = max(known, value)
        elif isinstance(value, Mapping):
            added[name] = _add(known, value)
        elif isinstance(value, list):
            added[name] = [a + b for a, b in zip(known, value, strict=True)]
        else:
            added[name] = known + value
    return added
