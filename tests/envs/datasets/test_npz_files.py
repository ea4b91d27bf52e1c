from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from torso.envs import load_dataset
from torso.errors import ConfigError, DatasetError

X = np.arange(40, dtype=np.float64).reshape(20, 2)
Y = np.arange(20) % 2
IMAGES = np.arange(20 * 12, dtype=np.uint8).reshape(20, 4, 3)


def save(folder: Path, **arrays) -> Path:
    path = folder / "own.npz"
    np.savez(path, **arrays)
    return path


def test_rows_with_classes(tmp_path: Path):
    path = save(tmp_path, X=X, y=Y)
    splits = load_dataset(path)
    for split, rows in zip(splits, ([*range(14)], [14, 15], [16, 17, 18, 19]), strict=True):
        np.testing.assert_array_equal(split.inputs, X[rows].astype(np.float32), strict=True)
        np.testing.assert_array_equal(split.labels, Y[rows], strict=True)
        assert (split.name, split.task, split.label_names) == (str(path), "classification", (0, 1))
        assert split.feature_names is None
        assert split.image is None


@pytest.mark.parametrize(
    ("x", "y"), [("x", "Y"), ("data", "target"), ("images", "labels"), ("features", "label"), ("INPUTS", "targets")]
)
def test_spellings(tmp_path: Path, x: str, y: str):
    for keys in ((x, y), (f"{x}_train", f"train_{y}")):
        splits = load_dataset(save(tmp_path, **dict(zip(keys, (IMAGES, Y), strict=True)), extra=np.zeros(3)))
        np.testing.assert_array_equal(splits.test.inputs, IMAGES[16:], strict=True)
        assert splits.test.labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("word", ["val", "valid", "validation"])
def test_parts_that_were_set_aside(tmp_path: Path, word: str):
    test = {"x_test": X[:5] + 100, "y_test": Y[:5]}
    splits = load_dataset(save(tmp_path, x_train=X, y_train=Y, **test))
    assert [len(split) for split in splits] == [18, 2, 5]
    np.testing.assert_array_equal(splits.test.inputs, X[:5] + 100)
    np.testing.assert_array_equal(splits.train.inputs, X[[*range(14), *range(16, 20)]])
    set_aside = {f"{word}_x": X[:3] + 50, f"{word}_y": Y[1:4]}
    splits = load_dataset(save(tmp_path, X=X, y=Y, **test, **set_aside))
    np.testing.assert_array_equal(splits.train.inputs, X)
    np.testing.assert_array_equal(splits.validation.inputs, X[:3] + 50)
    assert splits.validation.labels.tolist() == [1, 0, 1]
    np.testing.assert_array_equal(splits.test.labels, Y[:5])
    kept = load_dataset(save(tmp_path, X=X, y=Y, **test), classes=["1", "0"])
    assert kept.test.labels.tolist() == [1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (np.array(["no", "yes"]), ("no", "yes")),
        (np.array([b"no", b"yes"]), ("no", "yes")),
        (np.array(["10", "9"]), (9, 10)),
        (np.array([False, True]), (0, 1)),
        (np.array([-1, 1], np.int8), (-1, 1)),
        (np.array([3.0, 7.0]), (3, 7)),
        (np.array([[5], [6]], np.uint8), (5, 6)),
    ],
)
def test_forms_of_classes(tmp_path: Path, labels: np.ndarray, names: tuple):
    train = load_dataset(save(tmp_path, X=X, y=labels[Y])).train
    assert (train.task, train.label_names) == ("classification", names)
    first = names.index(type(names[0])(labels.ravel()[0].decode() if labels.dtype.kind == "S" else labels.ravel()[0]))
    assert train.labels.tolist() == [first, 1 - first] * 7


def test_given_names(tmp_path: Path):
    path = save(tmp_path, X=X, y=Y, feature_names=np.array(["a", "b"]), class_names=np.array(["no", "yes"]))
    train = load_dataset(path).train
    assert (train.feature_names, train.label_names) == (("a", "b"), ("no", "yes"))
    assert train.labels[:2].tolist() == [0, 1]
    path = save(tmp_path, X=X, y=np.array(["no", "yes"])[Y], label_names=np.array(["yes", "no"]))
    assert load_dataset(path).train.labels[:2].tolist() == [1, 0]
    path = save(tmp_path, X=X, y=np.stack([Y, Y], axis=1) / 2, target_names=np.array([b"u", b"v"]))
    assert load_dataset(path).train.label_names == ("u", "v")


def test_numbers_to_predict(tmp_path: Path):
    splits = load_dataset(save(tmp_path, X=X, y=X[:, 0] / 4))
    assert (splits.train.task, splits.train.label_names) == ("regression", ("target",))
    np.testing.assert_array_equal(splits.test.labels, X[[8, 9, 18, 19], :1].astype(np.float32) / 4, strict=True)
    splits = load_dataset(save(tmp_path, X=X, y=X.astype(int)))
    assert (splits.train.task, splits.train.label_names) == ("regression", ("target 0", "target 1"))
    np.testing.assert_array_equal(splits.validation.labels, X[[7, 17]].astype(np.float32), strict=True)
    one_hot = np.eye(2)[Y]
    assert load_dataset(save(tmp_path, X=X, y=one_hot), task="regression").train.labels.shape == (14, 2)
    assert load_dataset(save(tmp_path, X=X, y=Y), task="regression").train.labels.shape == (14, 1)
    halves = load_dataset(save(tmp_path, X=X, y=Y / 2), task="classification").train
    assert (halves.label_names, halves.labels[:2].tolist()) == (("0.0", "0.5"), [0, 1])


