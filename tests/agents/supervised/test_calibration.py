"""Calibration fits: against independent fits, on classifiers whose truth is known, and inputs that are refused."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from torso.agents.supervised.calibration import fit_calibration
from torso.errors import ConfigError, InputError
from torso.insight.metrics.classification import classification_metrics
from torso.insight.metrics.reliability import Reliability, plot_reliability, reliability
from torso.nets.specs.calibration import Calibration, TemperatureScaling

METHODS = ("temperature", "platt", "isotonic")


def drawn(rng: np.random.Generator, rows: int, num_classes: int, spread: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels that are drawn from their softmax: calibrated as they are."""
    logits = rng.normal(size=(rows, num_classes)) * spread
    shares = softmax(logits)
    labels = (shares.cumsum(axis=1) < rng.random((rows, 1))).sum(axis=1).clip(max=num_classes - 1)
    return logits, labels


def softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


# -- each method against an independent answer -------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("factor", [0.2, 1.0, 30.0])
def test_temperature_undoes_a_factor(num_classes: int, factor: float) -> None:
    logits, labels = drawn(np.random.default_rng(0), 4000, num_classes)
    base = fit_calibration("temperature", logits, labels).to_json()["temperature"]
    assert base == pytest.approx(1.0, abs=0.08)
    scaled = fit_calibration("temperature", logits * factor, labels).to_json()["temperature"]
    assert scaled == pytest.approx(base * factor, rel=1e-5)


def test_temperature_has_the_least_cross_entropy_of_a_grid() -> None:
    logits, labels = drawn(np.random.default_rng(1), 300, 4)
    logits *= 3

    def loss(temperature: float) -> float:
        return float(-np.log(softmax(logits / temperature))[np.arange(300), labels].mean())

    fitted = fit_calibration("temperature", logits, labels).to_json()["temperature"]
    assert loss(fitted) <= min(map(loss, np.geomspace(0.3, 30, 2001)))


def test_temperature_at_huge_logits() -> None:
    logits, labels = drawn(np.random.default_rng(2), 500, 3)
    assert fit_calibration("temperature", logits * 1000, labels).to_json()["temperature"] == pytest.approx(
        1000, rel=0.2
    )


def test_a_classifier_without_mistakes_is_not_made_surer() -> None:
    labels = np.arange(60) % 3
    logits = np.eye(3)[labels] * 4.0
    assert fit_calibration("temperature", logits, labels).to_json()["temperature"] == pytest.approx(1.0)
    logits[0] = [0.0, 1.0, 0.0]
    assert fit_calibration("temperature", logits, labels).to_json()["temperature"] < 1.0


