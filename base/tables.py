"""Tables: columns by name, and the precision that a column needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from torso.errors import InputError

_LARGEST_RATIO = 1e4  # of mean to deviation that float32 resolves to a thousandth of a deviation
_CONSTANT = 1e-12  # of the mean, a deviation that is rounding alone
_TINY = 1e-30  # a deviation by which float32 cannot divide safely


def columns_by_name(table: Any, names: Sequence[str] | None, field: str = "inputs") -> Any:
    """Take these columns of a frame, in this order, whatever others there are.

    table: anything; what has no ``columns`` with texts for names (arrays, frames of numbered columns) is returned as it
    is, and so is everything where ``names`` is None.

    Raises:
        InputError: a frame without one of the columns.
    """
    columns = getattr(table, "columns", None)
    if names is None or columns is None or not all(isinstance(column, str) for column in columns):
        return table
    known = list(columns)
    if missing := [name for name in names if name not in known]:
        others = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        required = ", ".join(map(repr, missing[:5])) + others
        raise InputError(field, expected=f"a frame with the columns {required}", got=f"the columns {known[:12]}")
    return table if known == list(names) else table[list(names)]


def is_constant(mean: ArrayLike, std: ArrayLike) -> NDArray[np.bool_]:
    """Whether columns of this mean and deviation vary by no more than rounding. mean, std: [F]; returns bool [F]."""
    constant: NDArray[np.bool_] = np.asarray(std) <= np.maximum(_CONSTANT * np.abs(mean), _TINY)
    return constant


def needs_float64(mean: ArrayLike, std: ArrayLike) -> bool:
    """Whether float32 would blur a column of this mean and deviation, such as a day's seconds since 1970.

    mean, std: [F].
    """
    means, stds = np.abs(np.asarray(mean, np.float64)), np.asarray(std, np.float64)
    return bool(((means > _LARGEST_RATIO * stds) & ~is_constant(means, stds)).any())


def as_floats(values: NDArray[Any]) -> NDArray[np.float32] | NDArray[np.float64]:
    """Convert finite numbers [N, ...] to float32, or a table [N, F] to float64 where float32 would blur a column.

    Of a column that does not vary here, it is not known whether it would: other rows may differ in their last digits.
    """
    if values.dtype.itemsize <= 2 or values.dtype == np.float32 or values.ndim != 2 or not len(values):
        return values.astype(np.float32, copy=False)
    rounded = values.astype(np.float32)
    mean, std = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
    large = is_constant(mean, std) & (np.abs(mean) > _LARGEST_RATIO)
    wide = needs_float64(mean, std) or bool((rounded != values)[:, large].any())
    return values.astype(np.float64, copy=False) if wide else rounded
