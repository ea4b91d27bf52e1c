"""Read a .npz file as a data set: arrays X and y, or x_train, y_train, x_test, y_test.

Inputs may be called x, data, inputs, images or features; labels y, target, targets, label or labels. A part's arrays
carry its name, train, validation (or valid, val) or test, before or behind an underscore: x_test, test_images. Upper
and lower case are the same. Parts that a file has no arrays for are split off by the rule of ``splits.py``.
feature_names, and label_names (or class_names, target_names), are used where they are there.

Inputs are rows [N, F] or images [N, H, W], [N, C, H, W] or [N, H, W, C]. Labels are [N] or [N, 1]: integers, truth
values, text and whole floats are classes, other floats and [N, K] are numbers to predict, unless ``task`` overrides.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from torso.envs.datasets.labelling import class_indices, class_names, is_regression_target, require_one_spelling
from torso.envs.datasets.splits import Dataset, Parts, Task, listed
from torso.errors import ConfigError, DatasetError
from torso.tables import as_floats

_INPUTS = ("x", "data", "inputs", "images", "features")
_LABELS = ("y", "target", "targets", "label", "labels")
_LABEL_NAMES = ("label_names", "class_names", "target_names")
_PARTS = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}
# What zipfile, zlib and numpy raise on damaged or malformed files.
_READ_ERRORS = (
    *(OSError, EOFError, KeyError, ValueError, MemoryError, RuntimeError, SyntaxError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)
_Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Labels:
    """Labels of all parts, concatenated, with their names and task."""

    values: _Array  # as ``Dataset.labels``
    names: tuple[str | int, ...]
    task: Task


def read_npz(path: Path, *, name: str, task: Task | None = None, columns: Sequence[str] | None = None) -> Parts:
    """Read a .npz file; see ``load_dataset``. Float inputs become float32, others keep their dtype.

    columns: of a file with feature_names those to take, in this order; None: all.

    Raises ``DatasetError``: arrays that are lacking, ambiguous, damaged or pickled objects, that hold NaN or infinity,
    or do not fit together; ``ConfigError`` for a task that the labels cannot be.
    """
    archive = _Archive(path)
    examples = {part: pair for part in _PARTS if (pair := _examples(archive, part)) is not None}
    if "train" not in examples:
        raise DatasetError(
            f"{path} must have arrays X and y, or x_train, y_train, x_test and y_test, got {listed(archive.keys)}"
        )
    shapes = {part: list(inputs.shape[1:]) for part, (inputs, _) in examples.items()}
    if any(shape != shapes["train"] for shape in shapes.values()):
        got = ", ".join(f"{shape} for {part}" for part, shape in shapes.items())
        raise DatasetError(f"{path} must have inputs of one shape, got {got}")
    labels = _labels_of(archive, [pair[1] for pair in examples.values()], task)
    feature_names = _names(archive, ("feature_names",))
    if feature_names is not None and columns is not None:
        examples = {part: (_columns(archive, x, feature_names, columns), y) for part, (x, y) in examples.items()}
        feature_names = tuple(columns)
    ends = np.cumsum([len(pair[1]) for pair in examples.values()])
    parts = {
        part: Dataset(
            name=name,
            inputs=inputs,
            labels=labels.values[end - len(inputs) : end],
            label_names=labels.names,
            task=labels.task,
            feature_names=feature_names,
        )
        for (part, (inputs, _)), end in zip(examples.items(), ends, strict=True)
    }
    return Parts(train=parts["train"], validation=parts.get("validation"), test=parts.get("test"))


class _Archive:
    """The arrays of a file, each loaded on access."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if not zipfile.is_zipfile(path):
                raise DatasetError(f"{path} must be a .npz file, as numpy.savez writes it, got another kind of file")
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                self.keys: list[str] = list(archive.files)
        except _READ_ERRORS as error:
            raise DatasetError(f"{path} cannot be read: {error}; save it again") from error

    def find(self, names: Sequence[str]) -> str | None:
        """Find the one key that is among these names; None where there is none."""
        found = [key for key in self.keys if key.lower() in names]
        if len(found) > 1:
            raise DatasetError(f"{self.path} must have one of {listed(found)}, got {len(found)}; remove the others")
        return found[0] if found else None

    def __getitem__(self, key: str) -> _Array:
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                array: _Array = archive[key]
        except _READ_ERRORS as error:
            pickled = "allow_pickle" in str(error)
            reason = "it holds Python objects; save numbers or text" if pickled else f"{error}; save it again"
            raise DatasetError(f"{self.path}: array {key!r} cannot be read: {reason}") from error
        return array


def _examples(archive: _Archive, part: str) -> tuple[_Array, _Array] | None:
    """Read inputs and labels of a part; None where the file has neither. Arrays without a part's name are train's."""
    keys = []
    for stems in (_INPUTS, _LABELS):
        names = [name for stem in stems for word in _PARTS[part] for name in (f"{stem}_{word}", f"{word}_{stem}")]
        keys.append(archive.find([*names, *stems] if part == "train" else names))
    x, y = keys
    if x is None and y is None:
        return None
    if x is None or y is None:
        present, missing = (x, "labels") if x is not None else (y, "inputs")
        raise DatasetError(f"{archive.path} must have {missing} beside {present!r}, got only {listed(archive.keys)}")
    inputs, labels = _checked_inputs(archive, x), archive[y]
    if labels.ndim not in (1, 2) or 0 in labels.shape:
        raise DatasetError(f"{archive.path} must have labels [N] or [N, K] in {y!r}, got {list(labels.shape)}")
    if len(inputs) != len(labels):
        raise DatasetError(
            f"{archive.path} must have a label for each input, got {len(inputs)} inputs in {x!r} and {len(labels)} "
            f"labels in {y!r}"
        )
    return inputs, labels


