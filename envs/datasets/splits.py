"""A data set that labels, and the fixed rule by which it is split into train, validation and test.

Within each class, in file order, of every ten rows the first seven are train, the next one is validation, the last two
are test; a class of fewer than ten gives its last row to test and the one before to validation. Rows with numbers to
predict (a regression) are split as one class. Where the makers of a data set have set a part aside, that part stays as
it is, and train keeps what it would have given to it.

The rule uses neither chance nor a seed, so a figure on ``test`` means the same in every run; and as it looks at one
class at a time, leaving classes out moves no other row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from torso.errors import ConfigError, DatasetError
from torso.image_spec import ImageSpec

Task = Literal["classification", "regression"]
_SHOWN = 12  # names in a message


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Inputs with labels. Its arrays are read-only.

    inputs: [N, *shape], raw, as the file gave them. labels: for classification [N] int64, indices into
    ``label_names``; for regression [N, K] float32, in the units of the file, and ``label_names`` name the K targets.
    feature_names: a name for each column of inputs [N, F], where they have any.
    Raises ``DatasetError`` when these do not fit together.
    """

    name: str
    inputs: npt.NDArray[Any]
    labels: npt.NDArray[Any]
    label_names: tuple[str | int, ...]
    image: ImageSpec | None = None
    task: Task = "classification"
    feature_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        inputs = np.asarray(self.inputs)
        labels = self._checked_labels(np.asarray(self.labels))
        if len(inputs) != len(labels):
            raise DatasetError(f"{self.name}: expected a label for each of {len(inputs)} inputs, got {len(labels)}")
        names = self.feature_names
        if names is not None and inputs.shape[1:] != (len(names),):
            raise DatasetError(
                f"{self.name}: expected inputs of {len(names)} named features, got {list(inputs.shape[1:])}"
            )
        object.__setattr__(self, "inputs", _read_only(inputs))
        object.__setattr__(self, "labels", _read_only(labels))

    def _checked_labels(self, labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        num_names = len(self.label_names)
        if self.task == "regression":
            if labels.ndim != 2 or labels.shape[1] != num_names or labels.dtype.kind not in "iuf":
                raise DatasetError(
                    f"{self.name}: expected numbers [N, {num_names}] to predict, got {labels.shape} {labels.dtype}"
                )
            if not np.isfinite(targets := labels.astype(np.float32, copy=False)).all():
                raise DatasetError(f"{self.name}: expected finite float32 numbers to predict, got NaN or infinity")
            return targets
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise DatasetError(f"{self.name}: expected labels [N] of integers, got {labels.shape} {labels.dtype}")
        if len(labels) and not 0 <= labels.min() <= labels.max() < num_names:
            raise DatasetError(f"{self.name}: expected labels 0..{num_names - 1}, got {labels.min()}..{labels.max()}")
        return labels.astype(np.int64, copy=False)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: npt.NDArray[np.int64] | slice) -> Dataset:
        """The rows named by indices or a slice; a slice shares memory."""
        return replace(self, inputs=self.inputs[rows], labels=self.labels[rows])

    def keep(self, classes: Sequence[str]) -> Dataset:
        """The rows of these classes only, which are the new labels 0, 1, ... in the order given.

        classes: names as text; 0 is "0".
        Raises ``DatasetError`` for fewer than two, one named twice, or one that is not there; ``ConfigError`` for a
        regression, which has none.
        """
        if self.task == "regression":
            raise ConfigError(f"classes: {self.name} has numbers to predict and no classes; leave classes out")
        if isinstance(classes, str):
            raise ConfigError(f"classes: expected a list of at least 2 names, got the text {classes!r}")
        known = {str(name): label for label, name in enumerate(self.label_names)}
        wanted = [str(name) for name in classes]
        there = f"{self.name} has {listed(list(known))}"
        if unknown := [name for name in wanted if name not in known]:
            raise DatasetError(f"classes: {listed(unknown)} unknown; {there}")
        if len(set(wanted)) != len(wanted):
            raise DatasetError(f"classes: expected each once, got {', '.join(wanted)}; {there}")
        if len(wanted) < 2:
            raise DatasetError(f"classes: expected at least 2, got {listed(wanted) if wanted else 'none'}; {there}")
        old = np.array([known[name] for name in wanted])
        new_label = np.full(len(self.label_names), -1, np.int64)
        new_label[old] = np.arange(len(old))
        labels = new_label[self.labels]
        rows = np.flatnonzero(labels >= 0)
        names = tuple(self.label_names[label] for label in old)
        return replace(self, inputs=self.inputs[rows], labels=labels[rows], label_names=names)


