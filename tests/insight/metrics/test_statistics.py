"""Statistics over seeds: values worked by hand; SciPy, exact enumeration and, where installed, rliable as oracles."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, trim_mean

from torso.errors import ConfigError, InputError
from torso.insight.metrics.statistics import (
    bootstrap_interval,
    interquartile_mean,
    mean_score,
    median_score,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    sample_efficiency,
)

numbers = st.floats(-1e6, 1e6)
matrices = st.integers(1, 6).flatmap(
    lambda seeds: st.lists(st.lists(numbers, min_size=seeds, max_size=seeds), min_size=1, max_size=5)
)


def generator() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([[3.0]], 3.0),
        ([[1.0, 2.0, 6.0]], 3.0),  # of three, none is a quarter
        ([[0.0, 1.0, 2.0, 9.0]], 1.5),
        ([[0.0, 1.0, 2.0, 3.0, 100.0]], 2.0),  # of five, one at each end
        ([[100.0, 0.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]], 3.5),  # pooled: 0 1 and 6 100 are left out
    ],
)
def test_interquartile_mean_by_hand(scores: Any, expected: float) -> None:
    assert interquartile_mean(scores) == expected


def test_mean_and_median_weigh_tasks_alike() -> None:
    scores = [[1.0, 3.0], [10.0], [0.0, 0.0, 6.0]]  # means 2, 10, 2
    assert mean_score(scores) == pytest.approx(14 / 3)
    assert median_score(scores) == 2.0


def test_optimality_gap_by_hand() -> None:
    assert optimality_gap([[0.5, 2.0], [-1.0, 1.0]]) == 0.625  # 1 less the mean of 0.5, 1, -1, 1
    assert optimality_gap([[0.5, 2.0]], target=2.0) == 0.75
    assert optimality_gap([[3.0, 4.0]]) == 0.0


def test_probability_of_improvement_by_hand() -> None:
    # Pairs: 1 > 0, 1 = 1, 3 > 0, 3 > 1: three and a half of four; in the second task one of two.
    assert probability_of_improvement([[1.0, 3.0]], [[0.0, 1.0]]) == 0.875
    assert probability_of_improvement([[1.0, 3.0], [5.0]], [[0.0, 1.0], [4.0, 6.0]]) == (0.875 + 0.5) / 2
    assert probability_of_improvement([[2.0, 2.0]], [[2.0]]) == 0.5


def test_performance_profile_by_hand() -> None:
    scores = [[0.0, 1.0], [1.0, 1.0, 2.0, 3.0]]
    found = performance_profile(scores, [-1.0, 0.0, 1.0, 3.0])
    assert found.tolist() == [1.0, 0.75, 0.25, 0.0]  # more than, not at least


@given(matrices)
def test_values_are_those_of_scipy_and_numpy(scores: list[list[float]]) -> None:
    matrix = np.array(scores)  # [tasks, seeds]
    scale = 1 + np.abs(matrix).max()
    assert interquartile_mean(scores) == pytest.approx(trim_mean(matrix, 0.25, axis=None), abs=1e-9 * scale)
    assert mean_score(scores) == pytest.approx(matrix.mean(), abs=1e-9 * scale)
    assert median_score(scores) == pytest.approx(np.median(matrix.mean(axis=1)), abs=1e-9 * scale)
    assert optimality_gap(scores) == pytest.approx(1 - np.minimum(matrix, 1).mean(), abs=1e-9 * scale)


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=6),
    st.lists(st.integers(0, 4), min_size=1, max_size=6),
)
def test_improvement_is_mann_whitneys_u(first: list[int], second: list[int]) -> None:
    found = probability_of_improvement([first], [second])
    u = mannwhitneyu(first, second, method="asymptotic").statistic
    assert found == pytest.approx(u / (len(first) * len(second)))
    assert found + probability_of_improvement([second], [first]) == pytest.approx(1.0)


@given(matrices)
def test_leading_axes_are_kept(scores: list[list[float]]) -> None:
    stacked = [np.stack([task, 2 * np.array(task)]) for task in scores]  # [2, seeds] a task
    doubled = [2 * np.array(task) for task in scores]
    for statistic in (interquartile_mean, mean_score, median_score, optimality_gap):
        found = statistic(stacked)
        assert found.shape == (2,)
        assert found == pytest.approx(np.array([statistic(scores), statistic(doubled)]))
    profile = performance_profile(stacked, [0.0, 1.0, 2.0])
    assert profile.shape == (3, 2)
    assert profile[:, 1].tolist() == performance_profile(doubled, [0.0, 1.0, 2.0]).tolist()


def test_an_interval_is_that_of_all_resamples() -> None:
    """Of few seeds, all resamples can be listed: the bootstrap's percentiles are those of the list, up to chance."""
    scores = [[0.0, 1.0, 5.0, 7.0], [2.0, 4.0, 9.0]]
    listed = [
        trim_mean([*one, *other], 0.25)
        for one in product(scores[0], repeat=4)
        for other in product(scores[1], repeat=3)
    ]
    assert len(listed) == 4**4 * 3**3
    low, high = bootstrap_interval(interquartile_mean, scores, rng=generator(), resamples=40_000)
    # Where chance may put the percentiles of 40,000 resamples: within a quarter of a percent, seven deviations.
    assert np.percentile(listed, 2.2) <= low <= np.percentile(listed, 2.8)
    assert np.percentile(listed, 97.2) <= high <= np.percentile(listed, 97.8)
    low, high = bootstrap_interval(interquartile_mean, scores, rng=generator(), confidence=0.5, resamples=40_000)
    assert np.percentile(listed, 23.5) <= low <= np.percentile(listed, 26.5)
    assert np.percentile(listed, 73.5) <= high <= np.percentile(listed, 76.5)


