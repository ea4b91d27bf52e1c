"""Padding of batches of any size to forwards of fixed sizes: each batch takes the next larger one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from torso.arrays import Array
from torso.nets.prediction.backend import Outputs


class FixedForward(Protocol):
    """Interface of a forward of a fixed number of rows, which reads its inputs and their state from its own arrays."""

    arrays: Sequence[Array]  # inputs, [size, *shape], then the tensors of a recurrent model's state, [size, ...]

    def run(self) -> Outputs:
        """Return the readout of ``arrays``, [size, K], and their next state; the next run may overwrite them."""
        ...


def batch_sizes(max_rows: int) -> list[int]:
    """List the powers of two below ``max_rows``, and ``max_rows`` itself."""
    return [1 << power for power in range((max_rows - 1).bit_length())] + [max_rows]


class PaddedForwards:
    """Forwards of each of `batch_sizes`, made by ``make(size)``, the largest first."""

    def __init__(self, make: Callable[[int], FixedForward], max_rows: int) -> None:
        self._sizes = batch_sizes(max_rows)
        forwards = [make(size) for size in reversed(self._sizes)]
        self._forwards = forwards[::-1]

    def run(self, inputs: Array, *state: Array) -> Outputs:
        """Compute the readout, [B, K] float32, and next state of inputs, [B, *shape], and their state, [B, ...] each.

        More rows than the largest forward's go in pieces.
        """
        rows, largest = len(inputs), self._sizes[-1]
        if rows > largest:
            pieces = [slice(start, start + largest) for start in range(0, rows, largest)]
            outputs = [self.run(inputs[piece], *(part[piece] for part in state)) for piece in pieces]
            readout, *next_state = (np.concatenate(parts) for parts in zip(*outputs, strict=True))
            return readout, *next_state
        forward = self._forwards[bisect_left(self._sizes, rows)]
        for own, array in zip(forward.arrays, (inputs, *state), strict=True):
            own[:rows] = array
            own[rows:] = 0  # not an earlier caller's rows
        readout, *next_state = forward.run()
        return readout[:rows].copy(), *(part[:rows].copy() for part in next_state)
