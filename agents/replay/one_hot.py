"""Compact rows of flattened observations: an index for each one-hot place, other values as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torso.agents.replay.selection import SIGNED
from torso.errors import EnvError


class OneHotRows:
    """Encoding of rows of ``num_values`` values as rows of ``width``, and back to the same bits.

    places: the first column and the number of columns of each one-hot place, ascending. dtype: of the rows, and of what
    `decode` gives; encoded rows have ``code_dtype``. is_binary: all values are 0 or 1.
    """

    def __init__(
        self,
        num_values: int,
        places: Sequence[tuple[int, int]],
        *,
        dtype: np.dtype[Any],
        is_binary: bool,
        device: torch.device,
    ) -> None:
        self.num_values = num_values
        self._firsts = np.array([first for first, _ in places], np.int64)
        largest = max(size for _, size in places) - 1
        is_hot = np.zeros(num_values, bool)
        for first, size in places:
            is_hot[first : first + size] = True
        self._hot, plain = np.flatnonzero(is_hot), np.flatnonzero(~is_hot)
        self._plain = plain if len(plain) else None
        self.width = len(places) + len(plain)
        self.code_dtype = np.promote_types(np.uint8 if is_binary else dtype, np.min_scalar_type(largest))
        self._dtype = torch.from_numpy(np.empty(0, dtype)).dtype
        self._firsts_t, self._plain_t = (torch.from_numpy(each).to(device) for each in (self._firsts, plain))

    def encode(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Encode rows [n, num_values]; returns [n, width]. EnvError where a place is not one-hot."""
        hot = rows if self._plain is None else rows[:, self._hot]
        column = hot.nonzero()[1]  # of all rows, ascending in each
        num_rows, num_places = len(rows), len(self._firsts)
        if len(column) != num_rows * num_places:
            raise EnvError(
                f"observations must be one-hot in {num_places} places, got {len(column) / num_rows:g} values in a row"
            )
        codes = np.empty((num_rows, self.width), self.code_dtype)
        codes[:, :num_places] = self._hot[column].reshape(num_rows, num_places) - self._firsts
        if self._plain is not None:
            codes[:, num_places:] = rows[:, self._plain]
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        """Decode rows [n, width] to [n, num_values], without synchronising with the device."""
        rows = torch.zeros((len(codes), self.num_values), dtype=self._dtype, device=codes.device)
        signed = rows.view(SIGNED.get(self._dtype, self._dtype))  # scattering does not support all dtypes
        num_places = len(self._firsts)
        signed.scatter_(1, codes[:, :num_places].long() + self._firsts_t, 1)
        if self._plain is not None:
            signed[:, self._plain_t] = codes[:, num_places:].to(self._dtype).view(signed.dtype)
        return rows
