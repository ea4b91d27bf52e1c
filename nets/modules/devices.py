"""Device selection: CUDA or the CPU, and a clear error where a device is not available."""

from __future__ import annotations

import torch

from torso.errors import ConfigError


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device to compute on: ``auto`` is CUDA where available, else the CPU.

    Raises:
        ConfigError: an unknown name, a device other than cpu and cuda, or a CUDA device that is not available.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device must be auto, cpu or cuda, got {device!r}") from error
    if chosen.type not in ("cpu", "cuda"):
        raise ConfigError(f"device must be auto, cpu or cuda, got {device!r}")
    if chosen.type == "cuda" and not (chosen.index or 0) < torch.cuda.device_count():
        raise ConfigError(
            f"device must be available, got {device!r} of {torch.cuda.device_count()} CUDA devices; use device='cpu'"
        )
    return chosen
