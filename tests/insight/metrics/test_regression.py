"""Regression metrics against numbers worked by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from torso.errors import InputError
from torso.insight.metrics.regression import regression_metrics


def test_regression_by_hand() -> None:
    targets = np.array([[1.0, 10.0], [2.0, 10.0], [3.0, 30.0], [4.0, 30.0]])
    predicted = np.array([[1.0, 12.0], [2.0, 12.0], [3.0, 28.0], [6.0, 28.0]])
    metrics = regression_metrics(predicted, targets, target_names=["height", "weight"])
    assert metrics.num_examples == 4
    height, weight = metrics.targets
    assert (height.label, height.rmse, height.mae) == ("height", 1.0, 0.5)
    assert height.r2 == pytest.approx(1 - 4 / 5)  # squared errors 4, squared deviations 2.25 + .25 + .25 + 2.25
    assert (weight.rmse, weight.mae) == (2.0, 2.0)
    assert weight.r2 == pytest.approx(1 - 16 / 400)
    assert (metrics.rmse, metrics.mae) == (1.5, 1.25)
    assert metrics.r2 == pytest.approx((0.2 + 0.96) / 2)
    data = json.loads(json.dumps(metrics.to_json(), allow_nan=False))
    assert data["targets"][0] == {"label": "height", "rmse": 1.0, "mae": 0.5, "r2": pytest.approx(0.2)}
    assert metrics.text().splitlines() == [
        "4 examples",
        "",
        "target    RMSE     MAE      R²",
        "height  1.0000  0.5000  0.2000",
        "weight  2.0000  2.0000  0.9600",
        "mean    1.5000  1.2500  0.5800",
    ]


def test_a_target_that_does_not_vary_has_no_r2() -> None:
    metrics = regression_metrics([[1.0, 5.0], [3.0, 6.0]], [[1.0, 5.0], [2.0, 5.0]])
    assert metrics.targets[1].r2 is None
    assert metrics.r2 == metrics.targets[0].r2
    assert metrics.text().splitlines()[4].split() == ["1", "0.7071", "0.5000", "-"]
    assert regression_metrics([1.0], [2.0]).to_json()["r2"] is None


def test_one_target_may_be_a_vector() -> None:
    vector = regression_metrics(np.array([1, 2, 4]), np.array([1.0, 2.0, 3.0], dtype=np.float32))
    assert vector == regression_metrics([[1.0], [2.0], [4.0]], [[1.0], [2.0], [3.0]])
    assert len(vector.text().splitlines()) == 4  # no mean of one


@pytest.mark.parametrize(
    ("predicted", "targets", "says"),
    [
        ([1.0], [1.0, 2.0], r"predicted must be of the targets' shape \[2, 1\], got \[1, 1\]"),
        ([[1.0, 2.0]], [[1.0]], "the targets' shape"),
        ([math.nan], [1.0], "predicted must be finite numbers"),
        ([1.0], [math.inf], "targets must be finite numbers"),
        ([], [], "targets must be numbers"),
        (["a"], [1.0], "predicted must be numbers"),
    ],
)
def test_regressions_that_do_not_fit_are_refused(predicted: Any, targets: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        regression_metrics(predicted, targets)


def test_target_names_must_fit() -> None:
    with pytest.raises(InputError, match="target_names must be 1 names, got 2"):
        regression_metrics([1.0], [1.0], target_names=["a", "b"])