def smoothed_logistic_regression(score: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """Platt's fit by scikit-learn: each row once as positive and once as negative, weighted by its target."""
    num_positive, num_negative = positive.sum(), (~positive).sum()
    target = np.where(positive, (num_positive + 1) / (num_positive + 2), 1 / (num_negative + 2))
    model = LogisticRegression(C=1e12, tol=1e-10, max_iter=10_000)
    model.fit(np.tile(score, 2)[:, None], np.repeat([1, 0], len(score)), np.r_[target, 1 - target])
    return model.coef_[0, 0], model.intercept_[0]


def test_platt_of_two_classes_equals_logistic_regression() -> None:
    logits, labels = drawn(np.random.default_rng(3), 400, 2)
    data = fit_calibration("platt", logits * [1.0, 4.0] + 1, labels).to_json()
    margin = logits[:, 1] * 4 - logits[:, 0]
    slope, intercept = smoothed_logistic_regression(margin, labels == 1)
    assert data["slopes"] == pytest.approx([slope], rel=1e-4)
    assert data["intercepts"] == pytest.approx([intercept], rel=1e-3)


def test_platt_of_more_classes_equals_logistic_regressions_of_their_log_odds() -> None:
    logits, labels = drawn(np.random.default_rng(4), 400, 3)
    data = fit_calibration("platt", logits * 2, labels).to_json()
    shares = softmax(logits * 2)
    for k in range(3):
        expected = smoothed_logistic_regression(np.log(shares[:, k] / (1 - shares[:, k])), labels == k)
        assert (data["slopes"][k], data["intercepts"][k]) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic"])
def test_a_row_of_weight_3_counts_as_three(method: str) -> None:
    """Platt's smoothed targets depend on the number of rows a little."""
    logits, labels = drawn(np.random.default_rng(5), 400, 3)
    counts = np.random.default_rng(6).integers(1, 5, size=400)
    weighted = fit_calibration(method, logits, labels, counts).apply(logits)
    repeated = fit_calibration(method, np.repeat(logits, counts, axis=0), np.repeat(labels, counts)).apply(logits)
    np.testing.assert_allclose(weighted, repeated, atol=0.02 if method == "platt" else 1e-6)
    assert np.abs(weighted - fit_calibration(method, logits, labels).apply(logits)).max() > 1e-3
    half = fit_calibration(method, logits, labels, counts / 2).apply(logits)
    np.testing.assert_allclose(half, weighted, atol=1e-9)


@pytest.mark.parametrize("weights", [np.ones(9), np.zeros(10), np.full(10, np.nan), -np.ones(10)], ids=repr)
def test_weights_that_cannot_be_calibrated_by(weights: np.ndarray) -> None:
    with pytest.raises(InputError, match="weights must be 10 finite numbers above 0"):
        fit_calibration("temperature", np.eye(10), np.arange(10), weights)


def test_platt_by_hand_of_one_score() -> None:
    readout = np.zeros((10, 2))  # says nothing: the intercept alone, at the mean of the smoothed targets
    labels = np.array([1] * 8 + [0] * 2)
    data = fit_calibration("platt", readout, labels).to_json()
    mean = (8 * 9 / 10 + 2 * 1 / 4) / 10
    assert data["intercepts"] == pytest.approx([math.log(mean / (1 - mean))], rel=1e-6)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-30, 1e-3, 1.0, 1e3, 1e30]), st.booleans())
def test_platt_is_at_the_bottom_whatever_the_scale(seed: int, scale: float, outlier: bool) -> None:
    """By the Newton decrement, which is twice what another step would still gain."""
    rng = np.random.default_rng(seed)
    margin = rng.normal(size=40) * rng.choice([1, 20])
    labels = np.r_[0, 1, (margin[2:] + rng.normal(size=38) > 0)].astype(int)
    if outlier:
        margin[5] = 200 * (1 if labels[5] else -1)
    data = fit_calibration("platt", np.stack([np.zeros(40), margin * scale], axis=1), labels).to_json()
    num_positive = labels.sum()
    target = np.where(labels, (num_positive + 1) / (num_positive + 2), 1 / (42 - num_positive))
    share = 1 / (1 + np.exp(-(data["slopes"][0] * scale * margin + data["intercepts"][0])))
    design = np.stack([margin, np.ones(40)], axis=1)
    gradient = design.T @ (share - target) / 40
    hessian = (design * (share * (1 - share))[:, None]).T @ design / 40
    assert gradient @ np.linalg.solve(hessian, gradient) < 1e-12


def test_platt_of_separated_classes_is_finite_and_smoothed() -> None:
    labels = np.repeat([0, 1], 10)
    readout = np.stack([np.zeros(20), np.where(labels, 1000.0, -1000.0)], axis=1)
    got = fit_calibration("platt", readout, labels).apply(readout)[:, 1]
    np.testing.assert_allclose(got, np.where(labels, 11 / 12, 1 / 12), rtol=1e-6)


def test_isotonic_of_two_classes_equals_scikit_learns() -> None:
    logits, labels = drawn(np.random.default_rng(5), 300, 2)
    calibration = fit_calibration("isotonic", logits, labels)
    oracle = IsotonicRegression(out_of_bounds="clip").fit(logits[:, 1] - logits[:, 0], labels)
    fresh = np.random.default_rng(6).normal(size=(200, 2)) * 6
    expected = oracle.predict(fresh[:, 1] - fresh[:, 0])
    np.testing.assert_allclose(calibration.apply(fresh)[:, 1], expected, rtol=1e-12, atol=1e-15)


