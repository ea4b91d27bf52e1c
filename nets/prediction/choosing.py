"""Action and class selection from scores: greedy and random under an action mask, and top-k."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LARGEST = float(np.finfo(np.float32).max)


def best_legal(values: NDArray[np.float32], mask: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    """Return the greedy choice: the index of each row's largest legal value, the lowest among equals.

    values: [B, A]; mask: bool [B, A], the legal ones, at least one a row; None: all are. Returns int64 [B].
    """
    if mask is not None:
        values = np.where(mask, np.maximum(values, -_LARGEST), -np.inf)  # a legal -inf stays above the illegal
    best: NDArray[np.int64] = values.argmax(axis=1).astype(np.int64)
    return best


def random_legal(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw one of each row's legal indices uniformly, with one call of ``rng.integers``.

    mask: bool [B, A], at least one True a row. Returns int64 [B].
    """
    nth = rng.integers(mask.sum(axis=1))  # [B], which of the row's legal ones, from 0
    drawn: NDArray[np.int64] = (mask.cumsum(axis=1) > nth[:, np.newaxis]).argmax(axis=1)
    return drawn


def best_k(scores: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return top-k: indices and scores of each row's ``k`` best, best first, the lower index first among equals.

    scores: [B, K]. Returns int64 [B, k] and float32 [B, k]; a ``k`` above K means all of them.
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order.astype(np.int64), np.take_along_axis(scores, order, axis=1)
