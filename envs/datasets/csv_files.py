"""Read a CSV file as a data set: a header, a row an example, numbers in the feature columns.

The columns are separated by commas, semicolons or tabs, whichever the header has most of; the text is UTF-8. Cells lose
the spaces around them. Labels are classes, whole numbers or text; or numbers to predict (see ``labelling.py``).
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from torso.envs.datasets.labelling import class_indices, class_names, is_regression_target
from torso.envs.datasets.splits import Dataset, Parts, Task, listed
from torso.errors import ConfigError, DatasetError

LABEL_COLUMNS = ("label", "class", "target", "species")
_DELIMITERS = (",", ";", "\t")
_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})  # lower case; "?" is the UCI repository's


@dataclass(frozen=True)
class _Table:
    """Cells of a file by column; row numbers in messages begin at 1, below the header."""

    path: str
    columns: dict[str, list[str]]
    line_numbers: list[int]  # of each row in the file

    def location(self, row: int) -> str:
        return f"row {row + 1} (line {self.line_numbers[row]})"


def read_csv(
    path: Path, *, name: str, label_column: str | Sequence[str] | None = None, task: Task | None = None
) -> Parts:
    """Read a CSV file; see ``load_dataset``. Inputs are float32 [N, F].

    Raises ``DatasetError``: no rows, ragged ones, unnamed or duplicate columns, missing values, text or constant values
    in a feature column, an unknown label column; ``ConfigError`` for a task that the label columns cannot be.
    """
    table = _read(path)
    targets = _label_columns(table, label_column)
    features = [column for column in table.columns if column not in targets]
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
        _require_no_missing_values(table, targets)
        labels: npt.NDArray[np.float32] | npt.NDArray[np.int64] = _numbers(table, targets, "a column to predict")
    else:
        texts = table.columns[targets[0]]
        if "" in texts:
            missing = _missing_values(table, targets[0], [not text for text in texts])
            raise DatasetError(f"{path} must have no missing values, got {missing}; drop those rows")
        names = class_names(texts)
        labels = class_indices(texts, names)
    _require_no_missing_values(table, features)
    inputs = _numbers(table, features, "a feature")
    constant = [column for column, same in zip(features, (inputs == inputs[0]).all(axis=0), strict=True) if same]
    if constant and len(inputs) > 1:
        raise DatasetError(f"{path} must have features that vary, got constant columns {listed(constant)}; drop them")
    return Parts(
        train=Dataset(
            name=name,
            inputs=inputs,
            labels=labels,
            label_names=names,
            task=task,
            feature_names=tuple(features),
        )
    )


def _read(path: Path) -> _Table:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            delimiter = _delimiter(file.readline())
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
            header = [cell.strip() for cell in next(reader, [])]
            _check_header(path, header)
            rows, line_numbers = [], []
            for row in reader:
                if not "".join(row).strip() and len(row) < 2:  # a blank line
                    continue
                if len(row) != len(header):
                    raise DatasetError(
                        f"{path} must have {len(header)} cells in line {reader.line_num}, as in the header, "
                        f"got {len(row)}"
                    )
                rows.append(row)
                line_numbers.append(reader.line_num)
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{path} must be text in UTF-8, got other bytes ({error.reason}); save it as UTF-8"
        ) from error
    except csv.Error as error:
        raise DatasetError(f"{path} must be CSV, got other text ({error}); is a quotation mark left open?") from error
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}") from error
    if not rows:
        raise DatasetError(f"{path} must have rows below the header, got none")
    cells = [[cell.strip() for cell in column] for column in zip(*rows, strict=True)]
    return _Table(str(path), dict(zip(header, cells, strict=True)), line_numbers)


def _delimiter(header: str) -> str:
    """Choose the delimiter that separates most columns of the header, quoted text ignored."""
    unquoted = "".join(header.split('"')[::2])
    return max(_DELIMITERS, key=unquoted.count)


def _check_header(path: Path, header: list[str]) -> None:
    if not header:
        raise DatasetError(f"{path} must have a header and rows, got an empty file")
    if _parse_numbers(header) is not None:
        raise DatasetError(f"{path} must have column names in the first line, got numbers: {listed(header)}")
    if "" in header:
        raise DatasetError(
            f"{path} must have a name for each column, got none for column {header.index('') + 1}; name it, or drop it "
            "(it may be pandas' index: to_csv(..., index=False))"
        )
    if len(set(header)) < len(header):
        duplicates = [column for column in dict.fromkeys(header) if header.count(column) > 1]
        raise DatasetError(f"{path} must have each column name once, got more of {listed(duplicates)}; rename them")


def _label_columns(table: _Table, label_column: str | Sequence[str] | None) -> list[str]:
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
    numbers = _parse_numbers(cells)
    return numbers is not None and is_regression_target(numbers)


def _require_no_missing_values(table: _Table, columns: list[str]) -> None:
    found = []
    for column in columns:
        missing = [cell.lower() in _MISSING for cell in table.columns[column]]
        if any(missing):
            found.append(_missing_values(table, column, missing))
    if found:
        more = f" (and in {len(found) - 3} more columns)" if len(found) > 3 else ""
        raise DatasetError(
            f"{table.path} must have no missing values, got {', and '.join(found[:3])}{more}; fill them in, or drop "
            "those rows or columns"
        )


def _missing_values(table: _Table, column: str, missing: list[bool]) -> str:
    count = sum(missing)
    return f"{count} in column {column!r}, {'first ' if count > 1 else ''}in {table.location(missing.index(True))}"


def _numbers(table: _Table, columns: list[str], purpose: str) -> npt.NDArray[np.float32]:
    """Convert columns to float32 [N, F]."""
    values = np.empty((len(table.line_numbers), len(columns)), np.float32)
    for index, column in enumerate(columns):
        cells = table.columns[column]
        numbers = _parse_numbers(cells)
        if numbers is None:
            raise _text_error(table, column, purpose)
        with np.errstate(over="ignore"):
            values[:, index] = numbers
        finite = np.isfinite(values[:, index])
        if not finite.all():
            row = int(np.argmin(finite))
            raise DatasetError(
                f"{table.path} must have finite float32 numbers in column {column!r}, got {cells[row]!r} in "
                f"{table.location(row)}"
            )
    return values


def _text_error(table: _Table, column: str, purpose: str) -> DatasetError:
    cells = table.columns[column]
    row = next(row for row, cell in enumerate(cells) if _parse_numbers([cell]) is None)
    if _parse_numbers([cells[row].replace(",", ".", 1)]) is not None:
        hint = "write decimals with a point"
    else:
        hint = "drop the column, or encode it in numbers, one column of 0 and 1 for each of its values"
    return DatasetError(
        f"{table.path} must have numbers in column {column!r}, {purpose}, got {cells[row]!r} in {table.location(row)}; "
        f"{hint}"
    )


def _parse_numbers(cells: list[str]) -> npt.NDArray[np.float64] | None:
    """Parse cells as numbers; None where one is no number."""
    if any("_" in cell for cell in cells):  # Python's own number syntax allows it
        return None
    try:
        return np.array(cells, np.float64)
    except ValueError:
        return None