def test_isotonic_by_hand() -> None:
    """Pool adjacent violators: 0 | 1 0 | 1, in tens; the middle two pool to a half."""
    margin = np.repeat([-2.0, -1.0, 1.0, 2.0], 10)
    labels = np.repeat([0, 1, 0, 1], 10)
    calibration = fit_calibration("isotonic", np.stack([np.zeros(40), margin], axis=1), labels)
    margins = np.array([-5.0, -2.0, -1.5, -1.0, 0.0, 1.0, 1.5, 2.0, 5.0])
    got = calibration.apply(np.stack([np.zeros(9), margins], axis=1))[:, 1]
    np.testing.assert_allclose(got, [0, 0, 0.25, 0.5, 0.5, 0.5, 0.75, 1, 1], atol=1e-15)


# -- what a calibration is for -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_classes", [2, 4])
def test_an_overconfident_classifier_is_mended_on_fresh_rows(method: str, num_classes: int) -> None:
    rng = np.random.default_rng(7)
    held_out, held_out_labels = drawn(rng, 3000, num_classes)
    fresh, labels = drawn(rng, 3000, num_classes)
    calibration = fit_calibration(method, held_out * 4, held_out_labels)
    before, after = softmax(fresh * 4), calibration.apply(fresh * 4)
    assert reliability(before, labels).ece > 0.1
    assert reliability(after, labels).ece < 0.04
    assert reliability(after, labels).brier < reliability(before, labels).brier
    metrics = [classification_metrics(shares, labels) for shares in (before, after)]
    assert metrics[1].cross_entropy < metrics[0].cross_entropy
    if method == "temperature":
        np.testing.assert_array_equal(before.argmax(axis=1), after.argmax(axis=1))
    assert abs(metrics[1].accuracy - metrics[0].accuracy) < 0.02


@pytest.mark.parametrize("method", METHODS)
@given(seed=st.integers(0, 2**32 - 1), num_classes=st.integers(2, 4), scale=st.sampled_from([1e-3, 1.0, 1000.0, 1e38]))
@settings(max_examples=25)
def test_every_fit_is_a_map_that_json_can_hold(method: str, seed: int, num_classes: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    readout = (rng.normal(size=(24, num_classes)).round(1) * scale).clip(-3e38, 3e38).astype(np.float32)
    labels = np.r_[np.arange(num_classes), rng.integers(num_classes, size=24 - num_classes)]
    calibration = fit_calibration(method, readout, labels)
    assert calibration.method == method
    assert Calibration.from_json(json.loads(json.dumps(calibration.to_json(), allow_nan=False))) == calibration
    np.testing.assert_allclose(calibration.apply(readout).sum(axis=1), 1, rtol=1e-12)


# -- what is refused ---------------------------------------------------------------------------------------------------

READOUT, LABELS = np.random.default_rng(0).normal(size=(12, 3)), np.arange(12) % 3


@pytest.mark.parametrize(
    ("readout", "labels", "message"),
    [
        (READOUT[0], LABELS, "readout must be floats [N, K]"),
        (READOUT[:, :1], LABELS, "K >= 2"),
        (READOUT.astype(int), LABELS, "readout must be floats"),
        (np.full((12, 3), np.nan), LABELS, "readout must be finite numbers"),
        (READOUT[:9], LABELS[:9], "readout must be at least 10 rows to calibrate on, got 9"),
        (READOUT, LABELS[:9], "labels must be 12 classes, one per example, got 9"),
        (READOUT, LABELS + 1, "labels must be classes below 3, got 3"),
        (READOUT, LABELS - 1, "labels must be classes from 0"),
        (READOUT, LABELS / 2, "labels must be whole numbers"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_what_does_not_fit_is_refused(method: str, readout: Any, labels: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        fit_calibration(method, readout, labels)


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_a_missing_class_is_named(method: str) -> None:
    with pytest.raises(InputError, match=r"labels must be of every class .* got none of class 1; hold more rows back"):
        fit_calibration(method, READOUT, np.where(LABELS == 1, 2, LABELS))


def test_temperature_needs_no_example_of_every_class() -> None:
    fit_calibration("temperature", READOUT, np.where(LABELS == 1, 2, LABELS))


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ConfigError, match="calibration must be one of platt, isotonic, temperature; got 'beta'"):
        fit_calibration("beta", READOUT, LABELS)


# -- reliability -------------------------------------------------------------------------------------------------------


def test_reliability_by_hand() -> None:
    shares = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.7, 0.3]])
    found = reliability(shares, [0, 1, 1, 0], bins=4)
    assert found.edges == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert found.counts == (0, 0, 2, 2)
    assert found.confidence[:2] == found.accuracy[:2] == (None, None)
    assert found.confidence[2:] == pytest.approx((0.65, 0.85))
    assert found.accuracy[2:] == (1.0, 0.5)
    assert found.ece == pytest.approx((0.35 + 0.35) / 2)
    assert found.brier == pytest.approx((2 * 0.1**2 + 2 * 0.8**2 + 2 * 0.4**2 + 2 * 0.3**2) / 4)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False)) == found.to_json()


