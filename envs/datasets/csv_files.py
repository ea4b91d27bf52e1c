"""Read a CSV file as a data set: a row an example, numbers in the feature columns.

The columns are separated by commas, semicolons or tabs, whichever the first line has most of; the text is UTF-8. Cells
lose the spaces around them. Labels are classes, whole numbers or text; or numbers to predict (see ``labelling.py``).
Column names, where the file has some (see ``csv_tables.py``), choose and order the columns for a model that knows them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from torso.envs.datasets.csv_tables import (
    LABEL_COLUMNS,
    CsvTable,
    Header,
    missing_values,
    numbers_of,
    parse_numbers,
    read_table,
    require_no_missing_values,
)
from torso.envs.datasets.labelling import class_indices, class_names, is_regression_target, require_one_spelling
from torso.envs.datasets.splits import Dataset, Parts, Task, listed
from torso.errors import ConfigError, DatasetError
from torso.tables import as_floats


def read_csv(
    path: Path,
    *,
    name: str,
    label_column: str | Sequence[str] | None = None,
    task: Task | None = None,
    header: Header = "auto",
    feature_names: Sequence[str] | None = None,
) -> Parts:
    """Read a CSV file; see ``load_dataset``. Inputs are float32 [N, F], or float64 where float32 would lose too much.

    Raises ``DatasetError``: what `read_table` refuses, missing values or text in a feature column, an unknown label
    column, one of ``feature_names`` that is not there; ``ConfigError`` for a task that the label columns cannot be.
    """
    table = read_table(path, header)
    targets = _label_columns(table, label_column)
    features = [column for column in table.columns if column not in targets]
    if feature_names is not None:
        features = _named_columns(table, features, feature_names)
    if not features:
        raise DatasetError(f"{path} must have feature columns beside the labels' {listed(targets)}, got none")
    if task is None:
        task = "regression" if len(targets) > 1 or _numbers_to_predict(table.columns[targets[0]]) else "classification"
    if task == "classification" and len(targets) > 1:
        raise ConfigError(
            f"label_column must be one column for a classification, got {listed(targets)}; for several columns of "
            "numbers to predict pass task='regression'"
        )
    names: tuple[str | int, ...] = tuple(targets)
    if task == "regression":
        require_no_missing_values(table, targets)
        labels: npt.NDArray[np.float64] | npt.NDArray[np.int64] = numbers_of(table, targets, "a column to predict")
    else:
        texts = table.columns[targets[0]]
        if "" in texts:
            missing = missing_values(table, targets[0], [not text for text in texts])
            raise DatasetError(f"{path} must have no missing values, got {missing}; drop those rows")
        require_one_spelling(path, texts)
        names = class_names(texts)
        labels = class_indices(texts, names)
    require_no_missing_values(table, features)
    inputs = numbers_of(table, features, "a feature")
    return Parts(
        train=Dataset(
            name=name,
            inputs=as_floats(inputs),
            labels=as_floats(labels) if task == "regression" else labels,
            label_names=names,
            task=task,
            feature_names=tuple(features) if table.has_header else None,
            label_columns=tuple(targets),
            notes=_notes(table, features, inputs),
        )
    )


def read_csv_inputs(path: Path, feature_names: Sequence[str] | None) -> npt.NDArray[np.float64]:
    """Read the inputs of a model from a CSV file, [N, F], without labels; see `read_csv`.

    The columns are those of ``feature_names``, in their order, whatever others there are; None: all. A first line of
    numbers alone is a row.
    """
    table = read_table(path, numbers_are_data=True)
    features = _named_columns(table, list(table.columns), feature_names or list(table.columns))
    require_no_missing_values(table, features)
    return numbers_of(table, features, "a feature")


def _named_columns(table: CsvTable, columns: list[str], names: Sequence[str]) -> list[str]:
    """Choose the columns of these names; of a file without column names, which must have as many, all."""
    if not table.has_header:
        if len(columns) != len(names):
            raise DatasetError(
                f"{table.path} must have {len(names)} feature columns, got {len(columns)} and no column names"
            )
        return columns
    if missing := [name for name in names if name not in table.columns]:
        raise DatasetError(f"{table.path} must have the columns {listed(missing)}, got {listed(list(table.columns))}")
    return list(names)


def _notes(table: CsvTable, features: Sequence[str], inputs: npt.NDArray[Any]) -> tuple[str, ...]:
    """List what a reader should know of how the file was read."""
    notes = ["the first line holds column names" if table.has_header else "the first line is data: no column names"]
    if not table.has_header:
        notes[0] += "; where it holds them, say so (header='yes')"
    if table.num_blank_lines:
        notes.append(f"{table.num_blank_lines:,} blank lines are left out")
    constant = [column for column, same in zip(features, (inputs == inputs[0]).all(axis=0), strict=True) if same]
    if constant:
        notes.append(f"constant columns, of no use: {listed(constant)}")
    return tuple(notes)


def _label_columns(table: CsvTable, label_column: str | Sequence[str] | None) -> list[str]:
    columns = list(table.columns)
    if label_column is not None:
        requested = [label_column] if isinstance(label_column, str) else list(label_column)
        if not requested or len(set(requested)) < len(requested):
            raise ConfigError(f"label_column must be one column or several different ones, got {requested}")
        if unknown := [column for column in requested if column not in table.columns]:
            raise DatasetError(f"{table.path} must have the label column {listed(unknown)}, got {listed(columns)}")
        return requested
    likely = [column for column in columns if column.lower() in LABEL_COLUMNS]
    if len(likely) > 1:
        raise DatasetError(
            f"{table.path} must have one column that may hold the labels, got {listed(likely)}; name the one that does "
            "(label_column)"
        )
    return likely or columns[-1:]


def _numbers_to_predict(cells: list[str]) -> bool:
    numbers = parse_numbers(cells)
    return numbers is not None and is_regression_target(numbers)
