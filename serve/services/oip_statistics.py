"""ModelStatistics of the Open Inference Protocol V2, built from the counts of ``observability/metrics.py``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torso.proto import oip_pb2 as pb


def model_statistics(name: str, version: str, counts: Mapping[str, Any]) -> pb.ModelStatistics:
    """Convert one version's counts, an entry of a `Snapshot`, to the protocol's message.

    Every request is counted under ``queue``, also where it did not wait. Reading requests and writing answers are not
    measured apart from the rest: ``compute_input`` and ``compute_output`` count what ``compute_infer`` counts, at 0 ns.
    """
    succeeded = counts["statuses"].get("OK", 0)
    *queue, queue_s = counts["queue"]
    *compute, _ = counts["compute"]
    computed = sum(queue)  # every request that is taken from the queue is computed
    return pb.ModelStatistics(
        name=name,
        version=version,
        last_inference=counts["last_inference_ms"],
        inference_count=counts["rows"],
        execution_count=sum(compute),
        inference_stats=pb.InferStatistics(
            success=_duration(succeeded, counts["succeeded_s"]),
            fail=_duration(sum(counts["statuses"].values()) - succeeded, counts["failed_s"]),
            queue=_duration(computed, queue_s),
            compute_input=_duration(computed, 0),
            compute_infer=_duration(computed, counts["compute_request_s"]),
            compute_output=_duration(computed, 0),
            cache_hit=_duration(0, 0),
            cache_miss=_duration(0, 0),
        ),
        batch_stats=[
            pb.InferBatchStatistics(
                batch_size=rows,
                compute_input=_duration(batches, 0),
                compute_infer=_duration(batches, seconds),
                compute_output=_duration(batches, 0),
            )
            for rows, (batches, seconds) in sorted(counts["batches"].items())
        ],
    )


def _duration(count: int, seconds: float) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=count, ns=round(seconds * 1e9))
