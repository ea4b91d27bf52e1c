"""Weights of examples: class weights and their normalisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torso.errors import ConfigError


def class_weights(
    class_weight: Mapping[Any, float] | str | None,
    labels: NDArray[np.int64],
    label_names: Sequence[Any],
    sample_weights: NDArray[np.float64] | None = None,
) -> NDArray[np.float64] | None:
    """Weight each example by its class, [N] float64, or None where all count the same.

    ``balanced`` gives every class the same total weight (King & Zeng 2001), times ``sample_weights`` [N] where there
    are any. A mapping names weights by label; a label that it leaves out weighs 1. labels: [N] int64, indices into
    ``label_names``.

    Raises:
        ConfigError: a label that there is not, a weight that is negative or not finite, or none above 0.
    """
    if class_weight is None:
        return None
    if isinstance(class_weight, str):
        totals = np.bincount(labels, sample_weights).astype(np.float64)
        shares: NDArray[np.float64] = totals.sum() / (np.count_nonzero(totals) * totals[labels])
        return shares
    by_name = {str(name): index for index, name in enumerate(label_names)}
    weights = np.ones(len(label_names))
    for label, weight in class_weight.items():
        if str(label) not in by_name:
            raise ConfigError(f"class_weight must name labels among {', '.join(by_name)}, got {label!r}")
        if not 0 <= weight < np.inf:
            raise ConfigError(f"class_weight of label {label!r} must be at least 0 and finite, got {weight}")
        weights[by_name[str(label)]] = weight
    return weights[labels]


def normalised(weights: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
    """Normalise weights to mean 1, so that they change no learning rate; None where all are the same.

    Raises:
        ConfigError: weights that are negative, not finite, or all 0.
    """
    if weights is None:
        return None
    if not np.isfinite(weights).all() or weights.min() < 0 or weights.max() == 0:
        raise ConfigError(
            "weights of examples must be at least 0 and finite, and one of them above 0, "
            f"got {weights.min()} to {weights.max()}"
        )
    return None if weights.min() == weights.max() else weights / weights.mean()
