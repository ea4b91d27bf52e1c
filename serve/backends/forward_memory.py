"""Memory of forwards: how many rows a batch, or a probe, may have, given what one row of a network takes."""

from __future__ import annotations

import torch

from torso.errors import ServerError
from torso.nets import Network
from torso.nets.modules.memory_meter import MemoryLimitError, MemoryMeter
from torso.serve.config import MAX_FORWARD_MIB

MIB = 1 << 20
PROBE_BYTES = 128 * MIB  # of a batch that a model is compared and measured on while it is loaded
READOUT_BYTES = 16  # of an output in float64, and of a copy of it, as probabilities are computed


def measure_row_bytes(network: Network, max_forward_mib: int = MAX_FORWARD_MIB) -> int:
    """Measure the most bytes that are alive at once in a forward of one row: its input and what is computed from it.

    What goes beyond ``max_forward_mib`` is not computed: ServerError.
    """
    limit = max_forward_mib * MIB
    spec = network.spec.input
    try:
        # Not in inference mode, in which operations are seen whole whose parts are what takes memory.
        with torch.no_grad(), MemoryMeter(limit) as meter:
            inputs = torch.zeros((1, *spec.shape), dtype=getattr(torch, spec.dtype))
            network.step(inputs, network.initial_state(1))
            num_bytes = meter.peak + READOUT_BYTES * network.spec.num_outputs
        if num_bytes > limit:
            raise MemoryLimitError(num_bytes, limit)
    except MemoryLimitError as error:
        raise ServerError(
            f"a forward of one row, an input of {spec.dtype} {list(spec.shape)}, takes {error.num_bytes:,} bytes or "
            f"more, and may take {limit:,}; raise max_forward_mib ({max_forward_mib}) if this machine has the memory"
        ) from error
    except RuntimeError as error:  # torch's own, such as of a size that it cannot count
        raise ServerError(f"a forward of one row fails: {error}") from error
    return num_bytes


def rows_within(num_bytes: int, row_bytes: int, most: int) -> int:
    """Return how many rows fit into so many bytes: at least 1, and not more than ``most``."""
    return max(1, min(most, num_bytes // row_bytes))
