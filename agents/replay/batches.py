"""Batches of transitions, and the interface of what samples them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Transitions of one or several steps. Tensors on the ring's device, ``n`` rows each.

    s_tm1, s_t: [n, *shape] raw, before the first and after the last of the steps; a_tm1: [n] int64, the first action;
    r_t: [n] float32, the discounted sum of the rewards; discount_t: [n] float32, what the value of s_t counts, 0 where
    the learner's episode terminated; weight: [n] float32, 0 for a row that is no transition, which counts for nothing;
    mask_t: [n, A] bool, the legal actions in s_t, or None where all are.
    """

    s_tm1: Tensor
    a_tm1: Tensor
    r_t: Tensor
    discount_t: Tensor
    s_t: Tensor
    weight: Tensor
    mask_t: Tensor | None = None

    def rows(self, start: int, stop: int) -> Batch:
        """The transitions [start, stop) of this batch."""
        mask_t = None if self.mask_t is None else self.mask_t[start:stop]
        return Batch(*(tensor[start:stop] for tensor in self[:6]))._replace(mask_t=mask_t)


class Sample(NamedTuple):
    """Where transitions begin; tensors on the ring's device.

    row, env: [n] int64; weight: [n] float32, what each counts in the loss, 0 for one that is no transition.
    """

    row: Tensor
    env: Tensor
    weight: Tensor


class Sampler(Protocol):
    """Draws transitions from a ring. Nothing of it waits for the device."""

    def sample(self, num_samples: int, generator: torch.Generator, importance_exponent: float) -> Sample:
        """Draw with replacement; ConfigError while the ring holds no transition."""
        ...

    def update(self, sample: Sample, priority: Tensor) -> None:
        """Learn how large the error of each transition was; priority: [n], the TD error or its absolute value."""
        ...

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Everything that is not in the ring, as JSON and tensors, for a checkpoint."""
        ...

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave, once the ring's rows are written back; CheckpointError if of another ring."""
        ...
