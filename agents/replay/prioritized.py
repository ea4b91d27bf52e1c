"""Prioritized experience replay: transitions sampled in proportion to their TD errors (Schaul et al. 2016)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from torso.agents.replay.batches import Sample
from torso.agents.replay.ring import ReplayRing
from torso.agents.replay.sum_tree import SumTree
from torso.agents.replay.uniform import require_capacity, start_rows
from torso.errors import CheckpointError, ConfigError

_MIN_ERROR = 1e-6  # added to an error, so that its probability is never 0 (Schaul et al. 2016, section 3.3)


class PrioritizedSampler:
    """Proportional prioritization (Schaul et al. 2016, sections 3.3 and 3.4, appendix B.2.1).

    Transition i is drawn with probability P(i) = p_i / sum p, p = (abs(error) + 1e-6)^exponent. A new
    transition has the largest p seen so far, initially 1. A minibatch of ``batch_size`` is drawn as in the paper, one
    transition from each of as many equal ranges of the total: its mean is as without ranges, with less variance.
    Weights are (N P(i))^-importance_exponent over the largest of their minibatch, which is (p_i / min p)^-exponent.
    """

    def __init__(self, ring: ReplayRing, *, n_step: int, exponent: float, batch_size: int) -> None:
        require_capacity(ring, n_step)
        self.ring = ring
        self.n_step = n_step
        self.exponent = exponent
        self.batch_size = batch_size
        self._tree = SumTree(ring.capacity_rows * ring.num_envs, ring.device)  # in the ring's order: slots by envs
        self._max_priority = torch.ones((), dtype=torch.float64, device=ring.device)
        self._rows = range(0)  # whose priorities are in the tree
        self._num_rewrites = ring.num_rewrites

    def sample(self, num_samples: int, generator: torch.Generator, importance_exponent: float) -> Sample:
        """Sample ``num_samples`` transitions, a multiple of the minibatch size, or else ConfigError."""
        ring, size = self.ring, self.batch_size
        if num_samples % size:
            raise ConfigError(f"num_samples must be a multiple of the minibatch size {size}, got {num_samples}")
        start_rows(ring, self.n_step)
        self._sync_tree()
        shape = (num_samples // size, size)
        within = torch.rand(shape, dtype=torch.float64, generator=generator, device=ring.device)
        ranges = torch.arange(size, dtype=torch.float64, device=ring.device)
        leaf = self._tree.find(((ranges + within) / size).flatten())  # [n]
        p = self._tree.leaves.index_select(0, leaf).view(shape)
        weight = (p / p.amin(dim=1, keepdim=True)).pow(-importance_exponent)
        slot = leaf // ring.num_envs
        return Sample(
            row=ring.first_row + (slot - ring.first_row) % ring.capacity_rows,
            env=leaf % ring.num_envs,
            weight=torch.where(p > 0, weight, 0.0).flatten().float(),  # all are 0 where only reset rows are there
        )

    def update(self, sample: Sample, priority: Tensor) -> None:
        """Set the priorities of transitions that are still in the ring."""
        self._sync_tree()
        ring = self.ring
        p = (priority.detach().double().abs() + _MIN_ERROR).pow(self.exponent)
        leaf = sample.row % ring.capacity_rows * ring.num_envs + sample.env
        before = self._tree.leaves.index_select(0, leaf)
        is_present = (sample.row >= self._rows.start) & (sample.row < self._rows.stop) & (before > 0)
        p = torch.where(is_present, p, before)
        self._max_priority = torch.maximum(self._max_priority, p.max())
        self._tree.put(leaf, p)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the priorities of the ring's transitions, oldest first, and the largest seen so far."""
        self._sync_tree()
        by_slot = self._tree.leaves.view(self.ring.capacity_rows, self.ring.num_envs)
        slots = torch.arange(self._rows.start, self._rows.stop, device=self.ring.device) % self.ring.capacity_rows
        tensors = {"priority": by_slot.index_select(0, slots), "max_priority": self._max_priority}
        return {"start_row": self._rows.start, "stop_row": self._rows.stop}, tensors

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Load the priorities of the rows that the ring has now; CheckpointError when they are of others."""
        rows, priority = range(state["start_row"], state["stop_row"]), tensors["priority"]
        expected = self.ring.start_rows(self.n_step)
        if rows != expected or priority.shape != (len(rows), self.ring.num_envs):
            raise CheckpointError(
                f"priorities must be of the rows {expected.start} to {expected.stop} of {self.ring.num_envs} envs, "
                f"where the replay's transitions begin, got {list(priority.shape)} of the rows {rows.start} to "
                f"{rows.stop}"
            )
        self._tree.fill(0, self._tree.num_leaves, 0.0)
        self._write(rows, priority.to(self.ring.device))
        self._rows, self._num_rewrites = rows, self.ring.num_rewrites
        self._max_priority = tensors["max_priority"].to(self.ring.device)

    def _sync_tree(self) -> None:
        """Synchronise the tree with the ring's rows: evicted rows get 0, new rows the largest priority."""
        ring, before = self.ring, self._rows
        rows = ring.start_rows(self.n_step)
        if ring.num_rewrites != self._num_rewrites:  # the tree's entries may be of other transitions
            self._tree.fill(0, self._tree.num_leaves, 0.0)
            before, self._num_rewrites = range(rows.start, rows.start), ring.num_rewrites
        elif rows == before:
            return
        evicted = range(before.start, min(rows.start, before.stop))
        self._write(evicted, torch.zeros((len(evicted), ring.num_envs), dtype=torch.float64, device=ring.device))
        new = range(max(rows.start, before.stop), rows.stop)
        row = torch.arange(new.start, new.stop, device=ring.device)[:, None]  # [rows, 1]
        env = torch.arange(ring.num_envs, device=ring.device)
        self._write(new, ring.is_start(row, env, self.n_step) * self._max_priority)
        self._rows = rows

    def _write(self, rows: range, priority: Tensor) -> None:
        """Set the priorities [rows, E] of some rows: one slice of the tree, or two where the ring wraps around."""
        num_envs, capacity_rows = self.ring.num_envs, self.ring.capacity_rows
        slot = rows.start % capacity_rows
        before_wrap = min(len(rows), capacity_rows - slot)
        values = priority.flatten()
        self._tree.fill(slot * num_envs, (slot + before_wrap) * num_envs, values[: before_wrap * num_envs])
        self._tree.fill(0, (len(rows) - before_wrap) * num_envs, values[before_wrap * num_envs :])
