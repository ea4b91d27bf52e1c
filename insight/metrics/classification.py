"""Classification metrics: accuracy, confusion matrix, precision, recall, F-score, ROC area, cross-entropy.

The eight metrics that Caruana & Niculescu-Mizil (2006) compare classifiers by are accuracy, F-score and lift (of a
threshold), ROC area, average precision and break-even point (of an order), squared error and cross-entropy (of
probabilities).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    roc_auc_score,
)

from torso.arrays import Floats, Ints
from torso.errors import InputError
from torso.insight.metrics.regression import RegressionMetrics, TargetMetrics, regression_metrics
from torso.insight.metrics.text_tables import figure, text_table
from torso.nets.models.card import Label, as_labels

__all__ = [
    "ClassMetrics",
    "ClassificationMetrics",
    "RegressionMetrics",
    "TargetMetrics",
    "classification_metrics",
    "regression_metrics",
]

LIFT_SHARE = 0.25  # of the examples, those with the highest scores: Caruana & Niculescu-Mizil's threshold
_MAX_CLASSES_SHOWN = 20  # in a table of K columns
_MAX_K = 5  # of top-k errors


@dataclass(frozen=True, kw_only=True)
class ClassMetrics:
    """Metrics of one class against the rest. All figures but the counts are None for a class that no example has.

    ``support`` examples have the class, ``predicted`` were labelled with it. The precision of a class that nothing
    was labelled with is 0. The figures from ``lift`` on need probabilities, and None stands in without them;
    ``roc_area`` needs an example of another class too.
    """

    label: Label
    support: int
    predicted: int
    precision: float | None = None
    recall: float | None = None
    f_score: float | None = None
    lift: float | None = None
    roc_area: float | None = None
    average_precision: float | None = None
    break_even_point: float | None = None
    squared_error: float | None = None


@dataclass(frozen=True, kw_only=True)
class ClassificationMetrics:
    """Result of `classification_metrics`. Shares lie in [0, 1]; None stands for what cannot be computed.

    ``top_k_error[k]`` is the share of examples whose label is not among the k most probable. ``confusion[i][j]``
    counts the examples of class i that were labelled j. ``cross_entropy`` is in nats.
    """

    num_examples: int
    accuracy: float
    top_k_error: Mapping[int, float]
    cross_entropy: float | None
    confusion: tuple[tuple[int, ...], ...]
    classes: tuple[ClassMetrics, ...]

    @property
    def eight(self) -> dict[str, float | None]:
        """The eight figures of Caruana & Niculescu-Mizil (2006), by name.

        Accuracy and cross-entropy are those of all classes together. Of two classes the second is the positive one,
        which the other figures describe; of more, they are the macro average over one class against the rest, over
        the classes that the labels hold. ``squared_error`` is the root of the mean (their RMS).
        """
        named = ("f_score", "lift", "roc_area", "average_precision", "break_even_point")
        averaged = self.classes[1:] if len(self.classes) == 2 else self.classes
        return {
            "accuracy": self.accuracy,
            **{name: _mean_of_known(averaged, name) for name in named},
            "squared_error": _mean_of_known(self.classes, "squared_error"),  # of two classes, one number
            "cross_entropy": self.cross_entropy,
        }

    def to_json(self) -> dict[str, Any]:
        """Return all figures as JSON-serialisable data, finite numbers or None."""
        return {
            "num_examples": self.num_examples,
            "accuracy": self.accuracy,
            "top_k_error": {str(k): error for k, error in self.top_k_error.items()},
            "cross_entropy": self.cross_entropy,
            "eight": self.eight,
            "classes": [asdict(each) for each in self.classes],
            "confusion": [list(row) for row in self.confusion],
        }

    def text(self) -> str:
        """Format the figures as text tables."""
        wrong = round((1 - self.accuracy) * self.num_examples)
        parts = [f"{self.num_examples:,} examples, {wrong:,} labelled wrong ({1 - self.accuracy:.2%})"]
        errors = ", ".join(f"{k}: {error:.2%}" for k, error in self.top_k_error.items())
        if len(self.top_k_error) > 1:
            parts[0] += f"\ntop-k error   {errors}"
        parts.append(text_table([[_TITLES[name], figure(value)] for name, value in self.eight.items()]))
        columns = ("precision", "recall", "f_score", "roc_area", "average_precision")
        rows = [
            [str(each.label), f"{each.support:,}", *(figure(getattr(each, name)) for name in columns)]
            for each in self.classes
        ]
        parts.append(text_table([["class", "examples", *(_TITLES[name] for name in columns)], *rows]))
        if len(self.classes) <= _MAX_CLASSES_SHOWN:
            names = [str(each.label) for each in self.classes]
            counts = [[name, *map(str, row)] for name, row in zip(names, self.confusion, strict=True)]
            parts.append(text_table([["true \\ labelled", *names], *counts]))
        return "\n\n".join(parts)


_TITLES = {
    "accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "f_score": "F-score",
    "lift": f"lift (top {LIFT_SHARE:.0%})",
    "roc_area": "ROC area",
    "average_precision": "average precision",
    "break_even_point": "break-even point",
    "squared_error": "squared error (RMS)",
    "cross_entropy": "cross-entropy (nats)",
}


def classification_metrics(
    probabilities: ArrayLike | None,
    labels: ArrayLike,
    *,
    predicted: ArrayLike | None = None,
    label_names: Sequence[Label] | None = None,
) -> ClassificationMetrics:
    """Score a classifier's probabilities, or its labels alone, against the true ones.

    probabilities: [N, K], rows sum to 1, or None where a classifier gives none. labels: int [N] in [0, K). predicted:
    int [N], the classifier's labels; by default the most probable class, the lower index among equals.
    label_names: K names, by default the numbers. In the cross-entropy, probabilities below float64's epsilon count as
    that, so that it is finite (scikit-learn's ``log_loss``).

    Raises:
        InputError: arrays that do not fit one another, or no examples.
    """
    if probabilities is None and predicted is None:
        raise InputError("probabilities, predicted", expected="given, at least one of the two", got="neither")
    truth = as_indices("labels", labels)
    probs = None if probabilities is None else as_probabilities(probabilities, len(truth))
    if predicted is not None:
        predictions = as_indices("predicted", predicted, len(truth))
    elif probs is not None:
        predictions = probs.argmax(axis=1)
    if probs is not None:
        num_classes = probs.shape[1]
    elif label_names is not None:
        num_classes = len(label_names)
    else:
        num_classes = max(int(truth.max()), int(predictions.max()), 1) + 1
    for field, indices in (("labels", truth), ("predicted", predictions)):
        if indices.max() >= num_classes:
            raise InputError(field, expected=f"classes below {num_classes}", got=str(indices.max()))
    names = as_labels(range(num_classes) if label_names is None else label_names)
    if len(names) != num_classes:
        raise InputError("label_names", expected=f"{num_classes} names", got=str(len(names)))
    return ClassificationMetrics(
        num_examples=len(truth),
        accuracy=float(accuracy_score(truth, predictions)),
        top_k_error=_top_k_errors(probs, truth, predictions),
        cross_entropy=None if probs is None else float(log_loss(truth, probs, labels=range(num_classes))),
        confusion=tuple(map(tuple, confusion_matrix(truth, predictions, labels=range(num_classes)).tolist())),
        classes=_one_vs_rest_metrics(probs, truth, predictions, names),
    )


def _one_vs_rest_metrics(
    probs: Floats | None, truth: Ints, predictions: Ints, names: Sequence[Label]
) -> tuple[ClassMetrics, ...]:
    """Compute the metrics of each class against the rest. probs: [N, K] or None; truth and predictions: [N]."""
    found = []
    precision, recall, f_score, support = precision_recall_fscore_support(
        truth, predictions, labels=range(len(names)), zero_division=0
    )
    for index, name in enumerate(names):
        figures: dict[str, Any] = {}
        if support[index]:
            figures = {"precision": precision[index], "recall": recall[index], "f_score": f_score[index]}
            if probs is not None:
                figures |= _probability_metrics(probs[:, index], truth == index)
        values = {key: None if value is None else float(value) for key, value in figures.items()}
        num_predicted = int((predictions == index).sum())
        found.append(ClassMetrics(label=name, support=int(support[index]), predicted=num_predicted, **values))
    return tuple(found)


def _probability_metrics(probs: Floats, positive: NDArray[np.bool_]) -> dict[str, float | None]:
    """Compute the metrics of one class's probabilities. probs: [N]; positive: [N], at least one of them true."""
    num_positive, num_examples = int(positive.sum()), len(positive)
    num_highest = LIFT_SHARE * num_examples
    return {
        "lift": _expected_positives(probs, positive, num_highest) / num_positive / LIFT_SHARE,
        "roc_area": roc_auc_score(positive, probs) if num_positive < num_examples else None,
        "average_precision": average_precision_score(positive, probs),
        # Precision and recall are equal where as many examples are predicted positive as there are.
        "break_even_point": _expected_positives(probs, positive, num_positive) / num_positive,
        "squared_error": np.sqrt(np.mean((probs - positive) ** 2)),
    }


def _expected_positives(scores: Floats, positive: NDArray[np.bool_], num_highest: float) -> float:
    """Count the positives expected among the examples with the highest scores, equal scores in random order.

    scores, positive: [N]; num_highest: a share of an example counts as that share of it.
    """
    levels, inverse = np.unique(-scores, return_inverse=True)  # from the highest score down
    examples = np.bincount(inverse, minlength=len(levels))  # [levels]
    positives = np.bincount(inverse, weights=positive, minlength=len(levels))
    before = np.cumsum(examples) - examples
    taken = np.clip(num_highest - before, 0, examples)  # of each level
    return float((positives * taken / examples).sum())


def _top_k_errors(probs: Floats | None, truth: Ints, predictions: Ints) -> dict[int, float]:
    if probs is None:
        return {1: float((predictions != truth).mean())}
    own = np.take_along_axis(probs, truth[:, np.newaxis], axis=1)  # [N, 1]
    earlier = np.arange(probs.shape[1]) < truth[:, np.newaxis]  # [N, K]
    rank = ((probs > own) | ((probs == own) & earlier)).sum(axis=1)  # [N], 0 for the most probable
    return {k: float((rank >= k).mean()) for k in range(1, min(_MAX_K, probs.shape[1] - 1) + 1)}


def _mean_of_known(classes: Sequence[ClassMetrics], name: str) -> float | None:
    known = [value for value in (getattr(each, name) for each in classes) if value is not None]
    return float(np.mean(known)) if known else None


# -- input validation --------------------------------------------------------------------------------------------------


def as_indices(field: str, values: ArrayLike | None, num_examples: int | None = None) -> Ints:
    """Return classes as int64 [N]; InputError unless they are whole, not below 0, and as many as ``num_examples``."""
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iub" or len(array) == 0:
        raise InputError(field, expected="whole numbers [N], N >= 1", got=_dtype_and_shape(array))
    if num_examples is not None and len(array) != num_examples:
        raise InputError(field, expected=f"{num_examples} classes, one per example", got=str(len(array)))
    if array.min() < 0:
        raise InputError(field, expected="classes from 0", got=str(array.min()))
    return array.astype(np.int64)


def as_probabilities(values: ArrayLike, num_examples: int) -> Floats:
    """Return probabilities as float64 [N, K], K >= 2, rows normalised to a sum of exactly 1; InputError for others."""
    array = np.asarray(values)
    if array.ndim != 2 or array.dtype.kind != "f" or len(array) != num_examples or array.shape[1] < 2:
        raise InputError("probabilities", expected=f"floats [{num_examples}, K], K >= 2", got=_dtype_and_shape(array))
    probs = array.astype(np.float64)
    sums = probs.sum(axis=1, keepdims=True)
    if not (probs >= 0).all() or not (np.abs(sums - 1) <= 1e-3).all():  # NaN fails both
        raise InputError(
            "probabilities", expected="shares of at least 0 that sum to 1 in each row", got=_range_of_sums(sums)
        )
    normalised: Floats = probs / sums
    return normalised


def _dtype_and_shape(array: NDArray[Any]) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _range_of_sums(sums: Floats) -> str:
    return f"rows that sum to {sums.min():.4g} up to {sums.max():.4g}"
