"""Test data of a model: the data set that it was fitted to, or another one, in the form that the model takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torso.envs import Dataset, dataset_names, load_dataset
from torso.envs.datasets.image_folders import list_test_images, read_file
from torso.errors import DatasetError, InputError
from torso.nets import ModelCard
from torso.nets.prediction.image_inputs import decode_inputs


def load_test_data(card: ModelCard, dataset: str | None = None, data_dir: Path | None = None) -> Dataset | None:
    """Load the test data of the data set that a model was fitted to, or of ``dataset``; None where neither is known.

    A folder of images is read as the model's image files are when it is served: in its size, colours and polarity, and
    with its labels, of which the folder may lack some.

    Raises:
        DatasetError, ConfigError, StorageError: see `load_dataset`.
    """
    source = source_of(card, dataset)
    if source is None:
        return None
    folder = Path(source["name"]).expanduser()
    is_folder = source["name"] not in dataset_names() and folder.is_dir() and data_dir is None
    if is_folder and card.network.input.image is not None:
        return _read_folder(card, folder, source["name"])
    return load_dataset(data_dir=data_dir, **source).test


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
    if dataset is not None and Path(dataset).suffix.lower() not in (".csv", ".tsv"):
        source.pop("label_column", None)
    return {**source, "name": name}


def _read_folder(card: ModelCard, folder: Path, name: str) -> Dataset:
    labels = tuple(range(card.network.num_outputs)) if card.labels is None else card.labels
    paths, indices = list_test_images(folder, [str(label) for label in labels])
    spec = card.network.input
    try:
        inputs = decode_inputs([read_file(path) for path in paths], spec, fields=[str(path) for path in paths])
    except InputError as error:
        raise DatasetError(str(error)) from error
    names = tuple(label if isinstance(label, (str, int)) else str(label) for label in labels)
    return Dataset(name=name, inputs=inputs, labels=indices, label_names=names, image=spec.image)
