"""Memory format of images in a network: whether channels-last works, and which format is faster, measured."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

import torch

from torso.nets.modules.layers import MemoryFormat
from torso.nets.modules.network import Network

MEMORY_FORMATS: tuple[MemoryFormat, ...] = ("contiguous", "channels-last")
GAIN = 1.1  # by which the format that is not the usual one must be faster: less may be noise, and tomorrow the opposite
BUDGET_S = 1.0  # of a measurement
_ROUNDS = 20
_FEW_ROWS = 4  # of a batch in place of one that would take too long


def channels_last_problem(network: Network) -> str | None:
    """Say why a network cannot compute channels-last images; None where it can, as all of torso's own torsos.

    A registered torso may depend on the strides of its activations, as ``view`` does. The network stays as it is.
    """
    spec, before, training = network.spec.input, network.memory_format, network.training
    device = network.scaling.scale.device
    obs = torch.zeros((1, *spec.shape), dtype=getattr(torch, spec.dtype), device=device)
    try:
        with torch.no_grad():
            network.eval().set_memory_format("channels-last")(obs)
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    finally:
        network.set_memory_format(before).train(training)
    return None


def faster_format(
    runs: Mapping[MemoryFormat, Callable[[int], object]],
    rows: int,
    usual: MemoryFormat,
    *,
    budget_s: float = BUDGET_S,
    clock: Callable[[], float] = time.perf_counter,
) -> MemoryFormat:
    """Measure which memory format is faster: ``usual``, unless the other gains a tenth or more.

    ``runs[memory_format](rows)`` computes a batch of so many rows. The formats take turns, and the least time of each
    counts, since other load on the machine only ever adds to it. A batch that takes longer than the budget, in seconds,
    is measured with a few of its rows.
    """

    def seconds(memory_format: MemoryFormat) -> float:
        started = clock()
        runs[memory_format](rows)
        return clock() - started

    all_rows, rows = rows, min(rows, _FEW_ROWS)
    for memory_format in runs:  # libraries choose their kernels in the first call
        seconds(memory_format)
    if sum(map(seconds, runs)) * all_rows / rows <= budget_s:
        rows = all_rows
    least_s = dict.fromkeys(runs, math.inf)
    end = clock() + budget_s
    for _ in range(_ROUNDS):
        least_s = {each: min(least, seconds(each)) for each, least in least_s.items()}
        if clock() >= end:
            break
    other = next(each for each in runs if each != usual)
    return other if least_s[other] * GAIN <= least_s[usual] else usual
