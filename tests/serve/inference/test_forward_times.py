from __future__ import annotations

import pytest

from torso.serve.inference.forward_times import LatencyEstimate

MEASURED = {1: 1.0, 4: 1.6, 16: 4.0}


@pytest.mark.parametrize(("rows", "seconds"), [(1, 1.0), (2, 1.2), (4, 1.6), (10, 2.8), (16, 4.0), (32, 8.0)])
def test_between_what_was_measured_lie_straight_lines(rows: int, seconds: float) -> None:
    assert LatencyEstimate(MEASURED).seconds(rows) == pytest.approx(seconds)


def test_what_was_never_measured_is_expected_at_once() -> None:
    latency = LatencyEstimate()
    latency.observe(4, 100.0)
    assert latency.seconds(4) == 0.0


def test_it_follows_a_machine_that_has_become_slower_at_all_sizes() -> None:
    latency = LatencyEstimate(MEASURED)
    for _ in range(50):
        latency.observe(4, 4.8)
    assert latency.seconds(4) == pytest.approx(4.8, rel=1e-3)
    assert latency.seconds(16) == pytest.approx(12.0, rel=1e-3)
    for _ in range(50):
        latency.observe(16, 4.0)
    assert latency.seconds(4) == pytest.approx(1.6, rel=1e-3)


def test_one_stall_says_little() -> None:
    latency = LatencyEstimate(MEASURED)
    latency.observe(1, 1000.0)
    assert 1.0 < latency.seconds(1) <= 1.6
