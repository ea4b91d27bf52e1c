"""A labelled data set, and the fixed rule by which it is split into train, validation and test.

Within each class, in file order, of every ten rows the first seven are train, the next one is validation, the last two
are test; a class of fewer than ten gives its last row to test and the one before to validation. Rows with numbers to
predict (a regression) are split as one class. Equal rows stay together: where the rule would part copies of a class's
rows, its distinct rows are counted, and the copies go where the first one goes. Where the makers of a data set have set
a part aside, that part stays as it is, and train keeps the rows that the rule would have moved to it.

The rule is deterministic and takes no seed, so a figure on ``test`` means the same in every run; and as it works on one
class at a time, leaving classes out moves no other row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from torso.equal_rows import first_equal_rows
from torso.errors import ConfigError, DatasetError
from torso.image_spec import ImageSpec
from torso.tables import as_floats

Task = Literal["classification", "regression"]
_MAX_LISTED = 12  # names in a message


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Labelled examples: inputs with labels. Its arrays are read-only.

    inputs: [N, *shape], raw, as the file gave them. labels: for classification [N] int64, indices into
    ``label_names``; for regression [N, K] float32 or float64, in the units of the file, and ``label_names`` name the K
    targets.
    feature_names: a name for each column of inputs [N, F], where they have any. label_columns: a table's columns that
    the labels are from. notes: what a reader should know of how the file was read, a line each.
    Raises ``DatasetError`` when these do not fit together.
    """

    name: str
    inputs: npt.NDArray[Any]
    labels: npt.NDArray[Any]
    label_names: tuple[str | int | float | bool, ...]
    image: ImageSpec | None = None
    task: Task = "classification"
    feature_names: tuple[str, ...] | None = None
    label_columns: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        inputs = np.asarray(self.inputs)
        labels = self._checked_labels(np.asarray(self.labels))
        if len(inputs) != len(labels):
            raise DatasetError(f"{self.name} must have a label for each of {len(inputs)} inputs, got {len(labels)}")
        names = self.feature_names
        if names is not None and inputs.shape[1:] != (len(names),):
            raise DatasetError(
                f"{self.name} must have inputs of {len(names)} named features, got {list(inputs.shape[1:])}"
            )
        object.__setattr__(self, "inputs", _read_only(inputs))
        object.__setattr__(self, "labels", _read_only(labels))

    def _checked_labels(self, labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        num_names = len(self.label_names)
        if self.task == "regression":
            if labels.ndim != 2 or labels.shape[1] != num_names or labels.dtype.kind not in "iuf":
                raise DatasetError(
                    f"{self.name} must have numbers [N, {num_names}] to predict, got {labels.shape} {labels.dtype}"
                )
            with np.errstate(over="ignore"):
                finite = np.isfinite(labels.astype(np.float32)).all()
            if not finite:
                raise DatasetError(f"{self.name} must have finite float32 numbers to predict, got NaN or infinity")
            return as_floats(labels)
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise DatasetError(f"{self.name} must have labels [N] of integers, got {labels.shape} {labels.dtype}")
        if len(labels) and not 0 <= labels.min() <= labels.max() < num_names:
            raise DatasetError(f"{self.name} must have labels 0..{num_names - 1}, got {labels.min()}..{labels.max()}")
        return labels.astype(np.int64, copy=False)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: npt.NDArray[np.int64] | slice) -> Dataset:
        """Select rows by indices or a slice; a slice shares memory."""
        return replace(self, inputs=self.inputs[rows], labels=self.labels[rows])

    def keep(self, classes: Sequence[str]) -> Dataset:
        """Select the rows of these classes only, which are the new labels 0, 1, ... in the order given.

        classes: names as text; 0 is "0".
        Raises ``DatasetError`` for fewer than two, one named twice, or one that is not there; ``ConfigError`` for a
        regression, which has none.
        """
        if self.task == "regression":
            raise ConfigError(
                f"classes must be omitted for {self.name}, which has numbers to predict and no classes, got {classes!r}"
            )
        if isinstance(classes, str):
            raise ConfigError(f"classes must be a list of at least 2 names, got the text {classes!r}")
        known = {str(name): label for label, name in enumerate(self.label_names)}
        requested = [str(name) for name in classes]
        available = f"{self.name} has {listed(list(known))}"
        if unknown := [name for name in requested if name not in known]:
            raise DatasetError(f"classes must be names in {self.name}, got {listed(unknown)}; {available}")
        if len(set(requested)) != len(requested):
            raise DatasetError(f"classes must be different names, got {', '.join(requested)}; {available}")
        if len(requested) < 2:
            raise DatasetError(
                f"classes must hold at least 2 names, got {listed(requested) if requested else 'none'}; {available}"
            )
        old = np.array([known[name] for name in requested])
        new_label = np.full(len(self.label_names), -1, np.int64)
        new_label[old] = np.arange(len(old))
        labels = new_label[self.labels]
        rows = np.flatnonzero(labels >= 0)
        names = tuple(self.label_names[label] for label in old)
        notes = self.notes
        if left_out := len(self) - len(rows):
            notes = (*notes, f"{left_out:,} rows of other classes are left out")
        return replace(self, inputs=self.inputs[rows], labels=labels[rows], label_names=names, notes=notes)

    def relabelled(self, known: Sequence[str | int | float | bool]) -> Dataset:
        """Number the labels as in ``known``, compared as text; the names of others come behind."""
        texts = [str(name) for name in known]
        own = [str(name) for name in self.label_names]
        others = [name for name, text in zip(self.label_names, own, strict=True) if text not in texts]
        index = {text: label for label, text in enumerate([*texts, *map(str, others)])}
        labels = np.array([index[text] for text in own], np.int64)[self.labels]
        return replace(self, labels=labels, label_names=(*known, *others))


