"""Data sets that label, each split into train, validation and test by a fixed rule.

digits: scikit-learn's 1,797 scans, 8 x 8, values 0..16. Within each class, in file order, of every ten the first seven
    are train, the next one is validation, the last two are test.
mnist: 70,000 digits, 28 x 28, values 0..255. The official test set of 10,000 is test; of the official training set of
    60,000 the last 5,000 are validation, the others train.

The rules use neither chance nor a seed, so a figure on ``test`` means the same in every run.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from torso.envs.data_files import obtain_files
from torso.envs.download import RemoteFile
from torso.envs.idx import read_idx
from torso.errors import ConfigError, DatasetError


@dataclass(frozen=True, kw_only=True)
class ImageDescription:
    """How the images of a data set are drawn: what another image must become before it is of the same kind.

    polarity: whether strokes are lighter or darker than the paper, in the data's own values.
    centring: "mass" when each image's centre of mass is at its centre, else "none".
    max_value: the value of full ink (or light); 0 is the least.
    """

    channels: int
    height: int
    width: int
    polarity: Literal["light-on-dark", "dark-on-light"]
    centring: Literal["none", "mass"]
    max_value: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Inputs with labels. Its arrays are read-only.

    inputs: [N, *shape], raw, as the file gave them. labels: [N] int64, indices into ``label_names``.
    Raises ``DatasetError`` when the two do not fit together.
    """

    name: str
    inputs: npt.NDArray[Any]
    labels: npt.NDArray[np.int64]
    label_names: tuple[str | int, ...]
    image: ImageDescription | None = None

    def __post_init__(self) -> None:
        labels = np.asarray(self.labels)
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise DatasetError(f"{self.name}: expected labels [N] of integers, got {labels.shape} {labels.dtype}")
        if len(self.inputs) != len(labels):
            raise DatasetError(
                f"{self.name}: expected a label for each of {len(self.inputs)} inputs, got {len(labels)}"
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.label_names):
            raise DatasetError(
                f"{self.name}: expected labels 0..{len(self.label_names) - 1}, got {labels.min()}..{labels.max()}"
            )
        object.__setattr__(self, "inputs", _read_only(np.asarray(self.inputs)))
        object.__setattr__(self, "labels", _read_only(labels.astype(np.int64, copy=False)))

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: npt.NDArray[np.int64] | slice) -> Dataset:
        """The rows named by indices or a slice; a slice shares memory."""
        return Dataset(
            name=self.name,
            inputs=self.inputs[rows],
            labels=self.labels[rows],
            label_names=self.label_names,
            image=self.image,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Splits:
    """One data set in three disjoint parts: to learn from, to choose by, and to report on."""

    train: Dataset
    validation: Dataset
    test: Dataset

    def __iter__(self) -> Iterator[Dataset]:
        return iter((self.train, self.validation, self.test))


@dataclass(frozen=True, kw_only=True)
class IdxFile:
    """One IDX file of a data set: as mirrors hold it, and what it holds decompressed."""

    remote: RemoteFile
    shape: tuple[int, ...]
    sha256: str


@dataclass(frozen=True, kw_only=True)
class IdxDataset:
    """A data set in four IDX files, in the order train images, train labels, test images, test labels.

    The last ``validation_size`` training images are the validation split. Files that a user supplies may be packed
    differently or not at all: their content is checked, so another data set's files of the same names are refused.
    """

    name: str
    mirrors: tuple[str, ...]
    files: tuple[IdxFile, IdxFile, IdxFile, IdxFile]
    validation_size: int
    label_names: tuple[str | int, ...]
    image: ImageDescription

    def load(self, data_dir: Path | None = None, download: bool = True, mirrors: Sequence[str] | None = None) -> Splits:
        """Find or fetch the files, read and check them, and split; see ``load_dataset``."""
        paths = obtain_files(
            self.name,
            [file.remote for file in self.files],
            self.mirrors if mirrors is None else mirrors,
            data_dir=data_dir,
            may_download=download,
        )
        arrays = [
            read_idx(path, shape=file.shape, sha256=file.sha256) for path, file in zip(paths, self.files, strict=True)
        ]
        official, test = (
            Dataset(name=self.name, inputs=inputs, labels=labels, label_names=self.label_names, image=self.image)
            for inputs, labels in (arrays[:2], arrays[2:])
        )
        first = len(official) - self.validation_size
        return Splits(train=official.take(slice(first)), validation=official.take(slice(first, None)), test=test)


# Sizes and SHA-256 of the files as their authors published them in 1998 and the mirrors serve them unchanged.
MNIST = IdxDataset(
    name="mnist",
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        "https://storage.googleapis.com/cvdf-datasets/mnist",
    ),
    files=(
        IdxFile(
            remote=RemoteFile(
                name="train-images-idx3-ubyte.gz",
                num_bytes=9_912_422,
                sha256="440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            shape=(60_000, 28, 28),
            sha256="ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        IdxFile(
            remote=RemoteFile(
                name="train-labels-idx1-ubyte.gz",
                num_bytes=28_881,
                sha256="3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            shape=(60_000,),
            sha256="65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
        IdxFile(
            remote=RemoteFile(
                name="t10k-images-idx3-ubyte.gz",
                num_bytes=1_648_877,
                sha256="8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            shape=(10_000, 28, 28),
            sha256="0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        IdxFile(
            remote=RemoteFile(
                name="t10k-labels-idx1-ubyte.gz",
                num_bytes=4_542,
                sha256="f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
            shape=(10_000,),
            sha256="ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    validation_size=5_000,
    label_names=tuple(range(10)),
    image=ImageDescription(channels=1, height=28, width=28, polarity="light-on-dark", centring="mass", max_value=255.0),
)


class _Loader(Protocol):
    def __call__(self, data_dir: Path | None, download: bool, mirrors: Sequence[str] | None) -> Splits: ...


def load_dataset(
    name: str, data_dir: Path | None = None, download: bool = True, *, mirrors: Sequence[str] | None = None
) -> Splits:
    """Load a data set by name, split by its fixed rule (see this module's docstring).

    data_dir: a folder that holds the data set's files, or has a folder of the data set's name that does. Without it
        they are looked for in ``$TORSO_DATA/NAME``, or, where that is unset, in the user's cache; and fetched to there
        when missing.
    download: whether missing files may be fetched. mirrors: base URLs to fetch from instead of the public ones.
    Raises ``DatasetError``: an unknown name, files that are missing, damaged or cannot be fetched; ``StorageError``
    when fetched files cannot be written; ``ConfigError`` for a ``data_dir`` that the data set has no use for.
    """
    if name not in _LOADERS:
        close = difflib.get_close_matches(name.lower(), _LOADERS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise DatasetError(f"unknown data set {name!r}; known: {', '.join(dataset_names())}{hint}")
    return _LOADERS[name](data_dir=data_dir, download=download, mirrors=mirrors)


def dataset_names() -> tuple[str, ...]:
    """The names that ``load_dataset`` knows."""
    return tuple(_LOADERS)


def _load_digits(data_dir: Path | None, download: bool, mirrors: Sequence[str] | None) -> Splits:
    if data_dir is not None:
        raise ConfigError(
            f"data_dir {data_dir}: 'digits' comes with scikit-learn and reads no files; leave data_dir out"
        )
    from sklearn.datasets import load_digits  # here, since it costs a second that no agent needs

    bunch = load_digits()
    scans = Dataset(
        name="digits",
        inputs=bunch.images.astype(np.uint8),
        labels=bunch.target.astype(np.int64),
        label_names=tuple(range(10)),
        image=ImageDescription(
            channels=1, height=8, width=8, polarity="light-on-dark", centring="none", max_value=16.0
        ),
    )
    train, validation, test = (scans.take(rows) for rows in _rows_by_class(scans.labels))
    return Splits(train=train, validation=validation, test=test)


def _rows_by_class(labels: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], ...]:
    """Rows of train, validation and test, each in file order: the k-th of its class goes by k % 10 (0-6, 7, 8-9)."""
    rank = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        of_class = labels == label
        rank[of_class] = np.arange(of_class.sum())
    turn = rank % 10
    return np.flatnonzero(turn < 7), np.flatnonzero(turn == 7), np.flatnonzero(turn >= 8)


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A view that refuses to be written through; the array that it views stays its owner's."""
    view = array.view()
    view.setflags(write=False)
    return view


_LOADERS: dict[str, _Loader] = {"digits": _load_digits, **{row.name: row.load for row in (MNIST,)}}
