"""A wide sum tree: many numbers, drawn from in proportion and changed a few at a time, in a handful of tensor calls.

Each node is the sum of ``FAN_OUT`` nodes of the level below, recomputed from them whenever one of them changes, never
added to: nothing drifts, and the same leaves give the same tree whatever happened before.
"""

from __future__ import annotations

import torch
from torch import Tensor

FAN_OUT = 64
_TOP = 1024  # nodes of the highest level at most; one cumulative sum of them is quicker than another level
_BELOW_ONE = 1.0 - 2.0**-50


class SumTree:
    """Non-negative float64 leaves, at first 0, and the sums above them, on one device, which is never waited for."""

    def __init__(self, num_leaves: int, device: torch.device | str = "cpu") -> None:
        self.num_leaves = num_leaves
        self._levels: list[Tensor] = []  # leaves first; each but the highest is filled up to whole nodes
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
        """The leaf at each ``fraction`` [n] float64 in [0, 1] of the total, counted from leaf 0's side; [n] int64.

        A leaf is found over a share of the fractions as large as its share of the total, and a leaf of 0 never. Where
        all are 0 it is leaf 0 that is found.
        """
        sums = self._levels[-1].cumsum(dim=0)
        place = _below(fraction * sums[-1], sums[-1:])[:, None]  # [n, 1]: what is left to pass in this node
        node = torch.searchsorted(sums, place, right=True).remainder_(len(sums))  # [n, 1]
        before = sums[node] - self._levels[-1][node]
        for level in reversed(self._levels[:-1]):
            children = level.view(-1, FAN_OUT).index_select(0, node[:, 0])  # [n, FAN_OUT]
            sums = children.cumsum(dim=1)
            place = _below((place - before).clamp_min_(0.0), sums[:, -1:])
            child = torch.searchsorted(sums, place, right=True).remainder_(FAN_OUT)
            before = sums.gather(1, child) - children.gather(1, child)
            node = node * FAN_OUT + child
        return node[:, 0]

    def put(self, leaf: Tensor, value: Tensor) -> None:
        """Set ``leaves[leaf] = value``; leaf: [n] int64, value: [n] float64. Of one leaf's several values one stays."""
        self._levels[0].scatter_(0, leaf, value)
        for below, above in zip(self._levels, self._levels[1:], strict=False):
            leaf = leaf // FAN_OUT
            above.scatter_(0, leaf, below.view(-1, FAN_OUT).index_select(0, leaf).cumsum(dim=1)[:, -1])

    def fill(self, start: int, stop: int, value: Tensor | float) -> None:
        """Set the leaves [start, stop) to [stop - start] values, or all to one."""
        if start >= stop:
            return
        self._levels[0][start:stop] = value
        for below, above in zip(self._levels, self._levels[1:], strict=False):
            start, stop = start // FAN_OUT, -(-stop // FAN_OUT)
            above[start:stop] = below[start * FAN_OUT : stop * FAN_OUT].view(-1, FAN_OUT).cumsum(dim=1)[:, -1]


def _below(place: Tensor, total: Tensor) -> Tensor:
    """``place``, where rounding took it up to ``total`` or beyond put just below."""
    return torch.minimum(place, total * _BELOW_ONE)
