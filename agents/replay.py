"""The replay ring: what the envs gave, stored once, on the device that learns.

Row r of env e holds the observation before a decision, the decision, and what came of it; the observation after it is
row r + 1's. Because vector envs reset in ``NEXT_STEP`` mode the stream has no gaps: an episode's true last observation
stands in a row of its own, the *reset row*, whose action was ignored and which is never sampled as a start.
Rows are numbered from the run's first; row r lives in slot ``r % capacity_rows``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torso.errors import CheckpointError, ConfigError

_DRAWS = 8  # candidates drawn a sample: all of them reset rows is rarer than 1 in 10 million for episodes of 8 steps
_LARGE_BYTES = 2 * 1024**3
_log = logging.getLogger(__name__)


class Batch(NamedTuple):
    """Transitions. Tensors on the ring's device, ``n`` rows each.

    s_tm1, s_t: [n, *shape] raw; a_tm1: [n] int64; r_t, discount_t: [n] float32, the discount 0 where the episode
    terminated; weight: [n] float32, 0 for a row that is no transition, which counts for nothing.
    """

    s_tm1: Tensor
    a_tm1: Tensor
    r_t: Tensor
    discount_t: Tensor
    s_t: Tensor
    weight: Tensor

    def rows(self, start: int, stop: int) -> Batch:
        """The transitions [start, stop) of this batch."""
        return Batch(*(tensor[start:stop] for tensor in self))


class ReplayRing:
    """A ring of ``capacity_steps // num_envs`` rows by ``num_envs`` envs."""

    def __init__(
        self,
        *,
        capacity_steps: int,
        num_envs: int,
        shape: tuple[int, ...],
        dtype: str,
        device: torch.device | str = "cpu",
    ) -> None:
        self.capacity_rows = capacity_steps // num_envs
        if self.capacity_rows < 3:
            raise ConfigError(
                f"a replay of {capacity_steps} steps is too small for {num_envs} envs: at least 3 rows each"
            )
        self.num_envs = num_envs
        self.device = torch.device(device)
        self.num_rows = 0  # rows ever written; the next row's number
        size = (self.capacity_rows, num_envs)
        fields = {
            "obs": ((*size, *shape), np.dtype(dtype)),
            "action": (size, np.dtype(np.int64)),
            "reward": (size, np.dtype(np.float32)),
            "terminated": (size, np.dtype(np.bool_)),
            "truncated": (size, np.dtype(np.bool_)),
            "is_reset": (size, np.dtype(np.bool_)),
        }
        self.num_bytes = sum(math.prod(shape) * dtype.itemsize for shape, dtype in fields.values())  # of the full ring
        if self.num_bytes > _LARGE_BYTES:
            _log.warning("the replay will take %.1f GB of memory on %s", self.num_bytes / 1e9, self.device)
        # On the CPU the same memory twice: NumPy's single-row writes cost a tenth of torch's, and its zeros take memory
        # only as they are written over.
        self._rows: dict[str, NDArray[Any]] | None = None
        try:
            if self.device.type == "cpu":
                self._rows = {name: np.zeros(shape, dtype) for name, (shape, dtype) in fields.items()}
                self._tensors = {name: torch.from_numpy(array) for name, array in self._rows.items()}
            else:
                self._tensors = {
                    name: torch.zeros(shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype, device=self.device)
                    for name, (shape, dtype) in fields.items()
                }
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise ConfigError(
                f"a replay of {capacity_steps} steps takes {self.num_bytes / 1e9:.1f} GB, more than {self.device} "
                "gives; lower replay_capacity"
            ) from error

    @property
    def first_row(self) -> int:
        """The oldest row that is still there."""
        return max(0, self.num_rows - self.capacity_rows)

    @property
    def num_starts(self) -> int:
        """Rows, of all envs, that have a row after them; reset rows among them count too."""
        return max(0, self.num_rows - self.first_row - 1) * self.num_envs

    def append(
        self,
        obs: NDArray[np.generic],
        action: NDArray[np.int64],
        reward: NDArray[np.floating],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        is_reset: NDArray[np.bool_],
    ) -> None:
        """Write one row. obs: [E, *shape]; the others: [E]. What a reset row's action was does not matter."""
        slot = self.num_rows % self.capacity_rows
        row = {
            "obs": obs,
            "action": action,
            "reward": reward,
            "terminated": terminated,
            "truncated": truncated,
            "is_reset": is_reset,
        }
        if self._rows is not None:
            for name, value in row.items():
                self._rows[name][slot] = value
        else:
            for name, value in row.items():
                self._tensors[name][slot].copy_(torch.as_tensor(np.ascontiguousarray(value)), non_blocking=True)
        self.num_rows += 1

    def end_episodes(self, obs: NDArray[np.generic]) -> None:
        """Truncate every episode under way: ``obs`` [E, *shape], observed last, becomes a reset row of all envs."""
        if self.num_rows > 0:
            slot = (self.num_rows - 1) % self.capacity_rows
            tensors = self._tensors
            tensors["truncated"][slot] |= ~(tensors["terminated"][slot] | tensors["is_reset"][slot])
        nothing = np.zeros(self.num_envs, dtype=bool)
        zeros = np.zeros(self.num_envs, dtype=np.int64)
        self.append(obs, zeros, zeros.astype(np.float32), nothing, nothing, ~nothing)

    def break_off(self) -> None:
        """What comes next does not follow the last row: never start there. After `end_episodes` it changes nothing."""
        if self.num_rows > 0:
            self._tensors["is_reset"][(self.num_rows - 1) % self.capacity_rows] = True

    def sample(self, num_samples: int, gamma: float, generator: torch.Generator) -> Batch:
        """Draw transitions evenly, with replacement, without waiting for the device.

        ``discount_t`` is ``gamma`` unless the step terminated its episode; a truncated step bootstraps from the true
        last observation. Each sample is the first of a few candidates that is no reset row.
        """
        if self.num_starts == 0:
            raise ConfigError("the replay holds no transition yet")
        draws = torch.randint(self.num_starts, (_DRAWS, num_samples), generator=generator, device=self.device)
        env = draws % self.num_envs
        slot = (self.first_row + draws // self.num_envs) % self.capacity_rows
        valid = ~self._tensors["is_reset"][slot, env]  # [draws, n]
        first = valid.to(torch.uint8).argmax(dim=0, keepdim=True)  # [1, n], 0 where none is valid
        slot, env = slot.gather(0, first)[0], env.gather(0, first)[0]  # [n]
        return Batch(
            s_tm1=self._tensors["obs"][slot, env],
            a_tm1=self._tensors["action"][slot, env],
            r_t=self._tensors["reward"][slot, env],
            discount_t=gamma * (~self._tensors["terminated"][slot, env]).float(),
            s_t=self._tensors["obs"][(slot + 1) % self.capacity_rows, env],
            weight=valid.any(dim=0).float(),
        )

    def read_rows(self, start_row: int, stop_row: int) -> dict[str, Tensor]:
        """Copies of the rows [start_row, stop_row) that are in the ring, by field, on the CPU; [rows, E, ...] each."""
        slots = torch.arange(start_row, stop_row, device=self.device) % self.capacity_rows
        return {name: tensor[slots].cpu() for name, tensor in self._tensors.items()}

    def write_rows(self, start_row: int, rows: Mapping[str, Tensor]) -> None:
        """Put rows back where they were; those that the ring has passed are dropped. Sets ``num_rows``."""
        if set(rows) != set(self._tensors):
            raise CheckpointError(f"replay rows hold {sorted(rows)}, expected {sorted(self._tensors)}")
        stop_row = start_row + len(rows["action"])
        first_row = max(start_row, stop_row - self.capacity_rows)
        slot = first_row % self.capacity_rows
        before_wrap = min(stop_row - first_row, self.capacity_rows - slot)  # rows up to the ring's end; the rest wraps
        for name, tensor in self._tensors.items():
            if rows[name].shape[1:] != tensor.shape[1:]:
                raise CheckpointError(
                    f"replay rows have {name} {list(rows[name].shape[1:])}, expected {list(tensor.shape[1:])}"
                )
            kept = rows[name][first_row - start_row :]
            tensor[slot : slot + before_wrap].copy_(kept[:before_wrap])
            tensor[: len(kept) - before_wrap].copy_(kept[before_wrap:])
        self.num_rows = stop_row
