"""Uniform sampling: every transition of a replay has the same probability."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from torso.agents.replay.batches import Sample
from torso.agents.replay.ring import ReplayRing
from torso.errors import ConfigError

_DRAWS = 8  # candidates for each sample: all are reset rows less often than 1 in 10 million for episodes of 8 steps


class UniformSampler:
    """Uniform sampler: equal probabilities, so every weight is 1 whatever the importance exponent."""

    def __init__(self, ring: ReplayRing, *, n_step: int = 1) -> None:
        require_capacity(ring, n_step)
        self.ring = ring
        self.n_step = n_step
        self._ranks = torch.arange(_DRAWS, 0, -1, dtype=torch.uint8, device=ring.device)[:, None]  # [draws, 1]

    def sample(self, num_samples: int, generator: torch.Generator, importance_exponent: float = 0.0) -> Sample:
        """Sample by rejection: the first of a few candidates that is no reset row; its weight is 0 where all are."""
        ring, rows = self.ring, start_rows(self.ring, self.n_step)
        num_envs = ring.num_envs
        draws = torch.randint(len(rows) * num_envs, (_DRAWS, num_samples), generator=generator, device=ring.device)
        is_reset = ring.is_reset(draws + rows.start * num_envs)  # [draws, n]
        rank = (~is_reset * self._ranks).amax(dim=0, keepdim=True)  # [1, n] uint8, 0 where all are reset rows
        draw = draws.gather(0, (_DRAWS - rank.long()) % _DRAWS)[0]  # [n]
        return Sample(rows.start + draw // num_envs, draw % num_envs, (rank[0] > 0).float())

    def update(self, sample: Sample, priority: Tensor) -> None:
        """Ignore the priorities: sampling stays uniform."""

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return an empty state: everything is in the ring and in the generator."""
        return {}, {}

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Do nothing: the state is empty."""


def start_rows(ring: ReplayRing, n_step: int) -> range:
    """Range of the rows that a sample may begin at; ConfigError while it is empty."""
    rows = ring.start_rows(n_step)
    if len(rows) == 0:
        raise ConfigError(
            f"the replay must hold a transition of {n_step} steps before it is sampled, got {ring.num_rows} rows"
        )
    return rows


def require_capacity(ring: ReplayRing, n_step: int) -> None:
    """Raise ConfigError for a ring too small to hold a transition."""
    minimum = n_step + ring.frame_stack
    if ring.capacity_rows < minimum:
        raise ConfigError(
            f"the replay must have at least {minimum} rows of each env, for a transition of {n_step} steps with stacks "
            f"of {ring.frame_stack} frames, got {ring.capacity_rows}; raise replay_capacity"
        )