def test_inputs_keep_their_form(tmp_path: Path):
    bits = np.unpackbits(IMAGES[:, 0, :1], axis=1) > 0
    for inputs in (IMAGES, IMAGES.reshape(20, 1, 4, 3), IMAGES.reshape(20, 4, 3, 1), IMAGES.astype(np.int64), bits):
        train = load_dataset(save(tmp_path, X=inputs, y=Y)).train
        np.testing.assert_array_equal(train.inputs, inputs[:14], strict=True)
    for dtype in (np.float16, np.float32, np.float64, ">f8"):
        assert load_dataset(save(tmp_path, X=X.astype(dtype), y=Y)).train.inputs.dtype == np.float32


def holed(*place: int, value: float = np.nan) -> np.ndarray:
    inputs = X.copy()
    inputs[place] = value
    return inputs


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": X}, "must have arrays X and y, or x_train, y_train, x_test and y_test, got 'a'"),
        ({"x_test": X, "y_test": Y}, "must have arrays X and y"),
        ({"X": X}, "must have labels beside 'X', got only 'X'"),
        ({"y": Y, "X_test": X}, "must have inputs beside 'y'"),
        ({"X": X, "y": Y, "x_test": X}, "must have labels beside 'x_test'"),
        ({"X": X, "data": X, "y": Y}, "must have one of 'X', 'data', got 2; remove the others"),
        ({"X": X, "x_train": X, "y": Y}, "must have one of 'X', 'x_train', got 2"),
        ({"X": X, "y": Y[:19]}, "must have a label for each input, got 20 inputs in 'X' and 19 labels in 'y'"),
        ({"X": X[:19], "y": Y}, "got 19 inputs in 'X' and 20 labels in 'y'"),
        ({"X": X, "y": np.zeros((20, 1, 1))}, r"must have labels \[N\] or \[N, K\] in 'y', got \[20, 1, 1\]"),
        ({"X": X[:, 0], "y": Y}, r"must have rows \[N, F\] or images .* in 'X', got \[20\]"),
        ({"X": X[:0], "y": Y[:0]}, r"in 'X', got \[0, 2\]"),
        ({"X": X.astype(str), "y": Y}, "must have numbers in 'X', got <U32"),
        ({"X": X * 1j, "y": Y}, "must have numbers in 'X', got complex128"),
        ({"X": X, "y": Y * 1j}, "must have labels that are all numbers, or all text, of one form, got .* complex128"),
        ({"X": X, "y": Y, "x_test": X, "y_test": Y.astype(str)}, "all numbers, or all text, of one form"),
        ({"X": X, "y": Y, "x_test": X, "y_test": np.eye(2)[Y]}, "all numbers, or all text, of one form"),
        ({"X": X, "y": Y, "x_test": X[:, :1], "y_test": Y}, "must have inputs of one shape"),
        ({"X": holed(3, 1), "y": Y}, r"must have finite float32 numbers in 'X', got nan in X\[3, 1\] \(1 such values"),
        ({"X": holed(4, 0, value=1e39), "y": Y}, r"got 1e\+39 in X\[4, 0\]"),
        ({"X": X, "y": holed(5, 0)[:, 0]}, "must have finite float32 numbers in 'the labels', got nan"),
        ({"X": X, "y": np.eye(2)[Y]}, r"must have one label for each input, got 2, one-hot; pass y.argmax\(axis=1\)"),
        ({"X": X, "y": X.astype(str)}, "must have one label for each input, got 2$"),
        ({"X": X, "y": Y * 0}, "must have at least 2 classes, got only 0"),
        ({"X": X, "y": np.arange(20)}, r"got 1 row of class 0 \(20 of 20 classes"),
        ({"X": X, "y": np.array([0] * 17 + [1] * 3), "x_test": X, "y_test": Y + 1}, "got 0 rows of class 2"),
        ({"X": X, "y": Y, "feature_names": np.array(["a"])}, "must have inputs of 1 named features"),
        ({"X": X, "y": Y, "label_names": np.array(["a"])}, "must have labels among the names 'a', got '0', '1'"),
        ({"X": X, "y": Y, "label_names": np.array(["a", "a"])}, "must have different names in 'label_names'"),
        ({"X": X, "y": Y / 2, "label_names": np.array(["a", "b"])}, "must have 1 names of targets, got 'a', 'b'"),
        ({"X": X.astype(object), "y": Y}, "array 'X' cannot be read: it holds Python objects; save numbers or text"),
    ],
)
def test_mistakes(tmp_path: Path, arrays: dict, message: str):
    path = save(tmp_path, **arrays)
    with pytest.raises(DatasetError, match=message) as caught:
        load_dataset(path)
    assert str(path) in str(caught.value)


def test_text_cannot_be_predicted(tmp_path: Path):
    with pytest.raises(
        ConfigError, match=r"task must be 'classification' where labels are text, as in .*own.npz, got 'regression'"
    ):
        load_dataset(save(tmp_path, X=X, y=Y.astype(str)), task="regression")


def test_damaged_files(tmp_path: Path):
    path = save(tmp_path, X=X, y=Y)
    content = path.read_bytes()
    for cut in (0, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(DatasetError, match=r"own.npz"):
            load_dataset(path)
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            load_dataset(path)
        except DatasetError as error:
            message = str(error)
        else:
            message = str(path)  # a byte that changes nothing
        assert str(path) in message
    np.save(tmp_path / "array.npy", X)
    (tmp_path / "array.npy").rename(path)
    with pytest.raises(DatasetError, match=r"must be a .npz file, as numpy.savez writes it"):
        load_dataset(path)
