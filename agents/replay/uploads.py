"""Upload of NumPy arrays to a device, without waiting for what runs there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ALIGNMENT = 16  # bytes, a multiple of every dtype's size


def upload(arrays: Mapping[str, NDArray[np.generic]], device: torch.device) -> dict[str, Tensor]:
    """Copy arrays to a device, all of them in one copy that does not block; names, shapes and dtypes stay.

    For CUDA they are packed into pinned memory, since a copy from other memory may wait for the work before it. Torch
    keeps that memory until the copy is done.
    """
    starts, size = {}, 0  # bytes
    for name, array in arrays.items():
        starts[name] = size
        size += math.ceil(array.nbytes / _ALIGNMENT) * _ALIGNMENT
    packed = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
    memory = packed.numpy()
    for name, array in arrays.items():
        part = memory[starts[name] : starts[name] + array.nbytes]
        part.view(array.dtype).reshape(array.shape)[...] = array
    on_device = packed.to(device, non_blocking=True)
    return {
        name: on_device[starts[name] : starts[name] + array.nbytes].view(torch_dtype(array.dtype)).view(array.shape)
        for name, array in arrays.items()
    }


def zeros_for(device: torch.device, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Make an array of zeros that is to be copied to a device: for CUDA in pinned memory, from which copies are fast.

    In other memory they are allocated lazily, on the first write.
    """
    if device.type != "cuda":
        return np.zeros(shape, dtype=dtype)
    return torch.zeros(shape, dtype=torch_dtype(np.dtype(dtype)), pin_memory=True).numpy()


def torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    """Torch's dtype of the same values as NumPy's."""
    return torch.from_numpy(np.empty(0, dtype)).dtype