class RepeatedRows(NamedTuple):
    """Counts: all rows, those that repeat an earlier one, and those whose earlier one is in another part."""

    rows: int
    repeated: int
    across: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Splits:
    """One data set in three disjoint parts: train to learn, validation to select, test to report."""

    train: Dataset
    validation: Dataset
    test: Dataset

    def __iter__(self) -> Iterator[Dataset]:
        return iter((self.train, self.validation, self.test))

    def keep(self, classes: Sequence[str]) -> Splits:
        """Select these classes in every part; see ``Dataset.keep``."""
        train, validation, test = (part.keep(classes) for part in self)
        return Splits(train=train, validation=validation, test=test)

    def sha256(self) -> str:
        """Hash all inputs and labels (SHA-256)."""
        digest = hashlib.sha256()
        for part in self:
            digest.update(f"{part.inputs.dtype} {part.inputs.shape}".encode())
            digest.update(np.ascontiguousarray(part.inputs).data)
            digest.update(np.ascontiguousarray(part.labels).data)
        return digest.hexdigest()

    def repeated_rows(self) -> RepeatedRows:
        """Count the rows whose inputs equal an earlier row's, and those in two parts, which their makers set aside."""
        first = first_equal_rows(np.concatenate([part.inputs for part in self]))
        part = np.repeat(np.arange(3), [len(part) for part in self])
        repeated, across = first != np.arange(len(first)), part[first] != part
        return RepeatedRows(rows=len(first), repeated=int(repeated.sum()), across=int(across.sum()))


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """A data set before it is split: whole, or with a validation or test part that its makers set aside."""

    train: Dataset
    validation: Dataset | None = None
    test: Dataset | None = None

    def keep(self, classes: Sequence[str]) -> Parts:
        """Select these classes in every part; see ``Dataset.keep``."""
        kept = [None if part is None else part.keep(classes) for part in (self.validation, self.test)]
        return Parts(train=self.train.keep(classes), validation=kept[0], test=kept[1])

    def split(self) -> Splits:
        """Split off the parts that were not set aside, by this module's rule.

        Raises ``DatasetError`` for one class only, or for a class, or a part, that has too few rows.
        """
        data = self.train
        labels = data.labels if data.task == "classification" else np.zeros(len(data), np.int64)
        _check_rows(self)
        position = split_positions(labels, first_equal_rows(data.inputs))
        to_validation = (position == 7) if self.validation is None else np.zeros(len(data), bool)
        to_test = (position >= 8) if self.test is None else np.zeros(len(data), bool)
        return Splits(
            train=data.take(np.flatnonzero(~(to_validation | to_test))),
            validation=data.take(np.flatnonzero(to_validation)) if self.validation is None else self.validation,
            test=data.take(np.flatnonzero(to_test)) if self.test is None else self.test,
        )


