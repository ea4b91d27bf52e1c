"""Prometheus exposition of ``/metrics``: metric families from a snapshot of the counters, in the text format.

A model's requests are labelled ``model`` and ``version``; both are empty where a request named no served model.
Triton's names are exported beside torso's own, so that dashboards made for one show the other; their type is
``untyped``, for Triton's counters lack the suffix that Prometheus' own library gives a counter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from torso.serve.observability.metrics import NO_MODEL, ROWS_BOUNDS, SECONDS_BOUNDS, Snapshot

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

LABELS = ("model", "version")
MODEL_STATES = ("READY", "LOADING", "UNLOADING", "UNAVAILABLE")
REASONS = {  # Triton's reason for a failure by gRPC status; OTHER for the rest
    "RESOURCE_EXHAUSTED": "REJECTED",
    "DEADLINE_EXCEEDED": "REJECTED",
    "UNAVAILABLE": "REJECTED",
    "CANCELLED": "CANCELED",
    "INTERNAL": "BACKEND",
}

Counts = dict[str, Any]  # one model's part of a snapshot


def to_text(snapshot: Snapshot, states: Iterable[tuple[str, str, str]], *, workers: int = 1) -> bytes:
    """Render the counters of all workers, the repository's index and the number of workers, in the text format 0.0.4.

    states: a model's name, a version of it and one of ``MODEL_STATES`` each.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_SnapshotCollector(snapshot, tuple(states), workers))
    return generate_latest(registry)


class _SnapshotCollector(Collector):
    def __init__(self, snapshot: Snapshot, states: Sequence[tuple[str, str, str]], workers: int) -> None:
        self._all = dict(sorted(snapshot.items()))
        self._models = {key: counts for key, counts in self._all.items() if key != NO_MODEL}
        self._states = states
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        yield self._requests()
        yield self._histogram(
            "torso_request_seconds", "Seconds from a request's arrival to its answer.", "total", self._all
        )
        yield self._gauge("torso_in_flight", "Requests that are not answered yet.", "in_flight", self._all)
        models = self._models
        yield self._histogram(
            "torso_queue_seconds", "Seconds that a request waited until a batch took it.", "queue", models
        )
        yield self._histogram("torso_compute_seconds", "Seconds that a batch took to compute.", "compute", models)
        yield self._histogram("torso_batch_rows", "Rows of a batch.", "batch_rows", models, ROWS_BOUNDS)
        rows = CounterMetricFamily("torso_rows", "Rows computed.", labels=LABELS)
        for key, counts in models.items():
            rows.add_metric(key, counts["rows"])
        yield rows
        yield self._gauge("torso_queued_rows", "Rows that wait for a batch.", "queued_rows", models)
        yield self._model_states()
        yield GaugeMetricFamily("torso_workers", "Processes that answer requests.", self._workers)
        yield from self._triton_metrics()

    def _requests(self) -> Metric:
        family = CounterMetricFamily(
            "torso_requests", "Requests answered, by the gRPC status that they ended with.", labels=(*LABELS, "status")
        )
        for key, counts in self._all.items():
            for status, number in sorted({"OK": 0, **counts["statuses"]}.items()):
                family.add_metric((*key, status), number)
        return family

    def _histogram(
        self,
        name: str,
        meaning: str,
        field: str,
        models: Snapshot,
        bounds: Sequence[float] = SECONDS_BOUNDS,
    ) -> Metric:
        family = HistogramMetricFamily(name, meaning, labels=LABELS)
        limits = [*map(floatToGoString, bounds), "+Inf"]
        for key, counts in models.items():
            *numbers, total = counts[field]
            family.add_metric(key, list(zip(limits, _cumulative(numbers), strict=True)), total)
        return family

    def _gauge(self, name: str, meaning: str, field: str, models: Snapshot) -> Metric:
        family = GaugeMetricFamily(name, meaning, labels=LABELS)
        for key, counts in models.items():
            family.add_metric(key, counts[field])
        return family

    def _model_states(self) -> Metric:
        family = GaugeMetricFamily(
            "torso_model_state", "1 for the state that a model's version is in, else 0.", labels=(*LABELS, "state")
        )
        for name, version, current in self._states:
            for state in MODEL_STATES:
                family.add_metric((name, version, state), current == state)
        return family

    def _triton_metrics(self) -> Iterator[Metric]:
        def family(name: str, meaning: str, value: Callable[[Counts], float]) -> Metric:
            metric = UnknownMetricFamily(f"nv_inference_{name}", meaning, labels=LABELS)
            for key, counts in self._models.items():
                metric.add_metric(key, value(counts))
            return metric

        yield family("request_success", "Requests that succeeded.", lambda counts: counts["statuses"].get("OK", 0))
        yield self._triton_failures()
        yield family("count", "Rows computed.", lambda counts: counts["rows"])
        yield family("exec_count", "Batches computed.", lambda counts: sum(counts["compute"][:-1]))
        yield family(
            "request_duration_us",
            "Microseconds of the requests that succeeded, from arrival to answer.",
            lambda counts: _us(counts["succeeded_s"]),
        )
        yield family(
            "queue_duration_us", "Microseconds that requests were queued.", lambda counts: _us(counts["queue"][-1])
        )
        yield family(
            "compute_infer_duration_us",
            "Microseconds of compute, each request counted with the whole of its batch's.",
            lambda counts: _us(counts["compute_request_s"]),
        )

    def _triton_failures(self) -> Metric:
        family = UnknownMetricFamily(
            "nv_inference_request_failure", "Requests that failed.", labels=(*LABELS, "reason")
        )
        for key, counts in self._models.items():
            numbers = dict.fromkeys((*REASONS.values(), "OTHER"), 0)
            for status, number in counts["statuses"].items():
                if status != "OK":
                    numbers[REASONS.get(status, "OTHER")] += number
            for reason, number in numbers.items():
                family.add_metric((*key, reason), number)
        return family


def _cumulative(numbers: Iterable[int]) -> Iterator[int]:
    total = 0
    for number in numbers:
        total += number
        yield total


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