def test_a_bootstrap_is_stratified() -> None:
    """Seeds are resampled within their task: where those of a task are equal, nothing varies."""
    low, high = bootstrap_interval(mean_score, [[1.0, 1.0, 1.0], [9.0, 9.0]], rng=generator())
    assert (low, high) == (5.0, 5.0)
    low, high = bootstrap_interval(mean_score, [[1.0], [9.0]], rng=generator())
    assert (low, high) == (5.0, 5.0)


def test_a_generator_decides_on_an_interval() -> None:
    scores = np.random.default_rng(0).normal(size=(2, 5))
    first, again, other = (
        bootstrap_interval(interquartile_mean, scores, rng=np.random.default_rng(seed), resamples=500)
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other
    assert first[0] < interquartile_mean(scores) < first[1]


def test_two_groups_are_resampled_independently() -> None:
    same = [[0.0, 1.0]]
    low, high = bootstrap_interval(probability_of_improvement, same, same, rng=generator())
    assert (low, high) == (0.0, 1.0)  # 1 in 16 resamples each has {1, 1} against {0, 0}


def test_intervals_of_a_profile_have_its_shape() -> None:
    scores = np.random.default_rng(0).normal(size=(3, 5))
    levels = np.linspace(-2, 2, 9)
    low, high = bootstrap_interval(
        lambda each: performance_profile(each, levels), scores, rng=generator(), resamples=300
    )
    profile = performance_profile(scores, levels)
    assert low.shape == high.shape == (9,)
    assert (low <= profile).all()
    assert (profile <= high).all()
    assert (low < high).any()


def test_sample_efficiency_is_the_iqm_at_each_step() -> None:
    rng = np.random.default_rng(3)
    curves = [rng.normal(size=(4, 5)), rng.normal(size=(4, 3))]  # [steps, seeds]
    iqm, low, high = sample_efficiency(curves, rng=generator(), resamples=400)
    assert iqm.tolist() == [interquartile_mean([task[step] for task in curves]) for step in range(4)]
    for step in range(4):  # whole runs are resampled: the draws are the same at each step
        each = bootstrap_interval(interquartile_mean, [task[step] for task in curves], rng=generator(), resamples=400)
        assert (low[step], high[step]) == each


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([], "at least 1 task, got none"),
        ([[1.0], []], r"at least 1 seed in each task, got shape \(0,\)"),
        ([1.0, 2.0], r"at least 1 seed in each task, got shape \(\)"),
        (np.zeros(3), r"an array of seeds for each task, got one array of shape \(3,\)"),
        ([[1.0, float("nan")]], "finite numbers, got NaN or infinity"),
        ([np.zeros((2, 3)), np.zeros((3, 3))], "the same leading axes in each task"),
        ([["high"]], "an array of numbers for each task"),
    ],
)
def test_scores_that_are_none_are_refused(scores: Any, message: str) -> None:
    for statistic in (interquartile_mean, mean_score, median_score, optimality_gap):
        with pytest.raises(InputError, match=f"scores must be .*{message}"):
            statistic(scores)


