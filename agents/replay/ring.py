"""The replay ring: what the envs gave, stored once, on the device that learns.

Row r of env e holds the observation before a decision, the decision, and what came of it; the observation after it is
row r + 1's. Because vector envs reset in ``NEXT_STEP`` mode the stream has no gaps: an episode's true last observation
stands in a row of its own, the *reset row*, whose action was ignored and which is never sampled as a start.
Rows are numbered from the run's first; row r lives in slot ``r % capacity_rows``.

Of stacked frames the newest alone is stored. A stack is put together again from the rows before, with planes of zeros
in place of those before the episode's first row, which is row 0 or the row after a reset row. So an episode here is the
env's: a stack goes on over a lost life, where the learner's episode ends (``terminated``) and no reset row follows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torso.agents.optim.devices import announce
from torso.agents.replay.batches import Batch
from torso.agents.replay.returns import n_step_return
from torso.errors import CheckpointError, ConfigError

_GATHERED_AS = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}  # of the same bytes


class ReplayRing:
    """A ring of ``capacity_steps // num_envs`` rows by ``num_envs`` envs.

    shape: of an observation; with ``frame_stack`` > 1 its first axis is the stack, newest last, zeros before an
    episode's first. num_actions: given, the legal actions of every observation are stored too.
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
    ) -> None:
        self.capacity_rows = capacity_steps // num_envs
        if self.capacity_rows < 3:
            raise ConfigError(
                f"a replay of {capacity_steps} steps is too small for {num_envs} envs: at least 3 rows each"
            )
        if frame_stack > 1 and shape[:1] != (frame_stack,):
            raise ConfigError(
                f"observations of shape {list(shape)} are no stack of {frame_stack} frames: the first axis is the stack"
            )
        self.num_envs = num_envs
        self.frame_stack = frame_stack
        self.device = torch.device(device)
        self.num_rows = 0  # rows ever written; the next row's number
        self.num_rewrites = 0  # how often rows were put there other than one after another; samplers then look anew
        self._oldest_row = 0  # rows before it were never written here
        stored: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
            "obs": (shape[1:] if frame_stack > 1 else shape, np.dtype(dtype)),
            "action": ((), np.dtype(np.int64)),
            "reward": ((), np.dtype(np.float32)),
            "terminated": ((), np.dtype(np.bool_)),
            "truncated": ((), np.dtype(np.bool_)),
            "is_reset": ((), np.dtype(np.bool_)),
        }
        if num_actions is not None:
            stored["mask"] = ((num_actions,), np.dtype(np.bool_))
        num_items = self.capacity_rows * num_envs
        self.num_bytes = num_items * sum(math.prod(shape) * dtype.itemsize for shape, dtype in stored.values())
        announce("the replay", self.num_bytes, self.device, remedy="lower replay_capacity")
        try:
            # One item more than the ring has: zeros for ever, the plane before an episode's first.
            self._items = {
                name: self._zeros((num_items + 1, *shape), dtype) for name, (shape, dtype) in stored.items()
            }  # [items + 1, ...]
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise ConfigError(
                f"a replay of {capacity_steps} steps takes {self.num_bytes / 1e9:.1f} GB, more than {self.device} "
                "gives; lower replay_capacity"
            ) from error
        self._tensors = {
            name: items[:-1].view(self.capacity_rows, num_envs, *items.shape[1:]) for name, items in self._items.items()
        }  # [rows, E, ...]
        # On the CPU the same memory twice: NumPy's single-row writes cost a tenth of torch's.
        self._rows: dict[str, NDArray[Any]] | None = None
        if self.device.type == "cpu":
            self._rows = {name: tensor.numpy() for name, tensor in self._tensors.items()}
        self._places = torch.arange(frame_stack + 1, device=self.device)  # in a stack, and one more

    @property
    def has_masks(self) -> bool:
        """Whether legal actions are stored."""
        return "mask" in self._tensors

    @property
    def first_row(self) -> int:
        """The oldest row that is still there."""
        return max(self._oldest_row, self.num_rows - self.capacity_rows)

    def start_rows(self, n_step: int) -> range:
        """The rows whose stack and whose window of ``n_step`` steps are in the ring; reset rows among them too.

        Both ends are cut off straight: the newest ``n_step`` rows are left out also where an episode ends among them,
        the oldest ``frame_stack - 1`` also where one begins among them, unless the run itself begins there.
        """
        first = self.first_row
        return range(first + (self.frame_stack - 1 if first > 0 else 0), max(first, self.num_rows - n_step))

    def is_reset(self, decision: Tensor) -> Tensor:
        """Whether ``row * num_envs + env`` is a reset row's, for rows in the ring; bool of the shape given."""
        return self._gather("is_reset", decision % (self.capacity_rows * self.num_envs))

    def is_start(self, row: Tensor, env: Tensor, n_step: int) -> Tensor:
        """Whether a transition of ``n_step`` steps begins at ``row`` of ``env``, int64 that broadcast; bool."""
        return self._is_start(row, self._index(row, env), n_step)

    def transitions(
        self, row: Tensor, env: Tensor, *, n_step: int = 1, gamma: float, clip_rewards: bool = False
    ) -> Batch:
        """The transitions that begin at ``row`` [n] int64 of ``env`` [n] int64, without waiting for the device.

        ``r_t`` is the sum of gamma^k r_{t+k} over k < ``n_step``. It stops after a step that terminated, and then
        ``discount_t`` is 0; and before a reset row, and then the value of the true last observation counts gamma^k
        after k steps. ``clip_rewards``: each reward counts as the nearest in [-1, 1]. ``weight`` is 0 where no
        transition begins (`is_start`), and what stands there means nothing.
        """
        index = self._index(row, env)  # [n]
        r_t, discount_t, num_steps = self._returns(row, env, n_step, gamma, clip_rewards)
        row_t = row + num_steps
        index_t = self._index(row_t, env)
        is_start = self._is_start(row, index, n_step)
        if self.frame_stack == 1:
            s_tm1, s_t = self._gather("obs", index), self._gather("obs", index_t)
        elif n_step == 1:  # the two stacks share all planes but two: views of one copy
            planes = self._planes(row_t, env, self.frame_stack + 1)
            s_tm1, s_t = planes[:, :-1], planes[:, 1:]
        else:
            s_tm1, s_t = (self._planes(newest, env, self.frame_stack) for newest in (row, row_t))
        return Batch(
            s_tm1=s_tm1,
            a_tm1=self._gather("action", index),
            r_t=r_t,
            discount_t=discount_t,
            s_t=s_t,
            weight=is_start.float(),
            mask_t=self._gather("mask", index_t) | ~is_start[:, None] if self.has_masks else None,
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
        """Write one row. obs: [E, *shape]; mask, the legal actions in obs: [E, A], None: all; the others: [E].

        ``terminated`` is the learner's end, a lost life too. That the env ended shows in the next row's ``is_reset``.
        What a reset row's action was does not matter.
        """
        slot = self.num_rows % self.capacity_rows
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
            for name, value in row.items():
                self._tensors[name][slot].copy_(torch.as_tensor(np.ascontiguousarray(value)), non_blocking=True)
        self.num_rows += 1

    def end_episodes(self, obs: NDArray[np.generic], mask: NDArray[np.bool_] | None = None) -> None:
        """Truncate every episode under way: ``obs`` [E, *shape], observed last, becomes a reset row of all envs.

        mask: the legal actions in ``obs``, [E, A]; None: all.
        """
        if self.num_rows > 0:
            slot = (self.num_rows - 1) % self.capacity_rows
            tensors = self._tensors
            tensors["truncated"][slot] |= ~(tensors["terminated"][slot] | tensors["is_reset"][slot])
        nothing = np.zeros(self.num_envs, dtype=bool)
        zeros = np.zeros(self.num_envs, dtype=np.int64)
        self.append(obs, zeros, zeros.astype(np.float32), nothing, nothing, ~nothing, mask)

    def break_off(self) -> None:
        """What comes next does not follow the last row: never start there. After `end_episodes` it changes nothing."""
        if self.num_rows > 0:
            self._tensors["is_reset"][(self.num_rows - 1) % self.capacity_rows] = True

    def read_rows(self, start_row: int, stop_row: int) -> dict[str, Tensor]:
        """Copies of the rows [start_row, stop_row) that are in the ring, by field, on the CPU; [rows, E, ...] each."""
        slots = torch.arange(start_row, stop_row, device=self.device) % self.capacity_rows
        return {name: _gathered(tensor, slots).cpu() for name, tensor in self._tensors.items()}

    def write_rows(self, start_row: int, rows: Mapping[str, Tensor]) -> None:
        """Put rows back where they were; those that the ring has passed are dropped. Sets ``num_rows``.

        Rows that are there already stay where the new ones follow upon them; otherwise the new ones are all there is.
        """
        if set(rows) != set(self._tensors):
            raise CheckpointError(f"replay rows hold {sorted(rows)}, expected {sorted(self._tensors)}")
        for name, tensor in self._tensors.items():
            if rows[name].shape[1:] != tensor.shape[1:]:
                raise CheckpointError(
                    f"replay rows have {name} {list(rows[name].shape[1:])}, expected {list(tensor.shape[1:])}"
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

    def _returns(
        self, row: Tensor, env: Tensor, n_step: int, gamma: float, clip_rewards: bool
    ) -> tuple[Tensor, Tensor, Tensor | int]:
        """``r_t`` and ``discount_t``, [n] float32, and how many steps they are of, [n] int64 or the same for all."""
        rows = row if n_step == 1 else row + torch.arange(n_step, device=self.device)[:, None]  # [n_step, n]
        index = self._index(rows, env)
        reward, terminated = self._gather("reward", index), self._gather("terminated", index)
        if clip_rewards:
            reward = reward.clamp(-1.0, 1.0)
        if n_step == 1:
            return reward, gamma * (~terminated).float(), 1
        return n_step_return(reward, terminated, self._gather("is_reset", index), gamma)

    def _planes(self, newest_row: Tensor, env: Tensor, num_planes: int) -> Tensor:
        """The frames up to ``newest_row`` [n], zeros before its episode's first; [n, num_planes, ...]."""
        places = self._places[:num_planes]
        rows = newest_row[:, None] + (places - (num_planes - 1))  # [n, planes]
        index = self._index(rows, env[:, None])
        # A plane belongs to the episode when no row from its own up to the newest's forerunner ended one.
        ended = self._gather("is_reset", index[:, :-1]) | (rows[:, :-1] < 0)  # [n, planes - 1]
        num_zeros = (ended * places[1:]).amax(dim=1, keepdim=True)  # [n, 1]
        return self._gather("obs", torch.where(places < num_zeros, self.capacity_rows * self.num_envs, index))

    def _is_start(self, row: Tensor, index: Tensor, n_step: int) -> Tensor:
        rows = self.start_rows(n_step)
        return (row >= rows.start) & (row < rows.stop) & ~self._gather("is_reset", index)

    def _index(self, row: Tensor, env: Tensor) -> Tensor:
        """Where a row of an env stands among the items."""
        slot = row % self.capacity_rows
        return slot if self.num_envs == 1 else slot * self.num_envs + env

    def _gather(self, name: str, index: Tensor) -> Tensor:
        """A field's items at ``index``, of any shape: [*index.shape, ...]."""
        items = self._items[name]
        if index.dim() == 1:
            return _gathered(items, index)
        return _gathered(items, index.flatten()).view(*index.shape, *items.shape[1:])

    def _zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Tensor:
        if self.device.type == "cpu":  # NumPy's zeros take memory only as they are written over
            return torch.from_numpy(np.zeros(shape, dtype))
        return torch.zeros(shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype, device=self.device)


def _gathered(items: Tensor, index: Tensor) -> Tensor:
    """``items[index]`` for a one-dimensional index, copied a whole item at a time."""
    dtype = _GATHERED_AS.get(items.dtype)  # index_select does not know all dtypes
    if dtype is not None:
        return items.view(dtype).index_select(0, index).view(items.dtype)
    return items.index_select(0, index)
