"""Transitions as experience: a replay ring, its sampler, and when learning from them is due."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torso.agents.optim.schedules import multiples_passed
from torso.agents.optim.states import strip_prefix, with_prefix
from torso.agents.protocols import Due, StepRows
from torso.agents.replay.batches import Batch, Sampler
from torso.agents.replay.reward_scale import RewardScale
from torso.agents.replay.ring import ReplayRing
from torso.arrays import Array


class Transitions:
    """Experience of transitions, sampled from a ring.

    ring, sampler: where rows are stored, and how starts are drawn from them, by ``generator``. n_step, gamma,
    clip_rewards: of the returns. learn_period: steps between phases of ``samples_per_phase`` transitions, from
    ``min_replay_size`` steps on. importance: exponent of the importance weights at a step. reward_scale: what divides
    the rewards of a batch, by its value when the batch is sampled; the ring holds the env's own.
    """

    def __init__(
        self,
        ring: ReplayRing,
        sampler: Sampler,
        generator: torch.Generator,
        *,
        n_step: int,
        gamma: float,
        clip_rewards: bool,
        learn_period: int,
        samples_per_phase: int,
        min_replay_size: int,
        importance: Callable[[int], float],
        reward_scale: RewardScale | None = None,
    ) -> None:
        self.ring = ring
        self.sampler = sampler
        self.generator = generator
        self._n_step, self._gamma, self._clip_rewards = n_step, gamma, clip_rewards
        self._learn_period = learn_period
        self._samples_per_phase = samples_per_phase
        self._min_replay_size = min_replay_size
        self._importance = importance
        self._reward_scale = reward_scale

    @property
    def settled(self) -> bool:
        """Whether a checkpoint may come here: a replay's rows are kept whenever it comes."""
        return True

    @property
    def keeps_rows(self) -> bool:
        """Whether rows are kept and learnt from again."""
        return True

    @property
    def has_masks(self) -> bool:
        """Whether legal actions are stored."""
        return self.ring.has_masks

    def append(self, rows: StepRows) -> None:
        """Store one step of every env."""
        self.ring.append(rows.obs, rows.action, rows.reward, rows.terminated, rows.truncated, rows.is_reset, rows.mask)
        if self._reward_scale is not None:
            self._reward_scale.update(rows)

    def due(self, before: int, after: int, changes: Sequence[int]) -> list[Due]:
        """List the phases that are due for the steps in (before, after]; see `torso.agents.protocols.Experience`."""
        last = max(before, self._min_replay_size - 1)
        found = []
        for step in [*(change - 1 for change in changes), after]:
            if step > last:
                phases = multiples_passed(last, step, self._learn_period)
                last = step
                if phases:
                    found.append(Due(step, after, phases))
        return found

    def sample(self, due: Due) -> Batch:
        """Sample the transitions of all minibatches of ``due``."""
        num_samples = due.phases * self._samples_per_phase
        sample = self.sampler.sample(num_samples, self.generator, self._importance(due.now))
        batch = self.ring.transitions(
            sample.row, sample.env, n_step=self._n_step, gamma=self._gamma, clip_rewards=self._clip_rewards
        )
        r_t = batch.r_t if self._reward_scale is None else batch.r_t / self._reward_scale.deviation
        return batch._replace(r_t=r_t, weight=batch.weight * sample.weight, sample=sample)

    def feedback(self, batch: Batch, priority: Tensor) -> None:
        """Update the priorities of a batch's transitions; priority: [n]."""
        assert batch.sample is not None  # noqa: S101 - `sample` set it
        self.sampler.update(batch.sample, priority)

    def cut(self, obs: Array, mask: NDArray[np.bool_] | None) -> None:
        """Truncate all unfinished episodes, whose last observations are given."""
        self.ring.end_episodes(obs, mask)

    def break_off(self) -> None:
        """Mark the last row as not followed by the next one: new episodes begin."""
        self.ring.break_off()
        if self._reward_scale is not None:
            self._reward_scale.begin_episodes()

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return all state but the ring's rows, as JSON and tensors, for a checkpoint."""
        sampler, tensors = self.sampler.state()
        rewards = {} if self._reward_scale is None else {"reward_scale": self._reward_scale.state()}
        return {"sampler": sampler, **rewards}, {
            **with_prefix("sampler", tensors),
            "generator": self.generator.get_state(),
        }

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Load what `state` returned, after the ring's rows are restored; CheckpointError if it is of another ring."""
        self.generator.set_state(tensors["generator"])
        self.sampler.restore(state["sampler"], strip_prefix("sampler", tensors))
        if self._reward_scale is not None:
            self._reward_scale.restore(state["reward_scale"])
