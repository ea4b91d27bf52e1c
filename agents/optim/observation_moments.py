"""Running mean and standard deviation, of observations for input normalisation and of returns for a reward scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torso.errors import CheckpointError
from torso.nets import Network

_MIN_STD = 1e-2  # so that a nearly constant feature is not amplified


class RunningMoments:
    """Running mean and variance of rows, each counted once, by the update of Chan et al. 1983 (eq. 2.1).

    min_std: the least standard deviation that `std` returns.
    """

    def __init__(self, num_features: int, *, min_std: float = _MIN_STD) -> None:
        self.count = 0
        self._min_std = min_std
        self._mean = np.zeros(num_features)
        self._squares = np.zeros(num_features)  # sum of squared deviations from the mean

    def update(self, rows: NDArray[Any]) -> None:
        """Add rows, [n, *shape] of ``num_features`` values each; n may be 0."""
        n = len(rows)
        if n == 0:
            return
        rows = rows.reshape(n, -1).astype(np.float64)
        mean = rows.mean(axis=0)
        delta, total = mean - self._mean, self.count + n
        self._squares += ((rows - mean) ** 2).sum(axis=0) + delta**2 * (self.count * n / total)
        self._mean = self._mean + delta * (n / total)
        self.count = total

    @property
    def mean(self) -> list[float]:
        """Mean of each feature; 0 before the first row."""
        return [float(value) for value in self._mean]

    @property
    def std(self) -> list[float]:
        """Standard deviation of each feature (n in the denominator), at least ``min_std``; 1 before the first row."""
        if self.count == 0:
            return [1.0] * len(self._mean)
        return [float(value) for value in np.maximum(np.sqrt(self._squares / self.count), self._min_std)]

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint, as JSON, which holds the numbers exactly."""
        return {"count": self.count, "mean": self._mean.tolist(), "squares": self._squares.tolist()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Load a state that `state` returned; CheckpointError when it is of other observations."""
        if len(state["mean"]) != len(self._mean):
            raise CheckpointError(
                f"the checkpoint must normalise {len(self._mean)} features, as the observations have, "
                f"got {len(state['mean'])}"
            )
        self.count = int(state["count"])
        self._mean, self._squares = np.array(state["mean"]), np.array(state["squares"])


def input_statistics(network: Network) -> dict[str, list[float]] | None:
    """Mean and standard deviation of a network's input normalisation; None where it has none."""
    scaling = network.spec.input
    return None if scaling.mean is None or scaling.std is None else {"mean": [*scaling.mean], "std": [*scaling.std]}
