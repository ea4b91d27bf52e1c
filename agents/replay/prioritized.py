"""Prioritized sampling: transitions in proportion to their TD errors (Schaul et al. 2016)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from torso.agents.replay.batches import Sample
from torso.agents.replay.ring import ReplayRing
from torso.agents.replay.sum_tree import SumTree
from torso.agents.replay.uniform import require_room, start_rows
from torso.errors import CheckpointError, ConfigError

_LEAST_ERROR = 1e-6  # added to an error, so that no transition is never drawn again (Schaul et al. 2016, section 3.3)


class PrioritizedSampler:
    """Proportional prioritization (Schaul et al. 2016, sections 3.3 and 3.4, appendix B.2.1).

    Transition i is drawn with probability P(i) = p_i / sum p, p = (abs(error) + 1e-6)^exponent. One that was never
    learnt from has the largest p seen so far, at first 1. A minibatch of ``batch_size`` is drawn as in the paper, one
    transition from each of as many equal ranges of the total: its mean is as without ranges, with less variance.
    Weights are (N P(i))^-importance_exponent over the largest of their minibatch, which is (p_i / min p)^-exponent.
    """

    def __init__(self, ring: ReplayRing, *, n_step: int, exponent: float, batch_size: int) -> None:
        require_room(ring, n_step)
        self.ring = ring
        self.n_step = n_step
        self.exponent = exponent
        self.batch_size = batch_size
        self._tree = SumTree(ring.capacity_rows * ring.num_envs, ring.device)  # in the ring's order: slots by envs
        self._max_priority = torch.ones((), dtype=torch.float64, device=ring.device)
        self._rows = range(0)  # those in the tree
        self._num_rewrites = ring.num_rewrites

    def sample(self, num_samples: int, generator: torch.Generator, importance_exponent: float) -> Sample:
        """Draw ``num_samples``, whole minibatches; ConfigError for a part of one."""
        ring, size = self.ring, self.batch_size
        if num_samples % size:
            raise ConfigError(f"prioritized samples come in minibatches of {size}; {num_samples} are not so many whole")
        start_rows(ring, self.n_step)
        self._catch_up()
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
            weight=torch.where(p > 0, weight, 0.0).flatten().float(),  # all are 0 where nothing but reset rows is there
        )

    def update(self, sample: Sample, priority: Tensor) -> None:
        """Set the priorities of transitions that are still there."""
        self._catch_up()
        ring = self.ring
        p = (priority.detach().double().abs() + _LEAST_ERROR).pow(self.exponent)
        leaf = sample.row % ring.capacity_rows * ring.num_envs + sample.env
        before = self._tree.leaves.index_select(0, leaf)
        is_there = (sample.row >= self._rows.start) & (sample.row < self._rows.stop) & (before > 0)
        p = torch.where(is_there, p, before)
        self._max_priority = torch.maximum(self._max_priority, p.max())
        self._tree.put(leaf, p)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The priorities of the ring's transitions, oldest first, and the largest seen so far."""
        self._catch_up()
        by_slot = self._tree.leaves.view(self.ring.capacity_rows, self.ring.num_envs)
        slots = torch.arange(self._rows.start, self._rows.stop, device=self.ring.device) % self.ring.capacity_rows
        tensors = {"priority": by_slot.index_select(0, slots), "max_priority": self._max_priority}
        return {"start_row": self._rows.start, "stop_row": self._rows.stop}, tensors

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Take the priorities of the rows that the ring has now; CheckpointError when they are of others."""
        rows, priority = range(state["start_row"], state["stop_row"]), tensors["priority"]
        if rows != self.ring.start_rows(self.n_step) or priority.shape != (len(rows), self.ring.num_envs):
            raise CheckpointError(
                f"priorities {list(priority.shape)} of the rows {rows.start} to {rows.stop} do not fit a replay whose "
                f"transitions begin at the rows {self.ring.start_rows(self.n_step)} of {self.ring.num_envs} envs"
            )
        self._tree.fill(0, self._tree.num_leaves, 0.0)
        self._write(rows, priority.to(self.ring.device))
        self._rows, self._num_rewrites = rows, self.ring.num_rewrites
        self._max_priority = tensors["max_priority"].to(self.ring.device)

    def _catch_up(self) -> None:
        """Bring the tree to the rows that the ring has now: those gone to 0, those new to the largest priority."""
        ring, before = self.ring, self._rows
        rows = ring.start_rows(self.n_step)
        if ring.num_rewrites != self._num_rewrites:  # nothing in the tree is sure to be of the same transition
            self._tree.fill(0, self._tree.num_leaves, 0.0)
            before, self._num_rewrites = range(rows.start, rows.start), ring.num_rewrites
        elif rows == before:
            return
        gone = range(before.start, min(rows.start, before.stop))
        self._write(gone, torch.zeros((len(gone), ring.num_envs), dtype=torch.float64, device=ring.device))
        new = range(max(rows.start, before.stop), rows.stop)
        row = torch.arange(new.start, new.stop, device=ring.device)[:, None]  # [rows, 1]
        env = torch.arange(ring.num_envs, device=ring.device)
        self._write(new, ring.is_start(row, env, self.n_step) * self._max_priority)
        self._rows = rows

    def _write(self, rows: range, priority: Tensor) -> None:
        """Set the priorities [rows, E] of some rows: one stretch of the tree, or two where the ring begins again."""
        num_envs, capacity_rows = self.ring.num_envs, self.ring.capacity_rows
        slot = rows.start % capacity_rows
        before_wrap = min(len(rows), capacity_rows - slot)
        values = priority.flatten()
        self._tree.fill(slot * num_envs, (slot + before_wrap) * num_envs, values[: before_wrap * num_envs])
        self._tree.fill(0, (len(rows) - before_wrap) * num_envs, values[before_wrap * num_envs :])