def test_a_bin_holds_its_upper_edge() -> None:
    found = reliability([[0.5, 0.5], [1.0, 0.0], [0.75, 0.25]], [0, 0, 0], bins=4)
    assert found.counts == (0, 1, 1, 1)


def test_certain_and_right_is_perfect_certain_and_wrong_the_worst() -> None:
    shares = np.eye(3)[[0, 1, 2, 0]]
    best, worst = reliability(shares, [0, 1, 2, 0]), reliability(shares, [1, 2, 0, 1])
    assert (best.ece, best.brier) == (0.0, 0.0)
    assert (worst.ece, worst.brier) == (1.0, 2.0)


def test_a_calibrated_classifier_has_a_small_error() -> None:
    logits, labels = drawn(np.random.default_rng(8), 20_000, 5)
    assert reliability(softmax(logits), labels).ece < 0.015


@given(st.integers(0, 2**32 - 1), st.integers(1, 20))
def test_bins_leave_no_example_out(seed: int, bins: int) -> None:
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(3, 0.3), size=30)
    labels = rng.integers(3, size=30)
    found = reliability(shares, labels, bins=bins)
    assert len(found.counts) == len(found.accuracy) == len(found.edges) - 1 == bins
    assert sum(found.counts) == 30
    right = sum(n * a for n, a in zip(found.counts, found.accuracy, strict=True) if a is not None)
    assert right == pytest.approx(classification_metrics(shares, labels).accuracy * 30)


@pytest.mark.parametrize(
    ("labels", "bins", "error", "message"),
    [
        ([0, 1], 0, ConfigError, "bins must be a whole number of at least 1, got 0"),
        ([0, 1], 2.5, ConfigError, "bins must be a whole number"),
        ([0, 2], 5, InputError, "labels must be classes below 2, got 2"),
        ([0], 5, InputError, r"probabilities must be floats \[1, K\]"),
    ],
)
def test_a_reliability_that_cannot_be(labels: Any, bins: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        reliability([[0.5, 0.5], [0.1, 0.9]], labels, bins=bins)


def test_reliability_is_drawn(tmp_path: Path) -> None:
    logits, labels = drawn(np.random.default_rng(9), 500, 4)
    before, after = (reliability(softmax(logits * factor), labels) for factor in (4, 1))
    path = tmp_path / "reliability.png"
    assert plot_reliability(path, {"after": after}) == path
    alone = imread(path)[..., :3]
    plot_reliability(path, {"before": before, "after": after})
    both = imread(path)[..., :3]
    plot_reliability(path, {"before": after, "after": after})
    others = imread(path)[..., :3]
    assert both.shape == others.shape
    assert both.shape[1] > alone.shape[1]
    left, right = (slice(0, both.shape[1] // 2 - 40), slice(both.shape[1] // 2 + 40, None))
    assert (both[:, left] != others[:, left]).mean() > 0.01
    assert (both[:600, right] == others[:600, right]).mean() > 0.9
    assert list(tmp_path.iterdir()) == [path]


def test_a_picture_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one Reliability"):
        plot_reliability(tmp_path / "x.png", {})


def test_one_certain_bin_is_drawn(tmp_path: Path) -> None:
    sure: Reliability = reliability(TemperatureScaling(num_classes=2, temperature=1).apply([[-1000.0, 1000.0]]), [1])
    assert imread(plot_reliability(tmp_path / "x.png", {"sure": sure})).shape[0] > 300
