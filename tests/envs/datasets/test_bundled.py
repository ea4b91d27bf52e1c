from __future__ import annotations

import numpy as np
import pytest
from sklearn import datasets

from torso.envs import load_dataset

TABLES = {
    "iris": (datasets.load_iris, (105, 15, 30)),
    "wine": (datasets.load_wine, (127, 18, 33)),
    "breast-cancer": (datasets.load_breast_cancer, (401, 56, 112)),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_scikit_learns(name: str):
    bunch, sizes = TABLES[name][0](), TABLES[name][1]
    splits = load_dataset(name)
    assert tuple(map(len, splits)) == sizes
    data = bunch.data.astype(np.float32)
    expected = {tuple(row): label for row, label in zip(data.tolist(), bunch.target, strict=True)}
    rows = 0
    for split in splits:
        assert (split.name, split.task, split.image) == (name, "classification", None)
        assert split.inputs.dtype == np.float32
        assert split.label_names == tuple(bunch.target_names)
        assert split.feature_names == tuple(bunch.feature_names)
        for row, label in zip(split.inputs.tolist(), split.labels, strict=True):
            assert expected[tuple(row)] == label
        rows += len(split)
    assert rows == len(data)
    np.testing.assert_array_equal(splits.train.inputs[0], data[0])


def test_iris_names():
    train = load_dataset("iris").train
    assert train.label_names == ("setosa", "versicolor", "virginica")
    assert train.feature_names[0] == "sepal length (cm)"
    assert load_dataset("iris", classes=["virginica", "setosa"]).test.label_names == ("virginica", "setosa")


def test_diabetes_is_raw_and_to_be_predicted():
    bunch = datasets.load_diabetes(scaled=False)
    splits = load_dataset("diabetes")
    row_numbers = [[row for row in range(442) if row % 10 in digits] for digits in (range(7), (7,), (8, 9))]
    for split, rows in zip(splits, row_numbers, strict=True):
        assert (split.task, split.label_names) == ("regression", ("progression",))
        assert split.feature_names == ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")
        np.testing.assert_array_equal(split.inputs, bunch.data[rows].astype(np.float32), strict=True)
        np.testing.assert_array_equal(split.labels, bunch.target[rows, np.newaxis].astype(np.float32), strict=True)
    assert splits.train.inputs[0, 0] == 59  # years
