"""How much memory a device has left, asked before something large is put there."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

import torch

_LARGE_BYTES = 2 * 1024**3
_MEMINFO = Path("/proc/meminfo")
_log = logging.getLogger(__name__)


def announce(what: str, num_bytes: int, device: torch.device, *, remedy: str) -> None:
    """Warn of what will outgrow the memory that ``device`` has left, or else of what is large, in GB of 10^9 bytes.

    ``what`` begins the sentence, ``remedy`` says what to do.
    """
    left = available_bytes(device)
    if left is not None and num_bytes > left:
        sizes = num_bytes / 1e9, device, left / 1e9
        _log.warning(f"{what} will take %.1f GB of memory, but %s has %.1f GB left; {remedy}", *sizes)
    elif num_bytes > _LARGE_BYTES:
        _log.warning(f"{what} will take %.1f GB of memory on %s", num_bytes / 1e9, device)


def available_bytes(device: torch.device) -> int | None:
    """Bytes that can still be taken on ``device``; None where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    with suppress(OSError, ValueError, StopIteration):  # Linux; caches that would make room count as available
        lines = _MEMINFO.read_text().splitlines()
        return int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) * 1024
    with suppress(AttributeError, OSError, ValueError):  # other systems, as far as they say
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None
