"""Equal rows of a batch: copies of one example, which no split may part."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from torso.arrays import Array


def first_equal_rows(rows: Array) -> NDArray[np.int64]:
    """Find, for each row, the first one with the same values: its index, [N] int64.

    rows: [N, ...] of numbers; -0.0 equals 0.0. Rows are compared by a 128-bit hash of their content.
    """
    values = np.ascontiguousarray(without_negative_zero(rows))
    data, width = memoryview(values.data).cast("B"), values[:1].nbytes
    first: dict[bytes, int] = {}
    return np.array(
        [
            first.setdefault(hashlib.blake2b(data[row * width : (row + 1) * width], digest_size=16).digest(), row)
            for row in range(len(values))
        ],
        np.int64,
    )


def without_negative_zero(values: Array) -> Array:
    """Replace -0.0 by 0.0, which is the same number in other bytes."""
    return values + values.dtype.type(0) if values.dtype.kind == "f" else values
