"""Uniform sampling: every transition of a replay is as likely as any other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from torso.agents.replay.batches import Sample
from torso.agents.replay.ring import ReplayRing
from torso.errors import ConfigError

_DRAWS = 8  # candidates drawn a sample: all of them reset rows is rarer than 1 in 10 million for episodes of 8 steps


class UniformSampler:
    """Every transition is as likely as any other, so each weighs 1 whatever the importance exponent."""

    def __init__(self, ring: ReplayRing, *, n_step: int = 1) -> None:
        require_room(ring, n_step)
        self.ring = ring
        self.n_step = n_step
        self._ranks = torch.arange(_DRAWS, 0, -1, dtype=torch.uint8, device=ring.device)[:, None]  # [draws, 1]

    def sample(self, num_samples: int, generator: torch.Generator, importance_exponent: float = 0.0) -> Sample:
        """Each sample is the first of a few candidates that is no reset row; it weighs 0 where all are."""
        ring, rows = self.ring, start_rows(self.ring, self.n_step)
        num_envs = ring.num_envs
        draws = torch.randint(len(rows) * num_envs, (_DRAWS, num_samples), generator=generator, device=ring.device)
        is_reset = ring.is_reset(draws + rows.start * num_envs)  # [draws, n]
        rank = (~is_reset * self._ranks).amax(dim=0, keepdim=True)  # [1, n] uint8, 0 where all are reset rows
        draw = draws.gather(0, (_DRAWS - rank.long()) % _DRAWS)[0]  # [n]
        return Sample(rows.start + draw // num_envs, draw % num_envs, (rank[0] > 0).float())

    def update(self, sample: Sample, priority: Tensor) -> None:
        """Errors change nothing."""

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Nothing: all is in the ring and in the generator."""
        return {}, {}

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Nothing to restore."""


def start_rows(ring: ReplayRing, n_step: int) -> range:
    """The rows that a sample may begin at; ConfigError while there is none."""
    rows = ring.start_rows(n_step)
    if len(rows) == 0:
        raise ConfigError(f"the replay holds no transition of {n_step} steps yet: it has {ring.num_rows} rows")
    return rows


def require_room(ring: ReplayRing, n_step: int) -> None:
    """ConfigError for a ring in which no transition ever fits."""
    least = n_step + ring.frame_stack
    if ring.capacity_rows < least:
        raise ConfigError(
            f"a replay of {ring.capacity_rows} rows never holds a transition of {n_step} steps with stacks of "
            f"{ring.frame_stack} frames: it needs {least} rows of each env; raise replay_capacity"
        )
