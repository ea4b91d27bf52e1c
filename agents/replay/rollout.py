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


class _Buffer(NamedTuple):
    """Memory of a rollout, shaped as in `RolloutBatch`; reward: float64, the env's own."""

    obs: NDArray[Any]
    action: NDArray[np.int64]
    reward: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    is_reset: NDArray[np.bool_]
    last_obs: NDArray[Any]
    mask: NDArray[np.bool_] | None

    @classmethod
    def of(
        cls,
        num_steps: int,
        num_envs: int,
        shape: tuple[int, ...],
        dtype: str,
        device: torch.device,
        num_actions: int | None,
    ) -> _Buffer:
        """Make an empty one."""
        size = (num_steps, num_envs)
        return cls(
            obs=zeros_for(device, (*size, *shape), dtype),
            action=np.zeros(size, dtype=np.int64),
            reward=np.zeros(size),
            terminated=np.zeros(size, dtype=bool),
            is_reset=np.zeros(size, dtype=bool),
            last_obs=np.zeros((num_envs, *shape), dtype=dtype),
            mask=None if num_actions is None else np.ones((num_steps + 1, num_envs, num_actions), dtype=bool),
        )


class Rollout:
    """Experience of ``num_steps`` ticks, which are learnt from all at once and never again.

    shape, dtype: of an observation; num_actions: of the masks, None where all actions are legal. clip_rewards,
    reward_factor, reward_scale: what targets make of the env's rewards, in this order: clipped to [-1, 1], divided by
    the scale's value at the rollout's end, multiplied. num_buffers: rollouts until a batch's memory is written anew.
    keeps_values: whether batches have the values by which the network acted.
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
        num_buffers: int = 1,
        keeps_values: bool = True,
    ) -> None:
        self._num_steps = num_steps
        self._device, self._keeps_values = device, keeps_values
        self._clip_rewards, self._reward_factor, self._reward_scale = clip_rewards, reward_factor, reward_scale
        self._buffers = [_Buffer.of(num_steps, num_envs, shape, dtype, device, num_actions) for _ in range(num_buffers)]
        self._buffer = self._buffers[0]
        self._values: list[Tensor] = []
        self._num_rows = 0

    @property
    def keeps_rows(self) -> bool:
        """Whether rows are kept and learnt from again."""
        return False

    @property
    def has_masks(self) -> bool:
        """Whether legal actions are stored."""
        return self._buffer.mask is not None

    @property
    def settled(self) -> bool:
        """Whether all that was stored has been learnt from: at a rollout's end."""
        return self._num_rows == 0

    def append(self, rows: StepRows) -> None:
        """Store one step of every env."""
        t, buffer = self._num_rows, self._buffer
        buffer.obs[t], buffer.action[t], buffer.reward[t] = rows.obs, rows.action, rows.reward
        buffer.terminated[t], buffer.is_reset[t] = rows.terminated, rows.is_reset
        if rows.values is not None and self._keeps_values:
            self._values.append(rows.values)
        if buffer.mask is not None:
            buffer.mask[t] = True if rows.mask is None else rows.mask
            buffer.mask[t + 1] = True if rows.next_mask is None else rows.next_mask
        self._num_rows += 1
        if self._num_rows == self._num_steps:
            buffer.last_obs[:] = rows.next_obs
        if self._reward_scale is not None:
            self._reward_scale.update(rows)

    def due(self, before: int, after: int, changes: Sequence[int]) -> list[Due]:
        """List one phase at a rollout's end, and none before; see `torso.agents.protocols.Experience`."""
        return [Due(after, after, 1)] if self._num_rows == self._num_steps else []

    def sample(self, due: Due) -> RolloutBatch:
        """Return the rollout, and begin the next one."""
        buffer = self._buffer
        reward = np.clip(buffer.reward, -1.0, 1.0) if self._clip_rewards else buffer.reward
        scale = self._reward_factor / (1.0 if self._reward_scale is None else self._reward_scale.deviation)
        values = torch.stack(self._values) if len(self._values) == self._num_steps else None
        self._values, self._num_rows = [], 0
        self._buffers.append(self._buffers.pop(0))
        self._buffer = self._buffers[0]
        return RolloutBatch(
            obs=self._to_device(buffer.obs),
            action=self._to_device(buffer.action),
            reward=self._to_device((reward * scale).astype(np.float32)),
            terminated=self._to_device(buffer.terminated),
            is_reset=self._to_device(buffer.is_reset),
            last_obs=self._to_device(buffer.last_obs),
            mask=None if buffer.mask is None else self._to_device(buffer.mask),
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
        """Share the array's memory on the CPU, which a later rollout overwrites; elsewhere copy it."""
        return torch.from_numpy(array).to(self._device)
