"""Precision, thread count and free memory of the training device."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, cast

import torch

from torso.errors import ConfigError
from torso.private_apis import cpu_multiplies_bfloat16

Precision = Literal["float32", "bfloat16"]

_LARGE_BYTES = 2 * 1024**3
_MEMINFO = Path("/proc/meminfo")
_log = logging.getLogger(__name__)


def warn_of_memory_use(what: str, num_bytes: int, device: torch.device, *, remedy: str) -> None:
    """Log a warning for an allocation that exceeds the free memory of ``device``, or that is large; GB of 10^9 bytes.

    ``what`` is the subject of the message, ``remedy`` its advice.
    """
    available = available_bytes(device)
    if available is not None and num_bytes > available:
        sizes = num_bytes / 1e9, device, available / 1e9
        _log.warning(f"{what} will take %.1f GB of memory, but %s has %.1f GB left; {remedy}", *sizes)
    elif num_bytes > _LARGE_BYTES:
        _log.warning(f"{what} will take %.1f GB of memory on %s", num_bytes / 1e9, device)


def available_bytes(device: torch.device) -> int | None:
    """Free memory of ``device`` in bytes; None where the system does not report it."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    with suppress(OSError, ValueError, StopIteration):  # Linux; reclaimable caches count as available
        lines = _MEMINFO.read_text().splitlines()
        return int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) * 1024
    with suppress(AttributeError, OSError, ValueError):  # other systems, where they report it
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def resolve_precision(precision: str, device: torch.device, *, pays: bool) -> Precision:
    """Choose the precision of forward and backward; weights and optimizer stay float32.

    ``auto`` takes bfloat16 where it ``pays`` (large products: convolutions, wide layers) and the hardware multiplies
    it; in small layers the casts cost more than the products gain.
    """
    if precision in ("float32", "bfloat16"):
        return cast(Precision, precision)
    if precision != "auto":
        raise ConfigError(f"precision must be float32, bfloat16 or auto, got {precision!r}")
    if not pays:
        return "float32"
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if cpu_multiplies_bfloat16() else "float32"


@contextmanager
def torch_threads(num_threads: int) -> Iterator[None]:
    """Set torch's intra-op thread count within the block: a run's bits depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
