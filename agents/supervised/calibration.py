"""Fit a calibration of a classifier's probabilities: temperature scaling, Platt scaling or isotonic regression.

Fit it on examples that nothing was learnt from (validation data): on its training data a classifier is overconfident.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import logsumexp
from sklearn.isotonic import IsotonicRegression

from torso.arrays import Floats, Ints
from torso.errors import ConfigError, InputError
from torso.insight.metrics.classification import as_indices
from torso.nets.specs.calibration import (
    CALIBRATION_METHODS,
    LARGEST_READOUT,
    Calibration,
    IsotonicCalibration,
    PlattScaling,
    TemperatureScaling,
    class_scores,
)
from torso.plain import shown

MIN_ROWS = 10  # fewer are no evidence about probabilities
_TEMPERATURES = (1e-2, 1e4)


def fit_calibration(
    method: str, readout: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None
) -> Calibration:
    """Fit a calibration of a classifier's readout to true labels.

    method: temperature, platt or isotonic. Temperature scaling has one parameter and changes no label; Platt's has two
    a class; isotonic regression has as many as the data allow and wants about a thousand rows. readout: [N, K] finite
    floats, whose softmax are the probabilities as they are. labels: int [N] in [0, K). weights: [N], above 0, of the
    rows; None: equal. A row of weight 2 counts as two beside those of weight 1.

    Raises:
        ConfigError: an unknown method.
        InputError: arrays that do not fit one another, fewer than 10 rows; for Platt's and isotonic, which fit each
            class against the rest, a class that no row has.
    """
    fits = {"platt": _fit_platt, "isotonic": _fit_isotonic, "temperature": _fit_temperature}
    if method not in fits:
        raise ConfigError(f"calibration must be one of {', '.join(CALIBRATION_METHODS)}; got {method!r}")
    logits = np.asarray(readout)
    if logits.ndim != 2 or logits.dtype.kind != "f" or logits.shape[1] < 2:
        raise InputError("readout", expected="floats [N, K] with K >= 2", got=f"{logits.dtype} {list(logits.shape)}")
    if not np.isfinite(logits).all():
        raise InputError("readout", expected="finite numbers", got="NaN or infinity")
    truth = as_indices("labels", labels, len(logits))
    require_calibratable(method, truth, logits.shape[1])
    logits = np.clip(logits.astype(np.float64), -LARGEST_READOUT, LARGEST_READOUT)
    return fits[method](logits, truth, _normalised_weights(weights, len(truth)))


def _normalised_weights(weights: ArrayLike | None, num_rows: int) -> Floats:
    """Return weights of mean 1, [N] float64."""
    if weights is None:
        return np.ones(num_rows)
    array = np.asarray(weights, np.float64)
    if array.shape != (num_rows,) or not np.isfinite(array).all() or (array <= 0).any():
        raise InputError("weights", expected=f"{num_rows} finite numbers above 0", got=f"{shown(weights)}")
    normalised: Floats = array / array.mean()
    return normalised


def require_calibratable(method: str, labels: Ints, num_classes: int) -> None:
    """Check that a calibration can be fitted on labels; a fit calls it before it begins. labels: int64 [N].

    Raises:
        InputError: as `fit_calibration`.
    """
    if len(labels) < MIN_ROWS:
        raise InputError("readout", expected=f"at least {MIN_ROWS} rows to calibrate on", got=str(len(labels)))
    if labels.max() >= num_classes:
        raise InputError("labels", expected=f"classes below {num_classes}", got=str(labels.max()))
    missing = sorted(set(range(num_classes)) - set(labels.tolist()))
    if missing and method != "temperature":
        raise InputError(
            "labels",
            expected=f"of every class among the rows that {method} calibration is fitted on",
            got=f"none of class {missing[0]}; hold more rows back, or use method temperature",
        )


def _fit_temperature(logits: Floats, truth: Ints, weights: Floats) -> Calibration:
    """Fit the temperature that makes the labels most probable (Guo et al. 2017).

    Where every row is labelled right, the lower the better and no evidence against certainty: then it stays at least 1.
    """
    chosen = np.take_along_axis(logits, truth[:, np.newaxis], axis=1)[:, 0]
    lowest, highest = _TEMPERATURES
    if (chosen >= logits.max(axis=1)).all():
        lowest = 1.0

    def loss(log_temperature: float) -> float:
        beta = math.exp(-log_temperature)
        return float(np.mean(weights * (logsumexp(logits * beta, axis=1) - chosen * beta)))

    bounds = (math.log(lowest), math.log(highest))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-8})
    return TemperatureScaling(num_classes=logits.shape[1], temperature=math.exp(found.x))


def _fit_platt(logits: Floats, truth: Ints, weights: Floats) -> Calibration:
    """Fit a sigmoid for each class against the rest (Platt 1999)."""
    maps = [_sigmoid_map(score, positive, weights) for score, positive in _one_vs_rest(logits, truth)]
    slopes, intercepts = zip(*maps, strict=True)
    return PlattScaling(num_classes=logits.shape[1], slopes=slopes, intercepts=intercepts)


def _sigmoid_map(score: Floats, positive: NDArray[np.bool_], weights: Floats) -> tuple[float, float]:
    """Fit slope and intercept of the sigmoid that makes smoothed labels most probable.

    score, positive: [N], with both kinds among them; weights: [N] of mean 1. The targets are Platt's: (n+ + 1) /
    (n+ + 2) for the n+ positives and 1 / (n- + 2) for the others, so that perfectly separated classes have a finite
    answer.
    """
    num_positive = float(weights[positive].sum())
    num_negative = float(weights[~positive].sum())
    target = np.where(positive, (num_positive + 1) / (num_positive + 2), 1 / (num_negative + 2))
    scale = float(np.median(np.abs(score))) or 1.0  # not the largest, which one row alone may have
    design = np.stack([score / scale, np.ones_like(score)], axis=1)  # [N, 2]

    def loss(parameters: Floats) -> float:
        odds = design @ parameters
        return float(np.mean(weights * (np.logaddexp(0.0, odds) - target * odds)))

    def gradient(parameters: Floats) -> Floats:
        slopes: Floats = design.T @ (weights * (_sigmoid(design @ parameters) - target)) / len(target)
        return slopes

    def hessian(parameters: Floats) -> Floats:
        share = _sigmoid(design @ parameters)
        curvature: Floats = (design * (weights * share * (1 - share))[:, np.newaxis]).T @ design / len(target)
        return curvature

    start = np.array([0.0, math.log((num_positive + 1) / (num_negative + 1))])
    found = minimize(loss, start, jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-8})
    return float(found.x[0]) / scale, float(found.x[1])


def _sigmoid(odds: Floats) -> Floats:
    share: Floats = np.exp(-np.logaddexp(0.0, -odds))
    return share


def _fit_isotonic(logits: Floats, truth: Ints, weights: Floats) -> Calibration:
    """Fit an isotonic regression for each class against the rest (Zadrozny & Elkan 2002)."""
    scores, values = [], []
    for score, positive in _one_vs_rest(logits, truth):
        regression = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
        fitted = regression.fit(score, positive.astype(np.float64), weights)
        scores.append(tuple(fitted.X_thresholds_.tolist()))
        values.append(tuple(np.maximum.accumulate(fitted.y_thresholds_).tolist()))  # whatever was rounded
    return IsotonicCalibration(num_classes=logits.shape[1], scores=tuple(scores), values=tuple(values))


def _one_vs_rest(logits: Floats, truth: Ints) -> list[tuple[Floats, NDArray[np.bool_]]]:
    """Scores of each class and a mask of its rows: one pair a class, and of two classes the second's alone."""
    scores = class_scores(logits)  # [N, maps]
    classes = range(1, 2) if logits.shape[1] == 2 else range(logits.shape[1])
    return [(scores[:, index], truth == label) for index, label in enumerate(classes)]
