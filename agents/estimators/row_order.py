"""The order in which an estimator looks at the rows that it is given: one that does not depend on theirs."""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from torso.arrays import Array

MAX_REPEATS = 16  # weights that are counts are taken as counts while they stay below so many times the rows


class Rows(NamedTuple):
    """Which rows an epoch goes through.

    order: [n] int64, indices into the arrays, a row as often as it counts; weights: [n] float64, or None where all
    count the same.
    """

    order: NDArray[np.int64]
    weights: NDArray[np.float64] | None


def arrange(inputs: Array, targets: Array, weights: NDArray[np.float64] | None) -> Rows:
    """Arrange rows by what they hold.

    A fit then depends on the examples alone: not on their order; a row of weight 0 is as if it were not there; a row
    of weight 3 is as three equal rows, as long as all weights are whole and not huge; other weights scale the loss.
    inputs: [N, ...]; targets: [N] or [N, K]; weights: [N] float64, at least 0, one above it; or None.
    """
    kept = np.arange(len(inputs)) if weights is None else np.flatnonzero(weights)
    order = _sorted(kept, inputs, targets, weights)
    if weights is None:
        return Rows(order, None)
    sorted_weights = weights[order]
    if np.array_equal(sorted_weights, np.rint(sorted_weights)) and sorted_weights.sum() <= MAX_REPEATS * len(order):
        return Rows(np.repeat(order, sorted_weights.astype(np.int64)), None)
    return Rows(order, sorted_weights)


def _sorted(
    rows: NDArray[np.int64], inputs: Array, targets: Array, weights: NDArray[np.float64] | None
) -> NDArray[np.int64]:
    """The rows by the checksum of their input, and those of equal checksums by all that they hold."""
    held, width = memoryview(np.ascontiguousarray(inputs).data).cast("B"), inputs[:1].nbytes
    checksums = np.array([zlib.crc32(held[row * width : (row + 1) * width]) for row in rows.tolist()], dtype=np.int64)
    by_checksum = np.argsort(checksums, kind="stable")
    order, checksums = rows[by_checksum], checksums[by_checksum]
    starts = np.flatnonzero(np.diff(checksums, prepend=-1))
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(order)], strict=True):
        if stop - start > 1:
            order[start:stop] = sorted(
                order[start:stop].tolist(),
                key=lambda row: (
                    bytes(held[row * width : (row + 1) * width]),
                    targets[row].tobytes(),
                    0.0 if weights is None else float(weights[row]),
                ),
            )
    return order
