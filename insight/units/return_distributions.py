"""Distributions of returns: what a distributional head expects of each action, as a histogram."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from torso.nets.modules.distributional_heads import CategoricalHead, QuantileHead
from torso.nets.modules.network import Network

NUM_BINS = 51  # as many as C51's atoms


@dataclass(frozen=True, eq=False)
class ReturnDistributions:
    """Distributions of the returns of all actions after one observation.

    ``low``, ``high``: the outer edges of K equal bins. ``probabilities``: float32 [A, K], what lies in each.
    """

    low: float
    high: float
    probabilities: NDArray[np.float32]


def return_distributions(
    network: Network, obs: torch.Tensor, bounds: tuple[float, float] | None = None
) -> ReturnDistributions | None:
    """Compute the distribution of each action's return; None where the head has an expectation alone.

    obs: [1, *shape] raw, at an episode's start where the network is recurrent. bounds: outer edges of the bins of
    quantiles, beyond which they count in the last bin; None: the least and the largest quantile. A categorical head's
    bins are its own atoms.
    """
    head = network.head
    if not isinstance(head, (CategoricalHead, QuantileHead)):
        return None
    with torch.inference_mode():
        output = network(obs)[0].output[0]  # [A, K]
    if isinstance(head, CategoricalHead):
        half = (head.v_max - head.v_min) / (head.num_atoms - 1) / 2
        return ReturnDistributions(head.v_min - half, head.v_max + half, output.softmax(dim=1).float().numpy())
    quantiles = output.float().numpy()
    low, high = bounds or (float(quantiles.min()), float(quantiles.max()))
    if not low < high:
        low, high = low - 0.5, high + 0.5
    bins = np.clip((quantiles - low) / (high - low) * NUM_BINS, 0, NUM_BINS - 1).astype(np.int64)
    probabilities = np.stack([np.bincount(row, minlength=NUM_BINS) for row in bins]) / quantiles.shape[1]
    return ReturnDistributions(low, high, probabilities.astype(np.float32))
