"""Oracle for one DQN update of a linear network, in NumPy and double precision, with every derivative by hand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def target(weights: Array, target_weights: Array, r_t: Array, discount_t: Array, s_t: Array, *, double: bool) -> Array:
    """Compute ``r + discount Q_target(s', a*)``; a* is the target network's best, or (double) the online network's."""
    q_target = s_t @ target_weights.T  # [B, A]
    judge = s_t @ weights.T if double else q_target
    return np.array(
        [
            r + d * row[int(np.argmax(judged))]
            for r, d, row, judged in zip(r_t, discount_t, q_target, judge, strict=True)
        ]
    )


def loss_and_gradient(
    weights: Array, targets: Array, s_tm1: Array, a_tm1: NDArray[np.int64], weight: Array, delta: float | None
) -> tuple[float, Array]:
    """Mean of the weighted losses, and its derivative by the weights [A, F], taking the targets as constants."""
    loss, gradient = 0.0, np.zeros_like(weights)
    for y, s, a, w in zip(targets, s_tm1, a_tm1, weight, strict=True):
        error = y - weights[a] @ s
        if delta is None or abs(error) <= delta:
            loss += w * error**2 / 2
            slope = -error
        else:
            loss += w * delta * (abs(error) - delta / 2)
            slope = -delta * np.sign(error)
        gradient[a] += w * slope * s
    return loss / len(targets), gradient / len(targets)