def split_positions(labels: npt.NDArray[np.int64], first: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Position of each row as `cycle_positions` gives it, equal for equal rows.

    Of fewer than three distinct rows of a class the first is train and the second test. labels: [N] int64; first: [N]
    int64, the first row with the same inputs. Returns [N].
    """
    position = cycle_positions(labels)
    parts = np.clip(position, 6, 8)
    is_first = _is_first_of_pair(first, labels)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        part_of_first = dict(zip(first[rows][is_first[rows]], parts[rows][is_first[rows]], strict=True))
        if any(part_of_first[group] != part for group, part in zip(first[rows], parts[rows], strict=True)):
            distinct = rows[is_first[rows]]
            position[distinct] = [0, 9][: len(distinct)] if len(distinct) < 3 else cycle_positions(labels[distinct])
    return position[first]


def _is_first_of_pair(first: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Mark the first row of each pair of inputs and label, bool [N]."""
    mask = np.zeros(len(labels), bool)
    mask[np.unique(np.stack([first, labels]), axis=1, return_index=True)[1]] = True
    return mask


def cycle_positions(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Position of each row in its class's cycle of ten, k % 10 for the k-th: 0-6 train, 7 validation, 8 and 9 test.

    In a class of fewer than ten rows the last has position 9 and the one before has 7. labels: [N] int64. Returns [N].
    """
    counts = np.bincount(labels)
    first = np.cumsum(counts) - counts
    order = np.argsort(labels, kind="stable")
    rank = np.empty(len(labels), np.int64)
    rank[order] = np.arange(len(labels)) - np.repeat(first, counts)
    position = rank % 10
    size = counts[labels]
    position[(size < 10) & (rank < size - 2)] = 0
    position[(size < 10) & (rank == size - 2)] = 7
    position[(size < 10) & (rank == size - 1)] = 9
    return position


def listed(names: Sequence[object]) -> str:
    """Format names for a message; of many, the first ones and the count of the others."""
    if len(names) <= _MAX_LISTED:
        return ", ".join(repr(name) for name in names)
    return f"{', '.join(repr(name) for name in names[:_MAX_LISTED])} and {len(names) - _MAX_LISTED} more"


def _check_rows(parts: Parts) -> None:
    data = parts.train
    for purpose, part in (("validation", parts.validation), ("test", parts.test)):
        if part is not None and not len(part):
            raise DatasetError(f"{data.name} must have rows set aside for {purpose}, got none")
    needed = 1 + (parts.validation is None) + (parts.test is None)
    purposes = ["train"] + ["validation"] * (parts.validation is None) + ["test"] * (parts.test is None)
    required = (
        f"at least {needed} rows, one each for {', '.join(purposes)}" if needed > 1 else "at least 1 row to train"
    )
    if data.task == "regression":
        if len(data) < needed:
            raise DatasetError(f"{data.name} must have {required}, got {_row_count(len(data))}")
        return
    if len(data.label_names) < 2:
        raise DatasetError(f"{data.name} must have at least 2 classes, got only {listed(data.label_names) or 'none'}")
    counts = np.bincount(data.labels, minlength=len(data.label_names))
    rare = np.flatnonzero(counts < needed)
    if len(rare):
        worst = int(rare[0])
        others = f" ({len(rare)} of {len(counts)} classes have too few)" if len(rare) > 1 else ""
        raise DatasetError(
            f"{data.name} must have {required}, of each class, got {_row_count(int(counts[worst]))} of class "
            f"{data.label_names[worst]!r}{others}; add rows, keep other classes (classes), or, where these are numbers "
            "to predict, pass task='regression'"
        )


def _row_count(count: int) -> str:
    return f"{count} row" if count == 1 else f"{count} rows"


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a read-only view; the array itself stays writable for its owner."""
    view = array.view()
    view.setflags(write=False)
    return view
