"""Replay buffer: a ring of steps of all envs, each stored once, on the training device.

Row r of env e holds the observation before an action, the action, reward and end flags; the observation after it is
row r + 1's. Because vector envs reset in ``NEXT_STEP`` mode the stream has no gaps: an episode's true last observation
is in a row of its own, the *reset row*, whose action was ignored and which is never sampled as a start.
Rows are numbered from the run's first; row r is stored in slot ``r % capacity_rows``.

Of stacked frames only the newest is stored. A stack is rebuilt from the rows before, with planes of zeros
in place of those before the episode's first row, which is row 0 or the row after a reset row. So an episode here is the
env's: a stack continues over a lost life, where the learner's episode ends (``terminated``) and no reset row follows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torso.agents.optim.devices import warn_of_memory_use
from torso.agents.replay.batches import Batch
from torso.agents.replay.one_hot import OneHotRows
from torso.agents.replay.returns import n_step_return
from torso.agents.replay.selection import select_rows
from torso.agents.replay.uploads import torch_dtype, upload
from torso.errors import CheckpointError, ConfigError


class ReplayRing:
    """Ring buffer of ``capacity_steps // num_envs`` rows by ``num_envs`` envs.

    shape: of an observation; with ``frame_stack`` > 1 its first axis is the stack, newest last, zeros before an
    episode's first. num_actions: where given, the legal actions of every observation are stored too. is_one_hot:
    observations are whole numbers of 0 or 1, which are stored in a byte each. one_hot_places: the first column and the
    number of columns of each one-hot place of flattened observations, of which an index is stored.
    """

    def __init__(
        self,
        *,
        capacity_steps: int,
        num_envs: int,
        shape: tuple[int, ...],
        dtype: str,
        device: torch.device | str = "cpu",
        frame_stack: int = 1,
        num_actions: int | None = None,
        is_one_hot: bool = False,
        one_hot_places: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.capacity_rows = capacity_steps // num_envs
        if self.capacity_rows < 3:
            raise ConfigError(
                f"capacity_steps must be at least {3 * num_envs}, 3 rows of each of the {num_envs} envs, "
                f"got {capacity_steps}"
            )
        if frame_stack > 1 and shape[:1] != (frame_stack,):
            raise ConfigError(f"shape must begin with the stack of {frame_stack} frames, got {list(shape)}")
        self.num_envs = num_envs
        self.frame_stack = frame_stack
        self.device = torch.device(device)
        self.num_rows = 0  # rows written in total; the next row's number
        self.num_rewrites = 0  # count of writes other than appends; samplers then rebuild their state
        self._oldest_row = 0  # rows before it were never written to this ring
        obs_shape = shape[1:] if frame_stack > 1 else shape
        obs_dtype = np.dtype(np.uint8 if is_one_hot else dtype)
        self._one_hot: OneHotRows | None = None
        if one_hot_places:
            if len(shape) != 1:
                raise ConfigError(f"observations must be flattened where they are one-hot, got {list(shape)}")
            self._one_hot = OneHotRows(
                shape[0], one_hot_places, dtype=np.dtype(dtype), is_binary=is_one_hot, device=self.device
            )
            obs_shape, obs_dtype = (self._one_hot.width,), self._one_hot.code_dtype
        fields: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
            "obs": (obs_shape, obs_dtype),
            "action": ((), np.dtype(np.int64)),
            "reward": ((), np.dtype(np.float32)),
            "terminated": ((), np.dtype(np.bool_)),
            "truncated": ((), np.dtype(np.bool_)),
            "is_reset": ((), np.dtype(np.bool_)),
        }
        if num_actions is not None:
            fields["mask"] = ((num_actions,), np.dtype(np.bool_))
        num_items = self.capacity_rows * num_envs
        self.num_bytes = num_items * sum(math.prod(shape) * dtype.itemsize for shape, dtype in fields.values())
        warn_of_memory_use("the replay", self.num_bytes, self.device, remedy="lower replay_capacity")
        try:
            # One item more than the ring has: constant zeros, the plane before an episode's first.
            self._items = {
                name: self._zeros((num_items + 1, *shape), dtype) for name, (shape, dtype) in fields.items()
            }  # [items + 1, ...]
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise ConfigError(
                f"a replay of {capacity_steps} steps takes {self.num_bytes / 1e9:.1f} GB, more than {self.device} "
                "has; lower replay_capacity"
            ) from error
        self._share_memory()
        self._obs_dtype = torch_dtype(np.dtype(dtype))  # of batches
        self._plane_offsets = torch.arange(frame_stack + 1, device=self.device)  # of a stack's planes, and one more

    def _share_memory(self) -> None:
        """Make the views of the items: rows, and on the CPU NumPy's, whose writes of a row cost a tenth of torch's."""
        self._tensors = {
            name: items[:-1].view(self.capacity_rows, self.num_envs, *items.shape[1:])
            for name, items in self._items.items()
        }  # [rows, E, ...]
        self._rows: dict[str, NDArray[Any]] | None = None
        if self.device.type == "cpu":
            self._rows = {name: tensor.numpy() for name, tensor in self._tensors.items()}

    def _add_masks(self, num_actions: int) -> None:
        """Store legal actions too; in the rows so far all are."""
        num_items = self.capacity_rows * self.num_envs
        self._items["mask"] = torch.ones((num_items + 1, num_actions), dtype=torch.bool, device=self.device)
        self.num_bytes += num_items * num_actions
        self._share_memory()

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle holds: the items, and not the views, which would be copies of their own."""
        return {name: value for name, value in vars(self).items() if name not in ("_tensors", "_rows")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore what `__getstate__` returned."""
        vars(self).update(state)
        self._share_memory()

    @property
    def has_masks(self) -> bool:
        """Whether legal actions are stored."""
        return "mask" in self._tensors

    @property
    def first_row(self) -> int:
        """The oldest row in the ring."""
        return max(self._oldest_row, self.num_rows - self.capacity_rows)

    def start_rows(self, n_step: int) -> range:
        """Range of the rows whose stack and window of ``n_step`` steps are in the ring; it includes reset rows.

        Both ends are the same for all envs: the newest ``n_step`` rows are excluded also where an episode ends among
        them, the oldest ``frame_stack - 1`` also where one begins among them, unless the run itself begins there.
        """
        first = self.first_row
        return range(first + (self.frame_stack - 1 if first > 0 else 0), max(first, self.num_rows - n_step))

    def is_reset(self, decision: Tensor) -> Tensor:
        """Whether the decision ``row * num_envs + env`` is a reset row's, for rows in the ring; bool of its shape."""
        return self._gather("is_reset", decision % (self.capacity_rows * self.num_envs))

    def is_start(self, row: Tensor, env: Tensor, n_step: int) -> Tensor:
        """Whether a transition of ``n_step`` steps begins at ``row`` of ``env``, int64 that broadcast; bool."""
        return self._is_start(row, self._index(row, env), n_step)

    def transitions(
        self, row: Tensor, env: Tensor, *, n_step: int = 1, gamma: float, clip_rewards: bool = False
    ) -> Batch:
        """Gather the transitions that begin at ``row`` [n] int64 of ``env`` [n] int64, without a device sync.

        ``r_t`` is the sum of gamma^k r_{t+k} over k < ``n_step``. It stops after a step that terminated, and then
        ``discount_t`` is 0; and before a reset row, and then ``discount_t``, the factor on the value of the true last
        observation, is gamma^k after k steps. ``clip_rewards``: each reward is clipped to [-1, 1]. ``weight`` is 0
        where no transition begins (`is_start`); the other values of such a row are undefined.
        """
        index = self._index(row, env)  # [n]
        r_t, discount_t, num_steps = self._returns(row, env, n_step, gamma, clip_rewards)
        row_t = row + num_steps
        index_t = self._index(row_t, env)
        is_start = self._is_start(row, index, n_step)
        if self.frame_stack == 1:
            s_tm1, s_t = (self._observations(each) for each in (index, index_t))
        elif n_step == 1:  # the two stacks share all planes but two: views of one copy
            planes = self._planes(row_t, env, self.frame_stack + 1)
            s_tm1, s_t = planes[:, :-1], planes[:, 1:]
        else:
            s_tm1, s_t = (self._planes(newest, env, self.frame_stack) for newest in (row, row_t))
        mask_t, mask_tm1 = (
            self._gather("mask", each) | ~is_start[:, None] if self.has_masks else None for each in (index_t, index)
        )
        return Batch(
            s_tm1=s_tm1,
            a_tm1=self._gather("action", index),
            r_t=r_t,
            discount_t=discount_t,
            s_t=s_t,
            weight=is_start.float(),
            mask_t=mask_t,
            mask_tm1=mask_tm1,
        )

    def append(
        self,
        obs: NDArray[np.generic],
        action: NDArray[np.int64],
        reward: NDArray[np.number],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        is_reset: NDArray[np.bool_],
        mask: NDArray[np.bool_] | None = None,
    ) -> None:
        """Append one row. obs: [E, *shape]; mask, the legal actions in obs: [E, A], None: all; the others: [E].

        ``terminated`` is the end of the learner's episode, also by a lost life. The next row's ``is_reset`` marks the
        end of the env's episode. A reset row's action is ignored.
        """
        slot = self.num_rows % self.capacity_rows
        if self._one_hot is not None:
            obs = self._one_hot.encode(obs)
        row: dict[str, NDArray[np.generic]] = {
            "obs": obs[:, -1] if self.frame_stack > 1 else obs,
            "action": action,
            "reward": reward,
            "terminated": terminated,
            "truncated": truncated,
            "is_reset": is_reset,
        }
        if self.has_masks:
            row["mask"] = np.array(True) if mask is None else mask
        if self._rows is not None:
            for name, value in row.items():
                self._rows[name][slot] = value
        else:
            for name, tensor in upload(row, self.device).items():
                self._tensors[name][slot].copy_(tensor)
        self.num_rows += 1

    def end_episodes(self, obs: NDArray[np.generic], mask: NDArray[np.bool_] | None = None) -> None:
        """Truncate all unfinished episodes: ``obs`` [E, *shape], the last observations, become a reset row of all envs.

        mask: the legal actions in ``obs``, [E, A]; None: all.
        """
        if self.num_rows > 0:
            slot = (self.num_rows - 1) % self.capacity_rows
            tensors = self._tensors
            tensors["truncated"][slot] |= ~(tensors["terminated"][slot] | tensors["is_reset"][slot])
        false = np.zeros(self.num_envs, dtype=bool)
        zeros = np.zeros(self.num_envs, dtype=np.int64)
        self.append(obs, zeros, zeros.astype(np.float32), false, false, ~false, mask)

    def break_off(self) -> None:
        """Mark the last row as not followed by the next one, so never a start. No effect after `end_episodes`."""
        if self.num_rows > 0:
            self._tensors["is_reset"][(self.num_rows - 1) % self.capacity_rows] = True

    def read_rows(self, start_row: int, stop_row: int) -> dict[str, Tensor]:
        """Copy the rows [start_row, stop_row) of the ring, by field, to the CPU; [rows, E, ...] each."""
        slots = torch.arange(start_row, stop_row, device=self.device) % self.capacity_rows
        return {name: select_rows(tensor, slots).cpu() for name, tensor in self._tensors.items()}

    def write_rows(self, start_row: int, rows: Mapping[str, Tensor]) -> None:
        """Restore rows to their slots; those older than the ring's capacity are dropped. Sets ``num_rows``.

        Rows already in the ring stay where the new ones continue them; otherwise only the new ones remain. All actions
        are legal in rows without masks; where the ring has none and the rows have, it stores them from now on.
        """
        if {*rows, "mask"} != {*self._tensors, "mask"}:
            raise CheckpointError(f"replay rows must hold {sorted(self._tensors)}, got {sorted(rows)}")
        if "mask" in rows and not self.has_masks:
            self._add_masks(rows["mask"].shape[-1])
        rows = self._completed(rows)
        for name, tensor in self._tensors.items():
            if rows[name].shape[1:] != tensor.shape[1:]:
                raise CheckpointError(
                    f"replay rows must have {name} {list(tensor.shape[1:])}, got {list(rows[name].shape[1:])}"
                )
        stop_row = start_row + len(rows["action"])
        first_row = max(start_row, stop_row - self.capacity_rows)
        slot = first_row % self.capacity_rows
        before_wrap = min(stop_row - first_row, self.capacity_rows - slot)  # rows up to the ring's end; the rest wraps
        for name, tensor in self._tensors.items():
            kept = rows[name][first_row - start_row :]
            tensor[slot : slot + before_wrap].copy_(kept[:before_wrap])
            tensor[: len(kept) - before_wrap].copy_(kept[before_wrap:])
        follows = self.first_row <= start_row <= self.num_rows
        self._oldest_row = self.first_row if follows else start_row
        self.num_rows = stop_row
        self.num_rewrites += 1

    def _completed(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Add the masks that rows lack, and encode observations that were stored whole, as they were before."""
        completed = dict(rows)
        if "mask" not in rows and self.has_masks:
            completed["mask"] = torch.ones((*rows["action"].shape, self._tensors["mask"].shape[-1]), dtype=torch.bool)
        if self._one_hot is not None and rows["obs"].shape[2:] == (self._one_hot.num_values,):
            whole = rows["obs"]  # [rows, E, num_values]
            codes = torch.from_numpy(self._one_hot.encode(whole.flatten(0, 1).numpy()))  # [rows * E, width]
            completed["obs"] = codes.view(*whole.shape[:2], -1)
        return completed

    def _returns(
        self, row: Tensor, env: Tensor, n_step: int, gamma: float, clip_rewards: bool
    ) -> tuple[Tensor, Tensor, Tensor | int]:
        """Compute ``r_t`` and ``discount_t``, [n] float32, and their number of steps, [n] int64 or the same for all."""
        rows = row if n_step == 1 else row + torch.arange(n_step, device=self.device)[:, None]  # [n_step, n]
        index = self._index(rows, env)
        reward, terminated = self._gather("reward", index), self._gather("terminated", index)
        if clip_rewards:
            reward = reward.clamp(-1.0, 1.0)
        if n_step == 1:
            return reward, gamma * (~terminated).float(), 1
        return n_step_return(reward, terminated, self._gather("is_reset", index), gamma)

    def _planes(self, newest_row: Tensor, env: Tensor, num_planes: int) -> Tensor:
        """Stack the frames up to ``newest_row`` [n], zeros before its episode's first; [n, num_planes, ...]."""
        offsets = self._plane_offsets[:num_planes]
        rows = newest_row[:, None] + (offsets - (num_planes - 1))  # [n, planes]
        index = self._index(rows, env[:, None])
        # A plane belongs to the episode when no row from its own up to the newest's predecessor ended one.
        ended = self._gather("is_reset", index[:, :-1]) | (rows[:, :-1] < 0)  # [n, planes - 1]
        num_zeros = (ended * offsets[1:]).amax(dim=1, keepdim=True)  # [n, 1]
        index = torch.where(offsets < num_zeros, self.capacity_rows * self.num_envs, index)
        return self._gather("obs", index).to(self._obs_dtype)

    def _observations(self, index: Tensor) -> Tensor:
        """Gather observations that are not stacked at ``index`` [n], as they came: [n, *shape]."""
        stored = self._gather("obs", index)
        return stored.to(self._obs_dtype) if self._one_hot is None else self._one_hot.decode(stored)

    def _is_start(self, row: Tensor, index: Tensor, n_step: int) -> Tensor:
        rows = self.start_rows(n_step)
        return (row >= rows.start) & (row < rows.stop) & ~self._gather("is_reset", index)

    def _index(self, row: Tensor, env: Tensor) -> Tensor:
        """Flat index of a row of an env among the items."""
        slot = row % self.capacity_rows
        return slot if self.num_envs == 1 else slot * self.num_envs + env

    def _gather(self, name: str, index: Tensor) -> Tensor:
        """Gather a field's items at ``index`` of any shape: [*index.shape, ...]."""
        items = self._items[name]
        if index.dim() == 1:
            return select_rows(items, index)
        return select_rows(items, index.flatten()).view(*index.shape, *items.shape[1:])

    def _zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Tensor:
        if self.device.type == "cpu":  # NumPy's zeros are allocated lazily, on the first write
            return torch.from_numpy(np.zeros(shape, dtype))
        return torch.zeros(shape, dtype=torch_dtype(dtype), device=self.device)