@dataclass(frozen=True, kw_only=True, eq=False)
class Splits:
    """One data set in three disjoint parts: to learn from, to choose by, and to report on."""

    train: Dataset
    validation: Dataset
    test: Dataset

    def __iter__(self) -> Iterator[Dataset]:
        return iter((self.train, self.validation, self.test))

    def keep(self, classes: Sequence[str]) -> Splits:
        """These classes of every part; see ``Dataset.keep``."""
        train, validation, test = (part.keep(classes) for part in self)
        return Splits(train=train, validation=validation, test=test)


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """A data set as its makers left it: whole, or with a validation or test part set aside."""

    train: Dataset
    validation: Dataset | None = None
    test: Dataset | None = None

    def keep(self, classes: Sequence[str]) -> Parts:
        """These classes of every part; see ``Dataset.keep``."""
        kept = [None if part is None else part.keep(classes) for part in (self.validation, self.test)]
        return Parts(train=self.train.keep(classes), validation=kept[0], test=kept[1])

    def split(self) -> Splits:
        """Split by this module's rule what was not set aside.

        Raises ``DatasetError`` for one class only, or for a class, or a part, that has too few rows.
        """
        data = self.train
        _check_rows(self)
        turn = turns(data.labels if data.task == "classification" else np.zeros(len(data), np.int64))
        to_validation = (turn == 7) if self.validation is None else np.zeros(len(data), bool)
        to_test = (turn >= 8) if self.test is None else np.zeros(len(data), bool)
        return Splits(
            train=data.take(np.flatnonzero(~(to_validation | to_test))),
            validation=data.take(np.flatnonzero(to_validation)) if self.validation is None else self.validation,
            test=data.take(np.flatnonzero(to_test)) if self.test is None else self.test,
        )


def turns(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Each row's turn, 0 to 9: the k-th of its class has k % 10; 0-6 are train, 7 is validation, 8 and 9 are test.

    In a class of fewer than ten rows the last has turn 9 and the one before has 7. labels: [N] int64. Returns [N].
    """
    counts = np.bincount(labels)
    first = np.cumsum(counts) - counts
    order = np.argsort(labels, kind="stable")
    rank = np.empty(len(labels), np.int64)
    rank[order] = np.arange(len(labels)) - np.repeat(first, counts)
    turn = rank % 10
    size = counts[labels]
    turn[(size < 10) & (rank < size - 2)] = 0
    turn[(size < 10) & (rank == size - 2)] = 7
    turn[(size < 10) & (rank == size - 1)] = 9
    return turn


def listed(names: Sequence[object]) -> str:
    """Names for a message; of many, the first ones and how many there are."""
    if len(names) <= _SHOWN:
        return ", ".join(repr(name) for name in names)
    return f"{', '.join(repr(name) for name in names[:_SHOWN])} and {len(names) - _SHOWN} more"


def _check_rows(parts: Parts) -> None:
    data = parts.train
    for purpose, part in (("validation", parts.validation), ("test", parts.test)):
        if part is not None and not len(part):
            raise DatasetError(f"{data.name}: expected rows set aside for {purpose}, got none")
    needed = 1 + (parts.validation is None) + (parts.test is None)
    purposes = ["train"] + ["validation"] * (parts.validation is None) + ["test"] * (parts.test is None)
    wanted = f"at least {needed}, one each for {', '.join(purposes)}" if needed > 1 else "at least 1 to train"
    if data.task == "regression":
        if len(data) < needed:
            raise DatasetError(f"{data.name}: expected {wanted}, got {_rows(len(data))}")
        return
    if len(data.label_names) < 2:
        raise DatasetError(f"{data.name}: expected at least 2 classes, got only {listed(data.label_names) or 'none'}")
    counts = np.bincount(data.labels, minlength=len(data.label_names))
    rare = np.flatnonzero(counts < needed)
    if len(rare):
        worst = int(rare[0])
        others = f" ({len(rare)} of {len(counts)} classes have too few)" if len(rare) > 1 else ""
        raise DatasetError(
            f"{data.name}: expected {wanted}, of each class; got {_rows(int(counts[worst]))} of class "
            f"{data.label_names[worst]!r}{others}. Add rows, keep other classes (classes), or, where these are numbers "
            "to predict, say task='regression'"
        )


def _rows(count: int) -> str:
    return f"{count} row" if count == 1 else f"{count} rows"


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A view that refuses to be written through; the array that it views stays its owner's."""
    view = array.view()
    view.setflags(write=False)
    return view
