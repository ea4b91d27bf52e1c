"""Load a data set by name or path: bundled, downloaded, a toy, or the user's own files.

digits: scikit-learn's 1,797 scans, 8 x 8, values 0..16. iris, wine, breast-cancer: its tables with classes; diabetes:
    its table with a number to predict. xor, circles, moons, spirals: two-dimensional toys (see ``toys.py``).
mnist, fashion-mnist: 70,000 digits or articles of clothing, 28 x 28, values 0..255. The official test set of 10,000 is
    test; of the official training set of 60,000 the last 5,000 are validation, the others train.
FILE.npz, FILE.csv, a folder of images by class: the user's own (see ``npz_files.py``, ``csv_files.py``
    and ``image_folders.py``).

All but mnist and fashion-mnist are split by the deterministic rule of ``splits.py``, which takes no seed.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from torso.envs.datasets.bundled import BUNDLED
from torso.envs.datasets.csv_files import read_csv
from torso.envs.datasets.csv_tables import Header
from torso.envs.datasets.idx_datasets import FASHION_MNIST, MNIST
from torso.envs.datasets.image_folders import read_image_folder
from torso.envs.datasets.npz_files import read_npz
from torso.envs.datasets.splits import Parts, Splits, Task
from torso.envs.datasets.toys import TOY_NAMES, load_toy
from torso.errors import ConfigError, DatasetError

_IDX = {row.name: row for row in (MNIST, FASHION_MNIST)}
_NAMES = ("digits", *_IDX, *(name for name in BUNDLED if name != "digits"), *TOY_NAMES)
_CSV = (".csv", ".tsv")
_USER_PATH = "the path of a FILE.npz, a FILE.csv or a folder of images by class"


def load_dataset(
    name: str | os.PathLike[str],
    data_dir: Path | None = None,
    download: bool = True,
    *,
    mirrors: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    label_column: str | Sequence[str] | None = None,
    task: Task | None = None,
    header: Header = "auto",
    feature_names: Sequence[str] | None = None,
) -> Splits:
    """Load a data set by name or path, split by its fixed rule (see this module's docstring).

    name: one of ``dataset_names()``, or else a path; a folder that is called like a data set is ``./digits``.
    data_dir: a folder that holds the data set's files, or has a folder of the data set's name that does. Without it
        they are looked for in ``$TORSO_DATA/NAME``, or, where that is unset, in the user's cache; and fetched to there
        when missing.
    download: whether missing files may be fetched. mirrors: base URLs to fetch from instead of the public ones.
    classes: the names of the classes to keep, in the order of their new labels; None: all.
    label_column: the column of a CSV file that holds the labels; several hold numbers to predict. None: the one called
        label, class, target or species, or else the last.
    task: whether the labels name classes or are numbers to predict; None: what they look like.
    header: whether the first line of a CSV file holds column names: yes, no, or auto, what it looks like.
    feature_names: the feature columns to take of a file that names them, in this order; None: all but the labels'.
    Raises ``DatasetError``: an unknown name, files that are missing, damaged, cannot be fetched, or hold what cannot be
    learnt from; ``StorageError`` when fetched files cannot be written; ``ConfigError`` for an argument that the data
    set has no use for.
    """
    if header != "auto" and not _is_csv(name):
        raise ConfigError(f"header must be omitted for {str(name)!r}, which is no CSV file, got {header!r}")
    if isinstance(name, str) and name in _NAMES:
        if label_column is not None:
            raise ConfigError(f"label_column must be omitted for {name!r}, which has its labels, got {label_column!r}")
        splits = _load_named(name, data_dir, download, mirrors)
        if task not in (None, splits.train.task):
            raise ConfigError(f"task must be {splits.train.task!r} for {name!r}, got {task!r}; leave task out")
        return splits if classes is None else splits.keep(classes)
    parts = read_user_files(
        os.fspath(name), data_dir, label_column=label_column, task=task, header=header, feature_names=feature_names
    )
    return (parts if classes is None else parts.keep(classes)).split()


def dataset_names() -> tuple[str, ...]:
    """List the names that ``load_dataset`` knows."""
    return _NAMES


def _load_named(name: str, data_dir: Path | None, download: bool, mirrors: Sequence[str] | None) -> Splits:
    if name in _IDX:
        return _IDX[name].load(data_dir=data_dir, download=download, mirrors=mirrors)
    if data_dir is not None:
        origin = "is computed" if name in TOY_NAMES else "comes with scikit-learn"
        raise ConfigError(f"data_dir must be omitted for {name!r}, which {origin} and reads no files, got {data_dir}")
    return Parts(train=load_toy(name) if name in TOY_NAMES else BUNDLED[name]()).split()


def _is_csv(name: str | os.PathLike[str]) -> bool:
    return Path(name).suffix.lower() in _CSV


def read_user_files(
    name: str,
    data_dir: Path | None = None,
    *,
    label_column: str | Sequence[str] | None = None,
    task: Task | None = None,
    header: Header = "auto",
    feature_names: Sequence[str] | None = None,
) -> Parts:
    """Read a user's own files, with the parts that they set aside; see `load_dataset`."""
    path = Path(name).expanduser()
    kind = path.suffix.lower()
    if not path.exists():
        raise _not_found_error(name, path)
    if data_dir is not None:
        raise ConfigError(f"data_dir must be omitted for {name!r}, which is the data set's own path, got {data_dir}")
    if path.is_file() and kind in _CSV:
        return read_csv(
            path, name=name, label_column=label_column, task=task, header=header, feature_names=feature_names
        )
    if label_column is not None:
        raise ConfigError(f"label_column must be omitted for {name!r}, which is no CSV file, got {label_column!r}")
    if path.is_file() and kind == ".npz":
        return read_npz(path, name=name, task=task, columns=feature_names)
    if path.is_dir():
        if task == "regression":
            raise ConfigError(
                f"task must be 'classification' for {name!r}, a folder of images by class, got {task!r}; leave task out"
            )
        return read_image_folder(path, name=name)
    raise DatasetError(f"{name} must be {_USER_PATH}, got another kind of file")


def _not_found_error(name: str, path: Path) -> DatasetError:
    if path.suffix.lower() in (*_CSV, ".npz") or len(path.parts) > 1:
        return DatasetError(f"{name}: no such file or folder; pass {_USER_PATH}, or one of {', '.join(_NAMES)}")
    close = difflib.get_close_matches(name.lower(), _NAMES, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return DatasetError(f"unknown data set {name!r}; known: {', '.join(_NAMES)}; or {_USER_PATH}{hint}")
