"""Memory meter: bytes of live tensors, and operations that are refused before they allocate."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import nn
from torch.nn import functional

from torso.nets.modules.memory_meter import CHANNEL_BLOCK, MemoryLimitError, MemoryMeter, TooManyTensorsError

MIB = 1 << 20


def test_the_peak_is_what_is_alive_at_once() -> None:
    with torch.no_grad(), MemoryMeter(MIB) as meter:
        kept = torch.zeros(100)  # 400 bytes
        assert meter.alive == 400
        passing = kept + 1
        del passing
        view = kept.view(10, 10).t()
        grown = view.double()
        assert meter.alive == 400 + 800
        kept.mul_(2)
        del grown
    assert (meter.alive, meter.peak) == (400, 1200)
    del kept, view
    assert meter.alive == 0


def test_weights_that_were_there_before_are_not_counted() -> None:
    network = nn.Sequential(nn.Linear(100, 7), nn.ReLU(), nn.Linear(7, 3))
    inputs = torch.zeros(2, 100)
    with torch.no_grad(), MemoryMeter(MIB) as meter:
        network(inputs)
    assert meter.peak == 2 * 4 * (7 + 7)  # a layer's output, and its activation


def test_a_convolution_counts_what_it_works_in() -> None:
    inputs = torch.zeros(1, 1, 50, 40)
    with torch.no_grad(), MemoryMeter(MIB) as meter:
        functional.conv2d(inputs, torch.zeros(2, 1, 3, 3), stride=2)
    assert meter.peak == 4 * (2 * 9 + 2 * 24 * 19 + CHANNEL_BLOCK * 50 * 40)


VAST = {
    "empty": lambda: torch.empty(1 << 20, 1 << 20),
    "a layer": lambda: nn.Linear(1 << 20, 1 << 20),
    "a product": lambda: torch.zeros(1 << 20, 1) @ torch.zeros(1, 1 << 20),
    "a broadcast sum": lambda: torch.zeros(1 << 20, 1) + torch.zeros(1, 1 << 20),
    "a convolution": lambda: functional.conv2d(torch.zeros(1, 1, 512, 512), torch.zeros(1 << 22, 1, 1, 1)),
    "a convolution back": lambda: functional.conv_transpose2d(
        torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 1, 1), stride=1 << 20
    ),
    "padding": lambda: functional.pad(torch.zeros(1, 1), (0, 1 << 40)),
    "repetition": lambda: torch.zeros(1).repeat(1 << 40),
    "an expansion's copy": lambda: torch.zeros(1).expand(1 << 40).clone(),
    "interpolation": lambda: functional.interpolate(torch.zeros(1, 1, 1, 1), size=(1 << 20, 1 << 20)),
    "one-hot codes": lambda: functional.one_hot(torch.zeros(1, dtype=torch.int64), 1 << 40),
    "numbers in a row": lambda: torch.arange(1 << 40),
    "a wider dtype": lambda: torch.zeros(3 << 20, dtype=torch.uint8).double(),
}


@pytest.mark.parametrize("operation", VAST.values(), ids=VAST)
def test_what_goes_beyond_the_limit_is_not_allocated(
    operation: Callable[[], object], memory_limit: Callable[[int], AbstractContextManager[None]]
) -> None:
    with memory_limit(512 * MIB), pytest.raises(MemoryLimitError) as caught, torch.no_grad(), MemoryMeter(20 * MIB):
        operation()
    assert caught.value.num_bytes > caught.value.limit == 20 * MIB
    assert f"{caught.value.num_bytes:,} bytes" in str(caught.value)


def test_sizes_beyond_64_bits_are_counted_or_refused() -> None:
    side = 2**31 - 1
    for operation in (lambda: nn.Linear(side, side), lambda: nn.Conv2d(side, side, side)):
        with pytest.raises(RuntimeError), MemoryMeter(MIB):
            operation()


def test_results_that_depend_on_values_are_counted_once_they_are_there() -> None:
    values = torch.ones(1000)
    with torch.no_grad(), MemoryMeter(MIB) as meter:
        assert values.sum().item() == 1000
        found = values.nonzero()
        assert meter.alive == found.nbytes == 8000
    with pytest.raises(MemoryLimitError), MemoryMeter(4000):
        values.nonzero()


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize(
    "head",
    ["ScalarHeadSpec(", "CategoricalHeadSpec(v_min=-1, v_max=1, ", "QuantileHeadSpec(", "ImplicitQuantileHeadSpec("],
)
def test_common_operations_do_without_torchs_compiler(head: str, noisy: bool, dueling: bool) -> None:
    """Build and forward of a network of any head, as a server has them: the compiler's import takes half a second."""
    code = """
import sys, torch
from torso.nets import InputSpec, NetworkSpec, build_network, net_spec
from torso.nets.specs.heads import *
from torso.nets.modules.memory_meter import MemoryMeter
spec = InputSpec(shape=(4, 84, 84), dtype="uint8", layout="chw", scale=1 / 255)
with MemoryMeter(1 << 28):
    network = build_network(NetworkSpec(input=spec, torso=net_spec("nature", spec), head=HEAD))
with torch.no_grad(), MemoryMeter(1 << 28):
    network.step(torch.zeros((1, *spec.shape), dtype=torch.uint8))
print("torch._dynamo" in sys.modules, "sympy" in sys.modules)
""".replace("HEAD", f"{head}num_actions=6, noisy={noisy}, dueling={dueling})")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False False\n"


def test_tensors_are_counted_where_they_are_limited() -> None:
    with MemoryMeter(MIB, max_tensors=3):
        kept = [torch.zeros(1) for _ in range(3)]
        kept.pop()
        kept.append(torch.zeros(1))
    with pytest.raises(TooManyTensorsError, match="more than 3 tensors"), MemoryMeter(MIB, max_tensors=3):
        kept = [torch.zeros(1) for _ in range(4)]
