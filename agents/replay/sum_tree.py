"""Sum tree of high fan-out: proportional sampling and batched updates of priorities in a few tensor calls.

Each node is the sum of ``FAN_OUT`` nodes of the level below, recomputed from them whenever one of them changes, never
incremented: no rounding errors accumulate, and the same leaves give the same tree whatever the history of updates.
"""

from __future__ import annotations

import torch
from torch import Tensor

FAN_OUT = 64
_TOP = 1024  # nodes of the highest level at most; one cumulative sum of them is faster than another level
_BELOW_ONE = 1.0 - 2.0**-50


class SumTree:
    """Sum tree over non-negative float64 leaves, initially 0, on one device, without synchronising with it."""

    def __init__(self, num_leaves: int, device: torch.device | str = "cpu") -> None:
        self.num_leaves = num_leaves
        self._levels: list[Tensor] = []  # leaves first; each but the highest is padded to whole nodes
        size = num_leaves
        while True:
            is_top = size <= _TOP
            padded = size if is_top else -(-size // FAN_OUT) * FAN_OUT
            self._levels.append(torch.zeros(padded, dtype=torch.float64, device=device))
            if is_top:
                break
            size = padded // FAN_OUT

    @property
    def leaves(self) -> Tensor:
        """The leaves, [num_leaves] float64: a view to read."""
        return self._levels[0][: self.num_leaves]

    def find(self, fraction: Tensor) -> Tensor:
        """Find the leaf at each ``fraction`` [n] float64 in [0, 1] of the cumulative sum over the leaves; [n] int64.

        A leaf is found for a share of the fractions equal to its share of the total, and a leaf of 0 never. Where all
        are 0, leaf 0 is found.
        """
        sums = self._levels[-1].cumsum(dim=0)
        place = _clamp_below(fraction * sums[-1], sums[-1:])[:, None]  # [n, 1]: remaining sum within this node
        node = torch.searchsorted(sums, place, right=True).remainder_(len(sums))  # [n, 1]
        before = sums[node] - self._levels[-1][node]
        for level in reversed(self._levels[:-1]):
            children = level.view(-1, FAN_OUT).index_select(0, node[:, 0])  # [n, FAN_OUT]
            sums = children.cumsum(dim=1)
            place = _clamp_below((place - before).clamp_min_(0.0), sums[:, -1:])
            child = torch.searchsorted(sums, place, right=True).remainder_(FAN_OUT)
            before = sums.gather(1, child) - children.gather(1, child)
            node = node * FAN_OUT + child
        return node[:, 0]

    def put(self, leaf: Tensor, value: Tensor) -> None:
        """Set ``leaves[leaf] = value``; leaf: [n] int64, value: [n] float64. Of duplicate leaves one value is kept."""
        self._levels[0].scatter_(0, leaf, value)
        for below, above in zip(self._levels, self._levels[1:], strict=False):
            leaf = leaf // FAN_OUT
            above.scatter_(0, leaf, below.view(-1, FAN_OUT).index_select(0, leaf).cumsum(dim=1)[:, -1])

    def fill(self, start: int, stop: int, value: Tensor | float) -> None:
        """Set the leaves [start, stop) to [stop - start] values, or all to one value."""
        if start >= stop:
            return
        self._levels[0][start:stop] = value
        for below, above in zip(self._levels, self._levels[1:], strict=False):
            start, stop = start // FAN_OUT, -(-stop // FAN_OUT)
            above[start:stop] = below[start * FAN_OUT : stop * FAN_OUT].view(-1, FAN_OUT).cumsum(dim=1)[:, -1]


def _clamp_below(place: Tensor, total: Tensor) -> Tensor:
    """Clamp ``place`` to just below ``total``, which rounding may have reached."""
    return torch.minimum(place, total * _BELOW_ONE)
