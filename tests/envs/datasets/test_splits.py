from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torso.envs.datasets.splits import Dataset, Parts, Splits, cycle_positions
from torso.errors import ConfigError, DatasetError

LABELS = st.lists(st.integers(0, 3), min_size=1, max_size=120).map(np.array)


def made(labels, names=("a", "b", "c"), start: int = 0) -> Dataset:
    """Row i's only feature is ``start`` + i, so that rows can be told apart."""
    rows = np.arange(start, start + len(labels), dtype=np.float32)[:, np.newaxis]
    return Dataset(name="rows", inputs=rows, labels=np.array(labels, int), label_names=names)


def numbers(count: int) -> Dataset:
    rows = np.arange(count, dtype=np.float32)[:, np.newaxis]
    return Dataset(name="rows", inputs=rows, labels=2 * rows, label_names=("twice",), task="regression")


def rows_of(splits: Splits) -> list[list[int]]:
    return [split.inputs[:, 0].astype(int).tolist() for split in splits]


# the rule


def turns_by_hand(labels: list[int]) -> list[int]:
    """The rule as its docstring says it, row by row."""
    result = []
    for row, label in enumerate(labels):
        k, size = labels[:row].count(label), labels.count(label)
        if size >= 10:
            result.append(k % 10)
        else:
            result.append(9 if k == size - 1 else 7 if k == size - 2 else 0)
    return result


@given(LABELS)
def test_turns_follow_the_documented_rule(labels: np.ndarray):
    expected = turns_by_hand(labels.tolist())
    ours = cycle_positions(labels).tolist()
    assert [min(position, 8) if position >= 7 else 0 for position in ours] == [
        min(position, 8) if position >= 7 else 0 for position in expected
    ]


@given(st.lists(st.integers(3, 45), min_size=2, max_size=4), st.randoms())
def test_splits_are_disjoint_whole_stratified_and_in_file_order(sizes: list[int], random):
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    random.shuffle(labels)
    data = made(labels, names=tuple(range(len(sizes))))
    splits = Parts(train=data).split()
    rows = rows_of(splits)
    assert sorted(row for part in rows for row in part) == list(range(len(labels)))
    for part, split in zip(rows, splits, strict=True):
        assert part == sorted(part)
        assert [labels[row] for row in part] == split.labels.tolist()
    for label, size in enumerate(sizes):
        train, validation, test = ((split.labels == label).sum() for split in splits)
        assert min(train, validation, test) >= 1
        assert abs(validation - 0.1 * size) <= 1
        assert abs(test - 0.2 * size) < 2


@given(LABELS, st.permutations(["a", "b", "c", "d"]), st.integers(2, 4))
def test_leaving_classes_out_moves_no_row(labels: np.ndarray, order: list[str], count: int):
    data = made(np.concatenate([labels, np.repeat(np.arange(4), 3)]), names=("a", "b", "c", "d"))
    before = Parts(train=data).keep(order[:count]).split()
    after = Parts(train=data).split().keep(order[:count])
    assert rows_of(before) == rows_of(after)
    for first, second in zip(before, after, strict=True):
        np.testing.assert_array_equal(first.labels, second.labels)
        assert first.label_names == second.label_names == tuple(order[:count])


# equal rows


def with_copies(first: list[int], labels: list[int], task="classification") -> Dataset:
    """Row i's only feature is ``first[i]``."""
    inputs = np.array(first, np.float32)[:, np.newaxis]
    if task == "regression":
        return Dataset(name="rows", inputs=inputs, labels=2 * inputs, label_names=("twice",), task=task)
    return Dataset(name="rows", inputs=inputs, labels=np.array(labels), label_names=("a", "b"))


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize(
    "order",
    [np.tile(np.arange(60), 4), np.repeat(np.arange(60), 4), np.random.default_rng(0).permutation(240) % 60],
    ids=["tiled", "repeated", "shuffled"],
)
def test_copies_of_a_row_are_on_one_side(order: np.ndarray, task):
    splits = Parts(train=with_copies(order.tolist(), (order // 3 % 2).tolist(), task)).split()
    parts = [set(rows) for rows in rows_of(splits)]
    assert [len(part) for part in parts] == [42, 6, 12]
    assert [len(split) for split in splits] == [168, 24, 48]
    assert len(set.union(*parts)) == 60
    assert splits.repeated_rows() == (240, 180, 0)


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 1)), min_size=6, max_size=60))
def test_equal_rows_never_cross_a_split(rows: list[tuple[int, int]]):
    """Nor do rows of equal inputs and different labels."""
    first, labels = [20, 21, 22, 23, 24, 25], [0, 0, 0, 1, 1, 1]
    for number, label in rows:
        first.append(number)
        labels.append(label)
    splits = Parts(train=with_copies(first, labels)).split()
    train, validation, test = map(set, rows_of(splits))
    assert not train & validation
    assert not (train | validation) & test
    assert sum(map(len, splits)) == len(first)
    assert len(splits.train)


def test_copies_that_no_split_parts_change_nothing():
    labels = [0] * 20
    rows = list(range(20))
    rows[13] = 2  # both in train
    splits = Parts(train=with_copies([*rows, 100, 101, 102], [*labels, 1, 1, 1])).split()
    assert rows_of(splits) == [[0, 1, 2, 3, 4, 5, 6, 10, 11, 12, 2, 14, 15, 16, 100], [7, 17, 101], [8, 9, 18, 19, 102]]


def test_zeros_of_either_sign_are_equal_and_parts_that_were_set_aside_are_counted():
    data = with_copies([0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 1, 1])
    test = Dataset(name="rows", inputs=np.array([[-0.0], [9.0]], np.float32), labels=np.array([0, 1]), label_names="ab")
    assert Parts(train=data, test=test).split().repeated_rows() == (8, 1, 1)


