"""Read the cells of a CSV file by column, and tell a header from a first row of data."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from torso.envs.datasets.splits import listed
from torso.errors import ConfigError, DatasetError

Header = Literal["auto", "yes", "no"]
LABEL_COLUMNS = ("label", "class", "target", "species")
_HEADERS = ("auto", "yes", "no")
_DELIMITERS = (",", ";", "\t")
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})  # lower case; "?" is the UCI repository's


@dataclass(frozen=True)
class CsvTable:
    """Cells of a file by column; row numbers in messages begin at 1, below the header."""

    path: str
    columns: dict[str, list[str]]
    line_numbers: list[int]  # of each row in the file
    has_header: bool
    """Whether the first line names the columns; otherwise they are called "column 1" and so on."""
    num_blank_lines: int

    def location(self, row: int) -> str:
        """Format where a row is."""
        return f"row {row + 1} (line {self.line_numbers[row]})"


def read_table(path: Path, header: Header = "auto", *, numbers_are_data: bool = False) -> CsvTable:
    """Read a CSV file's cells, without the spaces around them.

    header: whether the first line holds column names. auto: it does where it has text above numbers, or a usual name of
    the labels; it is a row of data where it only has numbers above numbers. numbers_are_data: so is a first line of
    numbers alone.

    Raises ``DatasetError``: no rows, ragged ones, unnamed or duplicate columns, text that is no CSV in UTF-8, a first
    line of numbers alone with ``auto``; ``ConfigError`` for another ``header``.
    """
    if header not in _HEADERS:
        raise ConfigError(f"header must be one of {', '.join(_HEADERS)}; got {header!r}")
    lines, line_numbers, num_blank = _read_lines(path)
    if not lines or not lines[0]:
        raise DatasetError(f"{path} must have a header and rows, got an empty file")
    first, *rows = lines
    for row, line in zip(rows, line_numbers[1:], strict=True):
        if len(row) != len(first):
            raise DatasetError(f"{path} must have {len(first)} cells in line {line}, as in the header, got {len(row)}")
    if header == "auto" and numbers_are_data and parse_numbers(first) is not None:
        header = "no"
    has_header = _is_header(path, first, rows) if header == "auto" else header == "yes"
    if has_header:
        _check_header(path, first)
        if not rows:
            raise DatasetError(f"{path} must have rows below the header, got none")
        names, line_numbers = first, line_numbers[1:]
    else:
        names, rows = [f"column {number}" for number in range(1, len(first) + 1)], lines
    columns = [list(column) for column in zip(*rows, strict=True)]
    return CsvTable(str(path), dict(zip(names, columns, strict=True)), line_numbers, has_header, num_blank)


def _read_lines(path: Path) -> tuple[list[list[str]], list[int], int]:
    """Read the cells of all lines, their numbers, and how many were blank."""
    lines: list[list[str]] = []
    line_numbers: list[int] = []
    num_blank = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            delimiter = _delimiter(file.readline())
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
            for row in reader:
                if lines and len(row) < 2 and not "".join(row).strip():
                    num_blank += 1
                    continue
                lines.append([cell.strip() for cell in row])
                line_numbers.append(reader.line_num)
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{path} must be text in UTF-8, got other bytes ({error.reason}); save it as UTF-8"
        ) from error
    except csv.Error as error:
        raise DatasetError(f"{path} must be CSV, got other text ({error}); is a quotation mark left open?") from error
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}") from error
    return lines, line_numbers, num_blank


def _delimiter(header: str) -> str:
    """Choose the delimiter that separates most columns of the header, quoted text ignored."""
    unquoted = "".join(header.split('"')[::2])
    return max(_DELIMITERS, key=unquoted.count)


def _is_header(path: Path, first: list[str], rows: list[list[str]]) -> bool:
    if parse_numbers(first) is not None:
        raise DatasetError(
            f"{path} must have column names in the first line, got numbers: {listed(first)}; if they are data, say "
            "that there is no header (header='no'), and if they are names, header='yes'"
        )
    if not rows or any(cell.lower() in LABEL_COLUMNS for cell in first):
        return True
    above_numbers = [
        cell
        for cell, column in zip(first, zip(*rows, strict=True), strict=True)
        if parse_numbers([other for other in column if other.lower() not in MISSING]) is not None
    ]
    numbers = [parse_numbers([cell]) is not None or (cell != "" and cell.lower() in MISSING) for cell in above_numbers]
    return not numbers or not all(numbers)


def _check_header(path: Path, header: list[str]) -> None:
    if "" in header:
        raise DatasetError(
            f"{path} must have a name for each column, got none for column {header.index('') + 1}; name it, or drop it "
            "(it may be pandas' index: to_csv(..., index=False))"
        )
    if len(set(header)) < len(header):
        duplicates = [column for column in dict.fromkeys(header) if header.count(column) > 1]
        raise DatasetError(f"{path} must have each column name once, got more of {listed(duplicates)}; rename them")


def require_no_missing_values(table: CsvTable, columns: Sequence[str]) -> None:
    """Raise ``DatasetError`` where cells of these columns are missing."""
    found = []
    for column in columns:
        missing = [cell.lower() in MISSING for cell in table.columns[column]]
        if any(missing):
            found.append(missing_values(table, column, missing))
    if found:
        more = f" (and in {len(found) - 3} more columns)" if len(found) > 3 else ""
        raise DatasetError(
            f"{table.path} must have no missing values, got {', and '.join(found[:3])}{more}; fill them in, or drop "
            "those rows or columns"
        )


def missing_values(table: CsvTable, column: str, missing: list[bool]) -> str:
    """Format how many values of a column are missing, and where."""
    count = sum(missing)
    return f"{count} in column {column!r}, {'first ' if count > 1 else ''}in {table.location(missing.index(True))}"


def numbers_of(table: CsvTable, columns: Sequence[str], purpose: str) -> npt.NDArray[np.float64]:
    """Convert columns to numbers that float32 can hold, though not to the last digit: float64 [N, F]."""
    values = np.empty((len(table.line_numbers), len(columns)), np.float64)
    for index, column in enumerate(columns):
        cells = table.columns[column]
        numbers = parse_numbers(cells)
        if numbers is None:
            raise _text_error(table, column, purpose)
        values[:, index] = numbers
        with np.errstate(over="ignore"):
            finite = np.isfinite(numbers.astype(np.float32))
        if not finite.all():
            row = int(np.argmin(finite))
            raise DatasetError(
                f"{table.path} must have finite float32 numbers in column {column!r}, got {cells[row]!r} in "
                f"{table.location(row)}"
            )
    return values


def _text_error(table: CsvTable, column: str, purpose: str) -> DatasetError:
    cells = table.columns[column]
    row = next(row for row, cell in enumerate(cells) if parse_numbers([cell]) is None)
    if parse_numbers([cells[row].replace(",", ".", 1)]) is not None:
        hint = "write decimals with a point"
    else:
        hint = "drop the column, or encode it in numbers, one column of 0 and 1 for each of its values"
    return DatasetError(
        f"{table.path} must have numbers in column {column!r}, {purpose}, got {cells[row]!r} in {table.location(row)}; "
        f"{hint}"
    )


def parse_numbers(cells: Sequence[str]) -> npt.NDArray[np.float64] | None:
    """Parse cells as numbers; None where one is no number, or there are none."""
    if not len(cells) or any("_" in cell for cell in cells):  # Python's own number syntax allows it
        return None
    try:
        return np.array(cells, np.float64)
    except ValueError:
        return None