def test_mistakes_of_a_bootstrap_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"confidence must be above 0 and below 1, got 95"):
        bootstrap_interval(mean_score, [[1.0, 2.0]], rng=generator(), confidence=95)
    with pytest.raises(ConfigError, match="resamples must be at least 1, got 0"):
        bootstrap_interval(mean_score, [[1.0, 2.0]], rng=generator(), resamples=0)
    with pytest.raises(ConfigError, match="statistic must keep the leading axes, here 10 resamples"):
        bootstrap_interval(lambda scores: np.mean(scores[0]), [[1.0, 2.0]], rng=generator(), resamples=10)
    with pytest.raises(InputError, match="second must be scores of the 1 tasks of first, got 2 tasks"):
        probability_of_improvement([[1.0]], [[1.0], [2.0]])
    with pytest.raises(InputError, match="thresholds must be a row of finite numbers"):
        performance_profile([[1.0]], 3.0)
    with pytest.raises(InputError, match=r"curves must be arrays \[steps, seeds\]"):
        sample_efficiency([[1.0, 2.0]], rng=generator())


def test_rliable_gives_the_same() -> None:
    """The package of the paper's authors, where it is installed; it is no dependency of torso."""
    library = pytest.importorskip("rliable.library", reason="rliable is not installed: pip install rliable 'pandas<3'")
    metrics = pytest.importorskip("rliable.metrics", reason="rliable is not installed: pip install rliable 'pandas<3'")
    rng = np.random.default_rng(11)
    ours, theirs = rng.gamma(2.0, size=(4, 5)), rng.gamma(1.5, size=(4, 7))  # [tasks, seeds]; rliable's are transposed
    assert interquartile_mean(ours) == pytest.approx(metrics.aggregate_iqm(ours.T))
    assert mean_score(ours) == pytest.approx(metrics.aggregate_mean(ours.T))
    assert median_score(ours) == pytest.approx(metrics.aggregate_median(ours.T))
    assert optimality_gap(ours) == pytest.approx(metrics.aggregate_optimality_gap(ours.T))
    assert probability_of_improvement(ours, theirs) == pytest.approx(
        metrics.probability_of_improvement(ours.T, theirs.T)
    )
    levels = np.linspace(0, 4, 21)
    profiles, _ = library.create_performance_profile({"ours": ours.T}, levels, reps=10)
    assert performance_profile(ours, levels) == pytest.approx(profiles["ours"])
    _, bounds = library.get_interval_estimates(
        {"ours": ours.T}, lambda scores: np.array([metrics.aggregate_iqm(scores)]), reps=20_000
    )
    found = bootstrap_interval(interquartile_mean, ours, rng=generator(), resamples=20_000)
    assert np.array(found) == pytest.approx(bounds["ours"][:, 0], abs=0.03)  # two samples of one distribution
