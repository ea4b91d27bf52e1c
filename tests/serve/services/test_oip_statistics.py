"""ModelStatistics of the Open Inference Protocol."""

from __future__ import annotations

from torso.proto import oip_pb2 as pb
from torso.serve.observability.metrics import ModelMetrics
from torso.serve.services.oip_statistics import model_statistics


def test_statistics_say_what_was_counted() -> None:
    metrics = ModelMetrics()
    for queued_s in (0.0, 0.001, 0.002):
        metrics.queue.observe(queued_s)
    metrics.computed(rows=5, num_requests=2, seconds=0.010)
    metrics.computed(rows=1, num_requests=1, seconds=0.004)
    for status, seconds in (("OK", 0.012), ("OK", 0.013), ("INTERNAL", 0.002), ("CANCELLED", 0.001)):
        metrics.ended(status, seconds)
    said = model_statistics("digits", "3", metrics.snapshot())
    assert (said.name, said.version) == ("digits", "3")
    assert said.last_inference == metrics.last_inference_ms > 1.7e12
    assert (said.inference_count, said.execution_count) == (6, 2)
    told = {
        field.name: (duration.count, duration.ns)
        for field in pb.InferStatistics.DESCRIPTOR.fields
        for duration in [getattr(said.inference_stats, field.name)]
    }
    assert told == {
        "success": (2, 25_000_000),
        "fail": (2, 3_000_000),
        "queue": (3, 3_000_000),
        "compute_input": (3, 0),
        "compute_infer": (3, 24_000_000),
        "compute_output": (3, 0),
        "cache_hit": (0, 0),
        "cache_miss": (0, 0),
    }
    batches = [(batch.batch_size, batch.compute_infer.count, batch.compute_infer.ns) for batch in said.batch_stats]
    assert batches == [(1, 1, 4_000_000), (5, 1, 10_000_000)]


def test_statistics_of_nothing_are_zeros() -> None:
    said = model_statistics("digits", "1", ModelMetrics().snapshot())
    assert said.inference_stats.success == pb.StatisticDuration()
    assert said.inference_count == said.last_inference == 0
    assert not said.batch_stats
