"""Rollout as experience: the latest steps of all envs, learnt from once and then forgotten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torso.agents.protocols import Due, StepRows
from torso.agents.replay.reward_scale import RewardScale
from torso.agents.replay.uploads import zeros_for
from torso.arrays import Array


class RolloutBatch(NamedTuple):
    """T steps of E envs, on the learner's device.

    obs: [T, E, *shape] raw; action: [T, E] int64; reward: [T, E] float32, as targets have it; terminated, is_reset:
    [T, E] bool, as in `StepRows`; last_obs: [E, *shape], after the last step; mask: [T + 1, E, A] bool, the legal
    actions in obs and in last_obs, or None where all are; values: [T, E, A] float32, those by which the network acted,
    or None where it was not asked in every step.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor
    is_reset: Tensor
    last_obs: Tensor
    mask: Tensor | None
    values: Tensor | None


class Rollout:
    """Experience of ``num_steps`` ticks, which are learnt from all at once and never again.

    shape, dtype: of an observation; num_actions: of the masks, None where all actions are legal. clip_rewards,
    reward_factor, reward_scale: what targets make of the env's rewards, in this order: clipped to [-1, 1], divided by
    the scale's value at the rollout's end, multiplied.
    """

    def __init__(
        self,
        num_steps: int,
        num_envs: int,
        *,
        shape: tuple[int, ...],
        dtype: str,
        device: torch.device,
        num_actions: int | None = None,
        clip_rewards: bool = False,
        reward_factor: float = 1.0,
        reward_scale: RewardScale | None = None,
    ) -> None:
        self._num_steps = num_steps
        self._device = device
        self._clip_rewards, self._reward_factor, self._reward_scale = clip_rewards, reward_factor, reward_scale
        size = (num_steps, num_envs)
        self._obs = zeros_for(device, (*size, *shape), dtype)
        self._action = np.zeros(size, dtype=np.int64)
        self._reward = np.zeros(size)  # float64, the env's own
        self._terminated, self._is_reset = np.zeros((2, *size), dtype=bool)
        self._mask = None if num_actions is None else np.ones((num_steps + 1, num_envs, num_actions), dtype=bool)
        self._last_obs = np.zeros((num_envs, *shape), dtype=dtype)
        self._values: list[Tensor] = []
        self._num_rows = 0

    @property
    def keeps_rows(self) -> bool:
        """Whether rows are kept and learnt from again."""
        return False

    @property
    def has_masks(self) -> bool:
        """Whether legal actions are stored."""
        return self._mask is not None

    @property
    def settled(self) -> bool:
        """Whether all that was stored has been learnt from: at a rollout's end."""
        return self._num_rows == 0

    def append(self, rows: StepRows) -> None:
        """Store one step of every env."""
        t = self._num_rows
        self._obs[t], self._action[t], self._reward[t] = rows.obs, rows.action, rows.reward
        self._terminated[t], self._is_reset[t] = rows.terminated, rows.is_reset
        if rows.values is not None:
            self._values.append(rows.values)
        if self._mask is not None:
            self._mask[t] = True if rows.mask is None else rows.mask
            self._mask[t + 1] = True if rows.next_mask is None else rows.next_mask
        self._num_rows += 1
        if self._num_rows == self._num_steps:
            self._last_obs[:] = rows.next_obs
        if self._reward_scale is not None:
            self._reward_scale.update(rows)

    def due(self, before: int, after: int, changes: Sequence[int]) -> list[Due]:
        """List one phase at a rollout's end, and none before; see `torso.agents.protocols.Experience`."""
        return [Due(after, after, 1)] if self._num_rows == self._num_steps else []

    def sample(self, due: Due) -> RolloutBatch:
        """Return the rollout, and begin the next one."""
        reward = np.clip(self._reward, -1.0, 1.0) if self._clip_rewards else self._reward
        scale = self._reward_factor / (1.0 if self._reward_scale is None else self._reward_scale.deviation)
        values = torch.stack(self._values) if len(self._values) == self._num_steps else None
        self._values, self._num_rows = [], 0
        return RolloutBatch(
            obs=self._to_device(self._obs),
            action=self._to_device(self._action),
            reward=self._to_device((reward * scale).astype(np.float32)),
            terminated=self._to_device(self._terminated),
            is_reset=self._to_device(self._is_reset),
            last_obs=self._to_device(self._last_obs),
            mask=None if self._mask is None else self._to_device(self._mask),
            values=values,
        )

    def feedback(self, batch: RolloutBatch, priority: Tensor) -> None:
        """Do nothing: no step is learnt from again."""

    def cut(self, obs: Array, mask: NDArray[np.bool_] | None) -> None:
        """Drop what was not learnt from: a rollout does not go on after its envs were built anew."""
        self.break_off()

    def break_off(self) -> None:
        """Drop what was not learnt from."""
        self._values, self._num_rows = [], 0
        if self._reward_scale is not None:
            self._reward_scale.begin_episodes()

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the state for a checkpoint, at which a rollout begins."""
        return ({} if self._reward_scale is None else {"reward_scale": self._reward_scale.state()}), {}

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Load what `state` returned."""
        if self._reward_scale is not None:
            self._reward_scale.restore(state["reward_scale"])

    def _to_device(self, array: Array) -> Tensor:
        """Share the array's memory on the CPU, which the next rollout overwrites; elsewhere copy it."""
        return torch.from_numpy(array).to(self._device)