def _checked_inputs(archive: _Archive, key: str) -> _Array:
    inputs = archive[key]
    if inputs.dtype.kind not in "biuf":
        raise DatasetError(f"{archive.path} must have numbers in {key!r}, got {inputs.dtype}")
    if inputs.ndim not in (2, 3, 4) or 0 in inputs.shape:
        raise DatasetError(
            f"{archive.path} must have rows [N, F] or images [N, H, W], [N, C, H, W] or [N, H, W, C] in {key!r}, got "
            f"{list(inputs.shape)}"
        )
    return _as_floats(archive, key, inputs) if inputs.dtype.kind == "f" else inputs


def _as_floats(archive: _Archive, key: str, values: _Array) -> _Array:
    with np.errstate(over="ignore"):
        numbers = values.astype(np.float32, copy=False)
    finite = np.isfinite(numbers)
    if not finite.all():
        index = tuple(map(int, np.argwhere(~finite)[0]))
        position = ", ".join(map(str, index))
        raise DatasetError(
            f"{archive.path} must have finite float32 numbers in {key!r}, got {values[index]} in {key}[{position}] "
            f"({int((~finite).sum())} such values); fill them in, or drop those rows"
        )
    return as_floats(values)


def _labels_of(archive: _Archive, parts: list[_Array], task: Task | None) -> _Labels:
    kinds = {"text" if part.dtype.kind in "US" else "numbers" if part.dtype.kind in "biuf" else "" for part in parts}
    if len(kinds) > 1 or "" in kinds or len({part.shape[1:] for part in parts}) > 1:
        got = ", ".join(f"{list(part.shape)} {part.dtype}" for part in parts)
        raise DatasetError(f"{archive.path} must have labels that are all numbers, or all text, of one form, got {got}")
    labels = np.concatenate(parts).reshape(sum(map(len, parts)), -1)  # [N, K]
    if labels.dtype.kind == "f":
        labels = _as_floats(archive, "the labels", labels)
    several, is_text = labels.shape[1] > 1, labels.dtype.kind in "US"
    one_hot = several and not is_text and bool(np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all())
    if several and (is_text or task == "classification" or (task is None and one_hot)):
        hint = ", one-hot; pass y.argmax(axis=1)" if one_hot else ""
        raise DatasetError(f"{archive.path} must have one label for each input, got {labels.shape[1]}{hint}")
    if task is None:
        predicted = several or (labels.dtype.kind == "f" and is_regression_target(labels.astype(np.float64)))
        task = "regression" if predicted else "classification"
    names = _names(archive, _LABEL_NAMES)
    if task == "regression":
        if is_text:
            raise ConfigError(
                f"task must be 'classification' where labels are text, as in {archive.path}, got {task!r}"
            )
        default = tuple(f"target {k}" for k in range(labels.shape[1])) if several else ("target",)
        if names is not None and len(names) != labels.shape[1]:
            raise DatasetError(f"{archive.path} must have {labels.shape[1]} names of targets, got {listed(names)}")
        return _Labels(as_floats(labels), names or default, task)
    return _classes(archive, labels[:, 0], names)


def _classes(archive: _Archive, labels: _Array, label_names: tuple[str, ...] | None) -> _Labels:
    if labels.dtype.kind == "f" and is_regression_target(labels.astype(np.float64)):
        # such as class 1.5, where task says that it is a class
        texts = [repr(float(label)) for label in labels]
    elif labels.dtype.kind in "US":
        texts = _texts(labels)
        require_one_spelling(archive.path, texts)
    else:
        numbers = labels.astype(np.int64)
        if label_names is not None and 0 <= numbers.min() <= numbers.max() < len(label_names):
            return _Labels(numbers, label_names, "classification")
        texts = list(map(str, numbers))
    names = class_names(texts) if label_names is None else label_names
    if unknown := sorted(set(texts) - set(map(str, names))):
        raise DatasetError(f"{archive.path} must have labels among the names {listed(names)}, got {listed(unknown)}")
    return _Labels(class_indices(texts, names), names, "classification")


def _columns(archive: _Archive, inputs: _Array, names: tuple[str, ...], columns: Sequence[str]) -> _Array:
    """Take the columns of these names, in their order, of rows [N, F]."""
    if missing := [name for name in columns if name not in names]:
        raise DatasetError(f"{archive.path} must have the features {listed(missing)}, got {listed(names)}")
    if inputs.shape[1:] != (len(names),):
        raise DatasetError(f"{archive.path} must have inputs of {len(names)} features, got {list(inputs.shape[1:])}")
    return inputs[:, [names.index(name) for name in columns]]


def _names(archive: _Archive, keys: Sequence[str]) -> tuple[str, ...] | None:
    key = archive.find(keys)
    if key is None:
        return None
    names = tuple(_texts(archive[key].ravel()))
    if len(set(names)) < len(names):
        raise DatasetError(f"{archive.path} must have different names in {key!r}, got {listed(names)}")
    return names


def _texts(array: _Array) -> list[str]:
    return [item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in array]
