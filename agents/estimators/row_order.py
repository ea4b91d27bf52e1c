"""Canonical order of training rows: a fit does not depend on the order in which rows are passed."""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from torso.arrays import Array

MAX_REPEATS = 16  # whole weights repeat rows while their sum stays below so many times the rows


class Rows(NamedTuple):
    """Rows of an epoch, and their weights.

    order: [n] int64, indices into the arrays, a row as often as it counts; weights: [n] float64, or None where all are
    equal.
    """

    order: NDArray[np.int64]
    weights: NDArray[np.float64] | None


def canonical_rows(inputs: Array, targets: Array, weights: NDArray[np.float64] | None) -> Rows:
    """Sort rows by their content.

    A fit then depends on the examples alone: not on their order; a row of weight 0 equals no row; a row of weight 3
    equals three equal rows, as long as all weights are whole and not huge; other weights scale the loss.
    inputs: [N, ...]; targets: [N] or [N, K]; weights: [N] float64, at least 0, one above it; or None.
    """
    nonzero = np.arange(len(inputs)) if weights is None else np.flatnonzero(weights)
    order = _sort_rows(nonzero, inputs, targets, weights)
    if weights is None:
        return Rows(order, None)
    sorted_weights = weights[order]
    if np.array_equal(sorted_weights, np.rint(sorted_weights)) and sorted_weights.sum() <= MAX_REPEATS * len(order):
        return Rows(np.repeat(order, sorted_weights.astype(np.int64)), None)
    return Rows(order, sorted_weights)


def _sort_rows(
    rows: NDArray[np.int64], inputs: Array, targets: Array, weights: NDArray[np.float64] | None
) -> NDArray[np.int64]:
    """Sort the rows by the checksum of their input, and those of equal checksums by their whole content."""
    data, width = memoryview(np.ascontiguousarray(inputs).data).cast("B"), inputs[:1].nbytes
    checksums = np.array([zlib.crc32(data[row * width : (row + 1) * width]) for row in rows.tolist()], dtype=np.int64)
    by_checksum = np.argsort(checksums, kind="stable")
    order, checksums = rows[by_checksum], checksums[by_checksum]
    starts = np.flatnonzero(np.diff(checksums, prepend=-1))
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(order)], strict=True):
        if stop - start > 1:
            order[start:stop] = sorted(
                order[start:stop].tolist(),
                key=lambda row: (
                    bytes(data[row * width : (row + 1) * width]),
                    targets[row].tobytes(),
                    0.0 if weights is None else float(weights[row]),
                ),
            )
    return order
