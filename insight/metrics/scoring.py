"""Test-set evaluation: score a model on data that neither training nor model selection used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from torso.envs import Dataset
from torso.errors import ConfigError
from torso.insight.metrics.classification import (
    ClassificationMetrics,
    RegressionMetrics,
    classification_metrics,
    regression_metrics,
)
from torso.insight.metrics.text_tables import formatted
from torso.nets import Predictor

_SCORE_ROWS = 1024  # examples in one forward


class EvaluationScores(NamedTuple):
    """Test figures for summary.json, and the full metrics (None where there are no examples)."""

    figures: dict[str, Any]
    metrics: ClassificationMetrics | RegressionMetrics | None


def compute_readout(predictor: Predictor, inputs: NDArray[Any]) -> NDArray[np.float32]:
    """Compute the readout of many inputs in batches. inputs: as `Predictor.prepare` takes them; returns [N, K]."""
    rows = range(0, len(inputs), _SCORE_ROWS)
    return np.concatenate(
        [predictor.run(predictor.prepare(inputs[first : first + _SCORE_ROWS])) for first in rows]
        or [_empty_readout(predictor)]
    )


def score_on_test(predictor: Predictor, test: Dataset) -> EvaluationScores:
    """Score a model, as it is served, on test data.

    Classifiers: num_test, test_errors, test_accuracy, test_loss (nats; of the calibrated probabilities where there is
    a calibration), and num_unknown_labels where rows have labels that the model does not know, whose names come after
    the model's: these rows are errors, and count for nothing else. Regressors: num_test, test_rmse, test_r2.

    Raises:
        ConfigError: the model's kind, or the first of its labels, are not the data's.
    """
    kind = "regressor" if test.task == "regression" else "classifier"
    if predictor.kind != kind:
        raise ConfigError(f"the model is a {predictor.kind}, {test.name} is data for a {kind}")
    require_known_labels(predictor, test)
    return _score_classifier(predictor, test) if kind == "classifier" else _score_regressor(predictor, test)


def score_text(figures: Mapping[str, Any]) -> str:
    """Format the figures of `score_on_test` as a line."""
    num_test = f"{figures['num_test']:,}"
    if "test_accuracy" in figures:
        errors = "no" if figures["test_errors"] is None else f"{figures['test_errors']}"
        return f"test accuracy {formatted(figures['test_accuracy'], '.2%')} ({errors} errors in {num_test})"
    rmse = formatted(figures["test_rmse"], ",.4g")
    return f"test R² {formatted(figures['test_r2'], '.4f')}, root mean squared error {rmse} ({num_test} examples)"


def require_known_labels(predictor: Predictor, data: Dataset) -> None:
    """Check that the data's labels are the model's; a classifier's may be followed by others, which it does not know.

    Raises:
        ConfigError: other labels.
    """
    known, names = tuple(map(str, predictor.labels)), tuple(map(str, data.label_names))
    if (names[: len(known)] if predictor.kind == "classifier" else names) != known:
        raise ConfigError(f"the model knows the labels {predictor.labels}, {data.name} has {data.label_names}")


def _score_classifier(predictor: Predictor, test: Dataset) -> EvaluationScores:
    known = np.flatnonzero(test.labels < predictor.num_outputs)
    num_unknown = len(test) - len(known)
    figures: dict[str, Any] = {"num_test": len(test), "test_errors": None, "test_accuracy": None, "test_loss": None}
    if num_unknown:
        figures["num_unknown_labels"] = num_unknown
    metrics = None
    errors = num_unknown
    if len(known):
        labels = test.labels[known]
        readout = compute_readout(predictor, test.inputs[known])
        probabilities = predictor.probabilities(readout).astype(np.float64) if predictor.probabilistic else None
        predicted = (readout if probabilities is None else probabilities).argmax(axis=1)
        names = test.label_names[: predictor.num_outputs]
        metrics = classification_metrics(probabilities, labels, label_names=names, predicted=predicted)
        errors += int((predicted != labels).sum())
        exact = predictor.card.calibration is None
        figures["test_loss"] = _cross_entropy(readout, labels) if exact else metrics.cross_entropy
    if len(test):
        figures |= {"test_errors": errors, "test_accuracy": 1 - errors / len(test)}
        if not predictor.probabilistic:
            del figures["test_loss"]
    return EvaluationScores(figures, metrics)


def _cross_entropy(readout: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Compute the mean cross-entropy in nats from the logits, exact where a probability underflows."""
    logits = readout.astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    chosen = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return float((np.log(np.exp(logits).sum(axis=1)) - chosen).mean())


def _score_regressor(predictor: Predictor, test: Dataset) -> EvaluationScores:
    if len(test) == 0:
        return EvaluationScores({"num_test": 0, "test_rmse": None, "test_r2": None}, None)
    metrics = regression_metrics(compute_readout(predictor, test.inputs), test.labels, target_names=test.label_names)
    return EvaluationScores({"num_test": len(test), "test_rmse": metrics.rmse, "test_r2": metrics.r2}, metrics)


def _empty_readout(predictor: Predictor) -> NDArray[np.float32]:
    return np.zeros((0, predictor.num_outputs), dtype=np.float32)
