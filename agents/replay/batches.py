"""Batches of transitions, and the interface of replay samplers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import repeat
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Batch of transitions of one or several steps: tensors on the ring's device, ``n`` rows each.

    s_tm1, s_t: [n, *shape] raw, before the first and after the last of the steps; a_tm1: [n] int64, the first action;
    r_t: [n] float32, the discounted sum of the rewards; discount_t: [n] float32, the factor on the value of s_t, 0
    where the learner's episode terminated; weight: [n] float32, the factor on the loss, 0 for a row that is no
    transition; mask_t, mask_tm1: [n, A] bool, the legal actions in s_t and s_tm1, or None where all are; sample: where
    the transitions of a whole batch stand in the replay.
    """

    s_tm1: Tensor
    a_tm1: Tensor
    r_t: Tensor
    discount_t: Tensor
    s_t: Tensor
    weight: Tensor
    mask_t: Tensor | None = None
    mask_tm1: Tensor | None = None
    sample: Sample | None = None

    def rows(self, start: int, stop: int) -> Batch:
        """Slice the transitions [start, stop) of this batch."""
        rows, mask_t, mask_tm1 = slice(start, stop), self.mask_t, self.mask_tm1
        return Batch(
            self.s_tm1[rows],
            self.a_tm1[rows],
            self.r_t[rows],
            self.discount_t[rows],
            self.s_t[rows],
            self.weight[rows],
            None if mask_t is None else mask_t[rows],
            None if mask_tm1 is None else mask_tm1[rows],
        )

    def split(self, size: int) -> list[Batch]:
        """Split this batch into batches of ``size`` transitions, the last of those that remain."""
        num_batches = -(-len(self.r_t) // size)
        fields = (repeat(None, num_batches) if each is None else torch.split(each, size) for each in self[:8])
        return list(map(Batch, *fields))


class Sample(NamedTuple):
    """Start positions of sampled transitions; tensors on the ring's device.

    row, env: [n] int64; weight: [n] float32, each one's factor on the loss, 0 for one that is no transition.
    """

    row: Tensor
    env: Tensor
    weight: Tensor


class Sampler(Protocol):
    """Sampler of transitions from a ring. No method synchronises with the device."""

    def sample(self, num_samples: int, generator: torch.Generator, importance_exponent: float) -> Sample:
        """Sample with replacement; ConfigError while the ring holds no transition."""
        ...

    def update(self, sample: Sample, priority: Tensor) -> None:
        """Update the priority of each transition of a sample; priority: [n], the TD error or its absolute value."""
        ...

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return all state outside the ring, as JSON and tensors, for a checkpoint."""
        ...

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Load what `state` returned, after the ring's rows are restored; CheckpointError if it is of another ring."""
        ...
