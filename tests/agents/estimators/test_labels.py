"""Labels as users pass them: tensors, missing ones, several kinds, dates; what cannot be saved is refused at once."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
import torch

from torso.agents import Classifier, Regressor
from torso.errors import InputError

X = np.random.default_rng(0).normal(size=(40, 3))
Y = (X[:, 0] > 0).astype(int)
QUICK: dict[str, Any] = {"hidden": (4,), "max_epochs": 1, "random_state": 0}


@pytest.mark.parametrize(
    "labels",
    [
        torch.tensor(Y),
        torch.tensor(Y, dtype=torch.int8),
        torch.tensor(Y, dtype=torch.float32, requires_grad=True),
        [torch.tensor(y) for y in Y],
        pd.Series(Y, dtype="Int64"),
        pd.Series(np.array(["a", "b"])[Y], dtype="category"),
        pd.DataFrame({"only": np.array(["NaN", "None"])[Y]})["only"],
        np.array([True, False])[Y],
        [np.str_(f"{y}") for y in Y],
    ],
    ids=lambda labels: f"{type(labels).__name__} {getattr(labels, 'dtype', '')}",
)
def test_labels_of_any_holder(tmp_path: Path, labels: Any) -> None:
    inputs = torch.tensor(X, requires_grad=True) if isinstance(labels, torch.Tensor) else X
    classifier = Classifier(**QUICK).fit(inputs, labels)
    assert len(classifier.classes_) == 2
    classifier.save(tmp_path / "model")
    loaded = Classifier.load(tmp_path / "model")
    assert loaded.classes_.tolist() == classifier.classes_.tolist()
    assert loaded.predict(inputs).tolist() == classifier.predict(inputs).tolist()


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (["a", None], "a label for each row, got None in row"),
        (["a", np.nan], "a label for each row, got nan in row"),
        ([0, None], "a label for each row, got None in row"),
        (["1", 1], r"labels of one kind, text, numbers or booleans, got (text|number)"),
        ([True, 2], r"labels of one kind, .* got (boolean|number)"),
        (["1", "1.0"], "labels written in one way, got '1' and '1.0', which are one number"),
        (
            [datetime.date(2020, 1, 1), datetime.date(2021, 1, 1)],
            r"got datetime.date\(.*\) \(date\); pass text",
        ),
        ([b"a", b"b"], "text, numbers or booleans, got b'a'"),
    ],
    ids=repr,
)
def test_labels_that_are_refused(pair: list[Any], message: str) -> None:
    labels = [pair[y] for y in (0, *Y[1:])]
    held = np.empty(len(labels), dtype=object)
    held[:] = labels
    for y in (labels, held, pd.Series(labels, dtype=object)):
        with pytest.raises(InputError, match=message):
            Classifier(**QUICK).fit(X, y)


def test_whole_numbers_and_their_floats_are_one_class() -> None:
    classifier = Classifier(**QUICK).fit(X, [1 if y else (0.0 if row % 2 else 0) for row, y in enumerate(Y)])
    assert classifier.classes_.tolist() == [0, 1]


def test_missing_labels_of_pandas() -> None:
    y = pd.Series(Y, dtype="Int64")
    y[3] = pd.NA
    with pytest.raises(InputError, match="a label for each row, got <NA> in row 3"):
        Classifier(**QUICK).fit(X, y)


def test_dates() -> None:
    days = pd.date_range("2020-01-01", periods=40)
    frame = pd.DataFrame({"size": X[:, 0], "when": days})
    for estimator in (Classifier(**QUICK), Regressor(**QUICK)):
        with pytest.raises(InputError, match=r"got datetime64\[.*\] in column 'when'; convert dates"):
            estimator.fit(frame, Y)
    for y in (days, days.to_numpy(), pd.Series(days)):
        with pytest.raises(InputError, match="y must be"):
            Classifier(**QUICK).fit(X, y)
        with pytest.raises(InputError, match="y must be numbers, got datetime64"):
            Regressor(**QUICK).fit(X, y)
    assert Regressor(**QUICK).fit(torch.tensor(X), torch.tensor(X[:, 0])).predict(X).shape == (40,)
