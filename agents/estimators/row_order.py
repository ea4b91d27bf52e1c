"""Canonical order of training rows: a fit does not depend on the order in which rows are passed."""

from __future__ import annotations

import logging
import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from torso.arrays import Array
from torso.equal_rows import first_equal_rows, without_negative_zero

_log = logging.getLogger(__name__)


class Rows(NamedTuple):
    """Rows of an epoch, and their weights.

    order: [n] int64, indices into the arrays, each at most once; groups: [n] int64, equal where the inputs are;
    weights: [n] float64, in the loss; sample_weights: [n] float64, without those of classes. None: all equal.
    """

    order: NDArray[np.int64]
    groups: NDArray[np.int64]
    weights: NDArray[np.float64] | None
    sample_weights: NDArray[np.float64] | None

    def reweighted(self, factors: NDArray[np.float64]) -> Rows:
        """Multiply the weights in the loss by ``factors`` [n], and leave out the rows that weigh 0 then."""
        weights = factors if self.weights is None else factors * self.weights
        counted = weights > 0
        sample_weights = None if self.sample_weights is None else self.sample_weights[counted]
        return Rows(self.order[counted], self.groups[counted], weights[counted], sample_weights)


def canonical_rows(inputs: Array, targets: Array, weights: NDArray[np.float64] | None) -> Rows:
    """Sort rows by their content, and merge equal ones into one of their summed weight.

    A fit then depends on the examples alone: not on their order; a row of weight 0 equals no row; a row of weight 3
    equals three equal rows. inputs: [N, ...]; targets: [N] or [N, K]; weights: [N] float64, at least 0, one above it;
    or None.
    """
    inputs, targets = without_negative_zero(inputs), without_negative_zero(targets)
    nonzero = np.arange(len(inputs)) if weights is None else np.flatnonzero(weights)
    order = _sort_rows(nonzero, inputs, targets)
    groups = first_equal_rows(inputs[order])
    labels = targets[order].reshape(len(order), -1)
    starts = np.flatnonzero(np.append(True, (np.diff(groups) != 0) | (labels[1:] != labels[:-1]).any(axis=1)))
    # Sorted, so that the sum's last digits do not depend on the rows' order either.
    parts = np.ones(len(order)) if weights is None else weights[order]
    stops = np.append(starts[1:], len(order))
    merged = np.array([np.sort(parts[start:stop]).sum() for start, stop in zip(starts, stops, strict=True)])
    summed = None if (merged == merged[0]).all() else merged
    if len(starts) < len(order):
        repeated = len(order) - len(starts)
        _log.info("%d of %d rows repeat another; copies are one row of their summed weight", repeated, len(order))
    return Rows(order[starts], groups[starts], summed, summed)


def _sort_rows(rows: NDArray[np.int64], inputs: Array, targets: Array) -> NDArray[np.int64]:
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
                key=lambda row: (bytes(data[row * width : (row + 1) * width]), targets[row].tobytes()),
            )
    return order


def hold_out(
    labels: NDArray[np.int64], fraction: float, seed: int, groups: NDArray[np.int64] | None = None
) -> NDArray[np.bool_]:
    """Draw a stratified hold-out: this share of each class, rounded down, by the seed. Returns a mask, bool [N].

    groups: [N] int64, equal for equal inputs, which stay on one side; a group counts as its most frequent class, and
    one that is larger than what is left of the share is not held out. None: all differ. Labels of 0 alone: not
    stratified.
    """
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), dtype=bool)
    members = _members(np.arange(len(labels)) if groups is None else groups)
    group_labels = np.array([np.bincount(labels[rows]).argmax() for rows in members])
    for label in np.unique(group_labels):
        of_label = np.flatnonzero(group_labels == label)
        room = int(fraction * sum(len(members[group]) for group in of_label))
        for group in rng.permutation(of_label):
            if len(members[group]) <= room:
                held_out[members[group]] = True
                room -= len(members[group])
    return held_out


def _members(groups: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """List the rows of each group, the groups in order of their first rows."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    by_group = np.split(np.argsort(inverse, kind="stable"), np.cumsum(np.bincount(inverse))[:-1])
    return [by_group[group] for group in np.argsort(first)]
