"""Exposition of /metrics, parsed by Prometheus' own parser."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, get_args

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from torso.proto import prediction_pb2 as pb
from torso.proto.prediction_pb2_grpc import PredictionServiceStub
from torso.serve.models.control import ModelState, VersionState, named_states
from torso.serve.observability.exposition import CONTENT_TYPE, MODEL_STATES, to_text
from torso.serve.observability.metrics import Metrics, Snapshot

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

STATUSES = ("OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "UNAVAILABLE", "CANCELLED", "INTERNAL")


def parsed(text: bytes) -> list[Metric]:
    return list(text_string_to_metric_families(text.decode()))


def samples(text: bytes) -> Samples:
    found: Samples = {}
    for family in parsed(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"{key} stands there twice"
            found[key] = sample.value
    return found


def reader(text: bytes) -> Callable[..., float]:
    found = samples(text)
    return lambda name, **labels: found[name, frozenset(labels.items())]


def test_what_was_counted_is_what_is_read() -> None:
    metrics = Metrics()
    digits = metrics.model("digits", "3")
    for status, seconds in (
        ("OK", 0.5),
        ("OK", 0.002),
        ("INTERNAL", 4.0),
        ("CANCELLED", 1.0),
        ("DEADLINE_EXCEEDED", 1),
    ):
        digits.ended(status, seconds)
    digits.ended("NOT_FOUND", 99.0)
    metrics.unknown.ended("NOT_FOUND", 0.25)
    digits.queue.observe(0.001)
    digits.queue.observe(0.003)
    digits.computed(rows=8, num_requests=2, seconds=0.25)
    digits.computed(rows=2048, num_requests=1, seconds=0.5)
    digits.in_flight, digits.queued_rows = 3, 17
    states = [
        VersionState(name="digits", version="3", state="READY"),
        VersionState(name="digits", version="4", state="UNAVAILABLE", reason="/a/secret/path is broken"),
    ]
    text = to_text(metrics.snapshot(), named_states(states), workers=2)
    assert b"secret" not in text
    value = reader(text)
    one = {"model": "digits", "version": "3"}
    none = {"model": "", "version": ""}
    assert value("torso_requests_total", **one, status="OK") == 2
    assert value("torso_requests_total", **one, status="INTERNAL") == 1
    assert value("torso_requests_total", **none, status="NOT_FOUND") == 1
    assert value("torso_requests_total", **none, status="OK") == 0
    assert value("torso_request_seconds_count", **one) == 6
    assert value("torso_request_seconds_sum", **one) == pytest.approx(105.502)
    assert value("torso_request_seconds_bucket", **one, le="0.0025") == 1
    assert value("torso_request_seconds_bucket", **one, le="0.5") == 2
    assert value("torso_request_seconds_bucket", **one, le="10.0") == 5
    assert value("torso_request_seconds_count", **none) == 1
    assert value("torso_queue_seconds_count", **one) == 2
    assert value("torso_queue_seconds_sum", **one) == pytest.approx(0.004)
    assert value("torso_compute_seconds_sum", **one) == 0.75
    assert value("torso_batch_rows_bucket", **one, le="8.0") == 1
    assert value("torso_batch_rows_bucket", **one, le="1024.0") == 1
    assert value("torso_batch_rows_bucket", **one, le="+Inf") == 2
    assert value("torso_batch_rows_sum", **one) == value("torso_rows_total", **one) == 2056
    assert value("torso_in_flight", **one) == 3
    assert value("torso_queued_rows", **one) == 17
    assert value("torso_workers") == 2
    for version, current in (("3", "READY"), ("4", "UNAVAILABLE")):
        for state in ("READY", "LOADING", "UNLOADING", "UNAVAILABLE"):
            labels = {"model": "digits", "version": version, "state": state}
            assert value("torso_model_state", **labels) == (state == current)
    assert value("nv_inference_request_success", **one) == 2
    for reason, number in (("REJECTED", 1), ("CANCELED", 1), ("BACKEND", 1), ("OTHER", 1)):
        assert value("nv_inference_request_failure", **one, reason=reason) == number
    assert value("nv_inference_count", **one) == 2056
    assert value("nv_inference_exec_count", **one) == 2
    assert value("nv_inference_request_duration_us", **one) == 502_000
    assert value("nv_inference_queue_duration_us", **one) == 4_000
    assert value("nv_inference_compute_infer_duration_us", **one) == 1_000_000
    with pytest.raises(KeyError):
        value("nv_inference_count", **none)


def test_types_are_what_prometheus_takes_them_for() -> None:
    text = to_text(Metrics().snapshot(), [])
    kinds = {family.name: family.type for family in parsed(text)}
    assert kinds.pop("torso_requests") == kinds.pop("torso_rows") == "counter"
    for name in ("request_seconds", "queue_seconds", "compute_seconds", "batch_rows"):
        assert kinds.pop(f"torso_{name}") == "histogram"
    for name in ("in_flight", "queued_rows", "model_state", "workers"):
        assert kinds.pop(f"torso_{name}") == "gauge"
    assert set(kinds.values()) == {"unknown"}
    assert all(name.startswith("nv_inference_") for name in kinds)
    assert all(family.documentation for family in parsed(text))
    assert CONTENT_TYPE == CONTENT_TYPE_PLAIN_0_0_4


def test_every_state_of_a_version_is_told() -> None:
    assert get_args(ModelState) == MODEL_STATES


@given(name=st.text(min_size=1).filter(lambda text: "\r" not in text), version=st.text('"\\\n9{}=,#', min_size=1))
def test_labels_are_escaped(name: str, version: str) -> None:
    name = name.encode("utf-8", "replace").decode()  # a lone surrogate is no text
    metrics = Metrics()
    metrics.model(name, version).rows = 5
    text = to_text(metrics.snapshot(), [(name, version, "LOADING")])
    value = reader(text)
    assert value("torso_rows_total", model=name, version=version) == 5
    assert value("torso_model_state", model=name, version=version, state="LOADING") == 1


seconds = st.floats(0, 100)
events = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from(STATUSES), seconds, st.integers(1, 3000), st.integers(1, 9)),
    max_size=20,
)


def counted(happened: list[Any]) -> Snapshot:
    metrics = Metrics()
    for name, status, taken_s, rows, num_requests in happened:
        model = metrics.model(name, "1")
        model.ended(status, taken_s)
        model.queue.observe(taken_s)
        model.computed(rows, num_requests, taken_s)
    return metrics.snapshot()


@given(events)
def test_histograms_are_cumulative_and_agree_with_their_sums(happened: list[Any]) -> None:
    families = {family.name: family for family in parsed(to_text(counted(happened), []))}
    measures = {"torso_request_seconds": 2, "torso_queue_seconds": 2, "torso_compute_seconds": 2, "torso_batch_rows": 3}
    for name, measure in measures.items():
        for model in "ab":
            values = [event[measure] for event in happened if event[0] == model]
            mine = [sample for sample in families[name].samples if sample.labels["model"] == model]
            if not values:
                assert not mine
                continue
            buckets = [(float(sample.labels["le"]), sample.value) for sample in mine if sample.name == f"{name}_bucket"]
            assert [bound for bound, _ in buckets] == sorted({bound for bound, _ in buckets})
            assert buckets[-1][0] == math.inf
            assert [number for _, number in buckets] == [sum(value <= le for value in values) for le, _ in buckets]
            [count] = [sample.value for sample in mine if sample.name == f"{name}_count"]
            [total] = [sample.value for sample in mine if sample.name == f"{name}_sum"]
            assert count == buckets[-1][1] == len(values)
            assert total == pytest.approx(sum(values))


@given(events, events)
def test_counters_never_fall(earlier: list[Any], later: list[Any]) -> None:
    before, after = (samples(to_text(counted(happened), [])) for happened in (earlier, [*earlier, *later]))
    for (name, labels), value in before.items():
        if name.endswith(("_total", "_bucket", "_count", "_sum")) or name.startswith("nv_"):
            assert after[name, labels] >= value


@given(events)
def test_every_failure_has_one_reason(happened: list[Any]) -> None:
    found = samples(to_text(counted(happened), []))
    for model in "ab":
        mine = {key: value for key, value in found.items() if ("model", model) in key[1]}
        failed = sum(value for (name, _), value in mine.items() if name == "nv_inference_request_failure")
        success = sum(value for (name, _), value in mine.items() if name == "nv_inference_request_success")
        statuses = [event[1] for event in happened if event[0] == model]
        assert (success, failed) == (statuses.count("OK"), len(statuses) - statuses.count("OK"))


def test_a_servers_requests_are_all_there(served: Any, stub: PredictionServiceStub) -> None:
    def ask(model: str, *shape: int) -> str:
        data = bytes(4 * math.prod(shape))
        request = pb.ActRequest(model=model, observations=pb.Tensor(dtype="float32", shape=shape, data=data))
        try:
            stub.Act(request)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"

    def now() -> Callable[..., float]:
        return reader(to_text(served.server.handler.metrics.snapshot(), []))

    one = {"model": "cartpole", "version": "1"}
    before = now()
    refused = served.server.handler.metrics.unknown.statuses.get("NOT_FOUND", 0)
    asked = [ask("cartpole", 2, 4), ask("cartpole", 3, 4), ask("cartpole", 1, 5), ask("nobody", 1, 4)]
    assert asked == ["OK", "OK", "INVALID_ARGUMENT", "NOT_FOUND"]
    end = time.monotonic() + 30  # a refusal has left before it is counted
    while served.server.handler.metrics.unknown.statuses.get("NOT_FOUND", 0) == refused:
        assert time.monotonic() < end
    after = now()

    def grown(name: str, **labels: str) -> float:
        try:
            earlier = before(name, **labels)
        except KeyError:  # a status that had not been seen
            earlier = 0
        return after(name, **labels) - earlier

    assert grown("torso_requests_total", **one, status="OK") == grown("nv_inference_request_success", **one) == 2
    assert grown("torso_requests_total", **one, status="INVALID_ARGUMENT") == 1
    assert grown("torso_requests_total", model="", version="", status="NOT_FOUND") == 1
    assert grown("torso_request_seconds_count", **one) == 3
    assert grown("torso_queue_seconds_count", **one) == 2
    assert grown("torso_rows_total", **one) == grown("nv_inference_count", **one) == 5
    assert grown("torso_batch_rows_count", **one) == grown("nv_inference_exec_count", **one) == 2
    assert grown("torso_batch_rows_bucket", **one, le="2.0") == 1
    assert grown("torso_compute_seconds_count", **one) == 2
    assert 0 < grown("torso_compute_seconds_sum", **one) < grown("torso_request_seconds_sum", **one)
    assert after("torso_in_flight", **one) == after("torso_queued_rows", **one) == 0
