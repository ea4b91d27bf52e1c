"""Padding of batches of any size to forwards of fixed sizes: each batch takes the next larger one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from torso.arrays import Array


class FixedForward(Protocol):
    """Interface of a forward of a fixed number of rows, which reads its inputs from its own array."""

    inputs: Array  # [size, *shape]

    def run(self) -> NDArray[np.float32]:
        """Return the readout of ``inputs``, [size, K]; the next run may overwrite it."""
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

    def run(self, inputs: Array) -> NDArray[np.float32]:
        """Compute inputs, [B, *shape] to [B, K] float32; more rows than the largest forward's go in pieces."""
        largest = self._sizes[-1]
        if len(inputs) > largest:
            pieces = [inputs[start : start + largest] for start in range(0, len(inputs), largest)]
            return np.concatenate([self.run(piece) for piece in pieces])
        forward = self._forwards[bisect_left(self._sizes, len(inputs))]
        forward.inputs[: len(inputs)] = inputs
        forward.inputs[len(inputs) :] = 0  # not an earlier caller's rows
        return forward.run()[: len(inputs)].copy()
