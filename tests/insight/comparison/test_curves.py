"""Learning curves over seeds: alignment by hand, nothing extrapolated, and what a picture shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torso.errors import RunError
from torso.insight.comparison.curves import align, plot_curves, plot_sample_efficiency
from torso.insight.comparison.run_records import RunGroup, RunRecord

Points = dict[int, float]


def run(points: Points, seed: int = 0, env_id: str = "CartPole-v1") -> RunRecord:
    return RunRecord(
        path=Path(f"runs/{seed}"),
        env_id=env_id,
        algorithm="dqn",
        settings={},
        seed=seed,
        lines=[{"step": step, "evaluation_return": value} for step, value in points.items()],
        summary=None,
        versions={},
    )


def group(*curves: Points, env: str = "CartPole-v1", label: str = "dqn") -> RunGroup:
    return RunGroup(env=env, label=label, runs=tuple(run(points, seed) for seed, points in enumerate(curves)))


def arrays(points: Points) -> tuple[Any, Any]:
    return np.array([*points], float), np.array([*points.values()])


def test_curves_are_interpolated_where_all_have_steps() -> None:
    steps, values = align([arrays({10: 0.0, 20: 10.0, 40: 0.0}), arrays({15: 1.0, 30: 4.0, 60: 7.0})])
    assert steps.tolist() == [15, 20, 30, 40]  # from the later start to the earlier end
    assert values.tolist() == [[5.0, 1.0], [10.0, 2.0], [5.0, 4.0], [0.0, 5.0]]


curves = st.dictionaries(st.integers(0, 30), st.floats(-10, 10), min_size=1, max_size=8)


@given(st.lists(curves, min_size=1, max_size=4))
def test_nothing_is_extrapolated(several: list[Points]) -> None:
    several = [dict(sorted(points.items())) for points in several]
    steps, values = align([arrays(points) for points in several])
    assert values.shape == (len(steps), len(several))
    for column, points in enumerate(several):
        assert all(min(points) <= step <= max(points) for step in steps)
        for step, value in zip(steps, values[:, column], strict=True):
            below, above = (max(s for s in points if s <= step), min(s for s in points if s >= step))
            share = 0.0 if above == below else (step - below) / (above - below)
            assert value == pytest.approx((1 - share) * points[below] + share * points[above], abs=1e-9)


def test_a_plot_has_the_mean_and_its_band(tmp_path: Path) -> None:
    several = group({10: 0.0, 20: 4.0, 30: 9.0}, {10: 2.0, 20: 8.0}, {10: 4.0, 20: 6.0})
    [line] = plot_curves([several], tmp_path / "curves.png")
    assert line["steps"] == [10, 20]
    assert line["mean"] == [2.0, 6.0]
    assert (line["low"], line["high"]) == ([0.0, 4.0], [4.0, 8.0])
    assert line["seeds"] == [0, 1, 2]
    [line] = plot_curves([several], tmp_path / "curves.png", band="std")
    deviation = np.sqrt(8 / 3)
    assert line["low"] == pytest.approx([2 - deviation, 6 - deviation])
    assert line["high"] == pytest.approx([2 + deviation, 6 + deviation])
    [line] = plot_curves([several], tmp_path / "curves.png", band="none")
    assert line["low"] == line["high"] == line["mean"]


def test_runs_that_share_no_steps_are_refused(tmp_path: Path) -> None:
    apart = group({10: 0.0, 20: 4.0}, {30: 2.0, 40: 8.0})
    with pytest.raises(RunError, match=r"steps in common, got runs/0 from 10 to 20; runs/1 from 30 to 40; leave"):
        plot_curves([apart], tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_the_iqm_over_steps_is_drawn(tmp_path: Path, pixels: Callable[[Path], Any]) -> None:
    path = tmp_path / "curves.png"
    plot_sample_efficiency([group({10: 0.0, 20: 4.0}, {10: 2.0, 20: 8.0})], path, np.random.default_rng(0))
    with_band = pixels(path)
    plot_sample_efficiency([group({10: 1.0, 20: 6.0})], path, np.random.default_rng(0))
    assert (pixels(path) != with_band).any()
