"""Memory format of a run's convolutions: what the setting says, or the faster one by a trial of updates."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from torso.agents.optim.devices import Precision, torch_threads
from torso.checks import choice
from torso.errors import ConfigError
from torso.nets import InputSpec, Network, NetworkSpec
from torso.nets.modules.layers import MemoryFormat
from torso.nets.prediction.memory_formats import MEMORY_FORMATS, channels_last_problem, faster_format

MEMORY_FORMAT_SETTINGS = ("auto", *MEMORY_FORMATS)
Trial = Callable[[Network, MemoryFormat], Callable[[int], object]]
"""``trial(network, memory_format)`` returns a function that takes a gradient step of so many rows on the network."""

_log = logging.getLogger(__name__)
_measured: dict[tuple[object, ...], MemoryFormat] = {}  # so that runs of one process that are alike get one format


def resolve_memory_format(
    setting: str,
    spec: NetworkSpec,
    build: Callable[[], Network],
    trial: Trial,
    *,
    rows: int,
    usual: MemoryFormat,
    device: torch.device,
    precision: Precision,
    num_threads: int,
) -> MemoryFormat | None:
    """Resolve the memory format of a network's convolutions; None where it has none.

    ``auto`` measures gradient steps of ``rows`` rows in both formats, on networks that ``build`` makes, within about
    a second: ``usual`` is taken unless the other is a tenth faster.

    Raises:
        ConfigError: an unknown setting, or channels-last for a network that cannot compute it.
    """
    choice("memory_format", setting, MEMORY_FORMAT_SETTINGS)
    key = (repr(spec), rows, usual, str(device), precision, num_threads)
    if setting == "auto" and key in _measured:
        return _measured[key]
    network = build().to(device) if spec.input.layout is not None else None
    if network is None or not network.has_convolutions:
        if setting == "channels-last":
            raise ConfigError(
                f"memory_format must be auto or contiguous for a network without convolutions, got {setting!r}; "
                "leave it out, or give a convolutional net"
            )
        return None
    if setting == "contiguous":
        return "contiguous"
    with torch_threads(num_threads), torch.random.fork_rng(_cuda_devices(device)):
        problem = channels_last_problem(network)
        if setting == "channels-last" and problem is not None:
            raise ConfigError(
                f"memory_format must be auto or contiguous for the torso {type(network.torso).__name__}, which cannot "
                f"compute channels-last images ({problem}), got {setting!r}; use reshape or flatten where it uses view"
            )
        if setting == "channels-last":
            return "channels-last"
        if problem is not None:
            _log.info("the torso %s cannot compute channels-last images: %s", type(network.torso).__name__, problem)
            _measured[key] = "contiguous"
            return "contiguous"
        runs = {each: _synchronised(trial(network, each), device) for each in MEMORY_FORMATS}
        _measured[key] = faster_format(runs, rows, usual)
    return _measured[key]


def made_up_inputs(spec: InputSpec, rows: int) -> Tensor:
    """Draw so many inputs for a trial, the same at every call: raw values that the network scales to [0, 1]."""
    noise = torch.rand((rows, *spec.shape), generator=torch.Generator().manual_seed(0))
    return noise.div_(abs(spec.scale)).to(getattr(torch, spec.dtype))


def _cuda_devices(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def _synchronised(run: Callable[[int], object], device: torch.device) -> Callable[[int], object]:
    """Wait for the device after each call, so that its time is that of the work."""
    if device.type != "cuda":
        return run

    def run_and_wait(rows: int) -> None:
        run(rows)
        torch.cuda.synchronize(device)

    return run_and_wait