def test_numbers_to_predict_are_split_as_one_class():
    assert rows_of(Parts(train=numbers(12)).split()) == [[0, 1, 2, 3, 4, 5, 6, 10, 11], [7], [8, 9]]
    assert rows_of(Parts(train=numbers(4)).split()) == [[0, 1], [2], [3]]


def test_what_was_set_aside_stays_and_train_keeps_the_rest():
    labels = [0, 1] * 10
    test = made([0, 1, 1], start=100)
    splits = Parts(train=made(labels, ("a", "b")), test=made([0, 1, 1], ("a", "b"), start=100)).split()
    assert rows_of(splits) == [[*range(14), 16, 17, 18, 19], [14, 15], [100, 101, 102]]
    splits = Parts(train=made([0, 1], ("a", "b")), validation=made([0], ("a", "b"), start=50), test=test).split()
    assert rows_of(splits) == [[0, 1], [50], [100, 101, 102]]
    splits = Parts(train=made([0, 0, 1, 1], ("a", "b")), validation=made([0], ("a", "b"), start=50)).split()
    assert rows_of(splits) == [[0, 2], [50], [1, 3]]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (Parts(train=made([0, 0, 0], ("a",))), "rows must have at least 2 classes, got only 'a'"),
        (Parts(train=made([], ())), "rows must have at least 2 classes, got only none"),
        (
            Parts(train=made([0, 0, 0, 1, 1, 2], ("a", 7, "c"))),
            r"one each for train, validation, test, of each class, got 2 rows of class 7 \(2 of 3 classes have too few",
        ),
        (Parts(train=made([0, 0, 0], ("a", "b"))), "got 0 rows of class 'b'"),
        (
            Parts(train=made([0, 0, 0, 1], ("a", "b")), test=made([0, 1])),
            "at least 2 rows, one each for train, validation",
        ),
        (
            Parts(train=made([0, 0, 0]), validation=made([1]), test=made([0, 1])),
            r"must have at least 1 row to train, of each class, got 0 rows of class 'b'",
        ),
        (Parts(train=made([0, 1, 2]), test=made([])), "must have rows set aside for test, got none"),
        (Parts(train=numbers(2)), "rows must have at least 3 rows, one each for train, validation, test, got 2 rows"),
    ],
)
def test_too_few_rows(parts: Parts, message: str):
    with pytest.raises(DatasetError, match=message):
        parts.split()


# classes


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["a", "z"], "classes must be names in rows, got 'z'; rows has 'a', 'b', '3'"),
        (["a"], "classes must hold at least 2 names, got 'a'; rows has 'a', 'b', '3'"),
        ([], "classes must hold at least 2 names, got none; rows has"),
        (["a", "a"], "classes must be different names, got a, a; rows has"),
    ],
)
def test_classes_that_cannot_be_kept(classes: list[str], message: str):
    with pytest.raises(DatasetError, match=message):
        made([0, 1, 2], ("a", "b", 3)).keep(classes)


def test_integers_are_named_as_text_or_as_they_are():
    data = made([0, 1, 2], ("a", "b", 3))
    for classes in (["3", "a"], [3, "a"]):
        kept = data.keep(classes)
        assert (kept.labels.tolist(), kept.label_names) == ([1, 0], (3, "a"))


def test_many_classes_are_not_all_listed():
    with pytest.raises(DatasetError, match=r"'?11'? and 88 more$"):
        made([0], tuple(range(100))).keep(["x", "y"])


# a Dataset of numbers to predict, and of named features


def test_a_regression():
    data = Dataset(
        name="r",
        inputs=np.zeros((3, 2)),
        labels=np.arange(6.0).reshape(3, 2),
        label_names=("u", "v"),
        task="regression",
    )
    assert data.labels.dtype == np.float32
    assert not data.labels.flags.writeable
    taken = data.take(np.array([2, 0]))
    assert taken.labels.tolist() == [[4, 5], [0, 1]]
    assert (taken.task, taken.label_names) == ("regression", ("u", "v"))
    with pytest.raises(
        ConfigError,
        match=r"classes must be omitted for r, which has numbers to predict and no classes, got \['u', 'v'\]",
    ):
        data.keep(["u", "v"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.zeros(3)}, r"r must have numbers \[N, 1\] to predict, got \(3,\) float64"),
        ({"labels": np.zeros((3, 2))}, r"must have numbers \[N, 1\] to predict, got \(3, 2\)"),
        ({"labels": np.full((3, 1), "x")}, r"must have numbers \[N, 1\] to predict"),
        ({"labels": np.array([[1.0], [np.nan], [2.0]])}, "must have finite float32 numbers to predict"),
        ({"labels": np.zeros((2, 1))}, "must have a label for each of 3 inputs, got 2"),
        ({"feature_names": ("a",)}, r"must have inputs of 1 named features, got \[2\]"),
    ],
)
def test_what_does_not_fit_a_regression(changes: dict, message: str):
    fields = {"inputs": np.zeros((3, 2)), "labels": np.zeros((3, 1)), "label_names": ("y",)} | changes
    with pytest.raises(DatasetError, match=message):
        Dataset(name="r", task="regression", **fields)


def test_feature_names_stay():
    data = Dataset(
        name="r", inputs=np.eye(2), labels=np.array([0, 1]), label_names=("no", "yes"), feature_names=("a", "b")
    )
    assert data.take(slice(1)).feature_names == data.keep(["yes", "no"]).feature_names == ("a", "b")
