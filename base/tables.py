"""Tables: columns by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torso.errors import InputError


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
