"""Regression metrics: RMSE, MAE and R² of each target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from torso.errors import InputError
from torso.insight.metrics.text_tables import figure, text_table
from torso.nets.models.card import Label, as_labels


@dataclass(frozen=True, kw_only=True)
class TargetMetrics:
    """Metrics of one target: root mean squared error and mean absolute error, both in the target's unit, and R².

    ``r2`` is the share of the target's variance that the predictions explain: 1 for perfect ones, 0 for always
    predicting the mean, less for worse; None for a target that does not vary.
    """

    label: Label
    rmse: float
    mae: float
    r2: float | None


@dataclass(frozen=True, kw_only=True)
class RegressionMetrics:
    """Result of `regression_metrics`: each target's figures, and their means over the targets."""

    num_examples: int
    targets: tuple[TargetMetrics, ...]

    @property
    def rmse(self) -> float:
        """Mean RMSE of the targets."""
        return float(np.mean([target.rmse for target in self.targets]))

    @property
    def mae(self) -> float:
        """Mean MAE (mean absolute error) of the targets."""
        return float(np.mean([target.mae for target in self.targets]))

    @property
    def r2(self) -> float | None:
        """Mean R² of the targets that vary (scikit-learn's ``score``), or None."""
        known = [target.r2 for target in self.targets if target.r2 is not None]
        return float(np.mean(known)) if known else None

    def to_json(self) -> dict[str, Any]:
        """Return all figures as JSON-serialisable data, finite numbers or None."""
        return {
            "num_examples": self.num_examples,
            "rmse": self.rmse,
            "mae": self.mae,
            "r2": self.r2,
            "targets": [asdict(target) for target in self.targets],
        }

    def text(self) -> str:
        """Format the figures as a text table."""
        rows = [[str(each.label), figure(each.rmse), figure(each.mae), figure(each.r2)] for each in self.targets]
        if len(rows) > 1:
            rows.append(["mean", figure(self.rmse), figure(self.mae), figure(self.r2)])
        table = text_table([["target", "RMSE", "MAE", "R²"], *rows])
        return f"{self.num_examples:,} examples\n\n{table}"


def regression_metrics(
    predicted: ArrayLike, targets: ArrayLike, *, target_names: Sequence[Label] | None = None
) -> RegressionMetrics:
    """Score predictions against the true targets.

    predicted, targets: [N, K], or [N] for one target. target_names: K names, by default the numbers.

    Raises:
        InputError: arrays that do not fit one another, numbers that are not finite, or no examples.
    """
    truth, predictions = _as_columns("targets", targets), _as_columns("predicted", predicted)
    if predictions.shape != truth.shape:
        expected = f"of the targets' shape {list(truth.shape)}"
        raise InputError("predicted", expected=expected, got=str(list(predictions.shape)))
    num_examples, num_targets = truth.shape
    names = as_labels(range(num_targets) if target_names is None else target_names)
    if len(names) != num_targets:
        raise InputError("target_names", expected=f"{num_targets} names", got=str(len(names)))
    rmse = root_mean_squared_error(truth, predictions, multioutput="raw_values")  # [K]
    mae = mean_absolute_error(truth, predictions, multioutput="raw_values")
    varies = truth.min(axis=0) < truth.max(axis=0)
    found = [
        TargetMetrics(
            label=name,
            rmse=float(rmse[k]),
            mae=float(mae[k]),
            r2=float(r2_score(truth[:, k], predictions[:, k])) if varies[k] else None,
        )
        for k, name in enumerate(names)
    ]
    return RegressionMetrics(num_examples=num_examples, targets=tuple(found))


def _as_columns(field: str, values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values)
    if array.ndim == 1:
        array = array[:, np.newaxis]
    if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "biuf":
        raise InputError(
            field, expected="numbers [N, K] or [N], with N, K >= 1", got=f"{array.dtype} {list(array.shape)}"
        )
    if not np.isfinite(array).all():
        raise InputError(field, expected="finite numbers", got="NaN or infinity")
    return array.astype(np.float64)
