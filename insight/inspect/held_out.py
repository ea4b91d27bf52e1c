"""Test data of a model: the data set that it was fitted to, or another one, in the form that the model takes."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from torso.envs import Dataset, Splits, dataset_names, load_dataset
from torso.envs.datasets.by_name import read_user_files
from torso.envs.datasets.image_folders import list_test_images, read_file, read_image_folder
from torso.envs.datasets.splits import Parts
from torso.errors import DatasetError, InputError
from torso.nets import ModelCard
from torso.nets.prediction.image_inputs import decode_inputs

_TABLES = (".csv", ".tsv")


def load_test_data(card: ModelCard, dataset: str | None = None, data_dir: Path | None = None) -> Dataset | None:
    """Load what a model is to be tested on: the test part of the data that it was fitted to, or all of other files.

    dataset: another data set; None: the model's own, and where its card names none, None is returned. Columns are taken
    by their names, images in the model's size, colours and polarity. A user's own files that are not those that the
    model was fitted to (another path and other content) are whole, whatever classes they have, unless they set a test
    part aside; the names of classes that the model does not know come after the model's own. A data set of torso's own
    has its test part.

    Raises:
        DatasetError, ConfigError, StorageError: see `load_dataset`.
    """
    source = source_of(card, dataset)
    if source is None:
        return None
    if dataset is None or dataset in dataset_names():
        return load_dataset(data_dir=data_dir, feature_names=card.feature_names, **source).test
    classes = source.pop("classes", None)
    path, is_own = Path(dataset).expanduser(), _is_path_of(card, dataset)
    if path.is_dir() and not is_own and data_dir is None and card.network.input.image is not None:
        with suppress(DatasetError):  # of images of several sizes, which it was not fitted to
            parts = read_image_folder(path, name=dataset)
            if _is_fitted_data(card, parts, classes):
                return _split(parts, classes).test
        data = _read_folder(card, path, dataset)
    else:
        columns = card.provenance.get("label_columns")
        if "label_column" not in source and columns and path.suffix.lower() in _TABLES:
            source["label_column"] = columns
        source["task"] = "regression" if card.kind == "regressor" else "classification"
        parts = read_user_files(data_dir=data_dir, feature_names=card.feature_names, **source)
        if is_own or _is_fitted_data(card, parts, classes):
            return _split(parts, classes).test
        data = parts.train if parts.test is None else parts.test
        if card.kind == "regressor" or card.labels is None:
            return data
        data = data.relabelled(card.labels)
    return data if classes is None or card.labels is None else of_known_labels(data, len(card.labels))


def source_of(card: ModelCard, dataset: str | None = None) -> dict[str, Any] | None:
    """Return the `load_dataset` arguments of the data that a model was fitted to; None where its card has none.

    ``dataset`` is another data set to inspect it with, which is loaded as the model's own was: of the same classes
    and task, and, where it is a table, with the same columns to predict.
    """
    recorded = card.provenance.get("source")
    source = dict(recorded) if isinstance(recorded, dict) else {}
    name = dataset or source.get("name") or card.provenance.get("dataset")
    if not isinstance(name, str):
        return None
    if dataset is not None and Path(dataset).suffix.lower() not in _TABLES:
        source.pop("label_column", None)
    return {**source, "name": name}


def of_known_labels(data: Dataset, num_labels: int) -> Dataset:
    """Select the rows of the first labels, which a model knows."""
    return data.keep([str(name) for name in data.label_names[:num_labels]])


def _is_path_of(card: ModelCard, dataset: str) -> bool:
    recorded = card.provenance.get("source")
    own_name = recorded.get("name") if isinstance(recorded, dict) else None
    return own_name is not None and Path(own_name).expanduser().resolve() == Path(dataset).expanduser().resolve()


def _is_fitted_data(card: ModelCard, parts: Parts, classes: list[str] | None) -> bool:
    """Whether these are the data that the model was fitted to, under another path."""
    known = card.provenance.get("data_sha256")
    try:
        return known is not None and _split(parts, classes).sha256() == known
    except DatasetError:  # they have other classes, or too few rows to have been fitted to
        return False


def _split(parts: Parts, classes: list[str] | None) -> Splits:
    return (parts if classes is None else parts.keep(classes)).split()


def _read_folder(card: ModelCard, folder: Path, name: str) -> Dataset:
    labels = tuple(range(card.network.num_outputs)) if card.labels is None else card.labels
    paths, indices, names = list_test_images(folder, [str(label) for label in labels])
    spec = card.network.input
    try:
        inputs = decode_inputs([read_file(path) for path in paths], spec, fields=[str(path) for path in paths])
    except InputError as error:
        raise DatasetError(str(error)) from error
    known = tuple(label if isinstance(label, (str, int)) else str(label) for label in labels)
    return Dataset(
        name=name, inputs=inputs, labels=indices, label_names=(*known, *names[len(known) :]), image=spec.image
    )
