"""Memory formats of images: equal outputs and gradients in both, what stays as it is, and which is found faster."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from torso.nets import (
    ConvLayerSpec,
    ConvNetSpec,
    InputSpec,
    LogitsHeadSpec,
    MLPSpec,
    Network,
    NetworkSpec,
    ScalarHeadSpec,
    build_network,
    load_model,
    net_spec,
    register_torso,
    save_model,
)
from torso.nets.modules.layers import MemoryFormat
from torso.nets.prediction.memory_formats import (
    BUDGET_S,
    GAIN,
    MEMORY_FORMATS,
    channels_last_problem,
    faster_format,
)

CHANNELS_LAST = torch.channels_last


@dataclass(frozen=True, kw_only=True)
class ResidualSpec:
    """Stages of a convolution, a pool and a residual block, as in IMPALA's network (Espeholt et al. 2018)."""

    channels: tuple[int, ...] = (4, 6)
    flattens_by_view: bool = False


class Residual(nn.Module):
    def __init__(self, spec: ResidualSpec, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        num_channels, height, width = input_shape
        self.spec, self.stages = spec, nn.ModuleList()
        for channels in spec.channels:
            block = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)]
            self.stages.append(nn.ModuleList([nn.Conv2d(num_channels, channels, 3, padding=1), *block]))
            num_channels, height, width = channels, height // 2, width // 2
        self.dense = nn.Linear(num_channels * height * width, 16)
        self.num_features = 16

    def forward(self, x: Tensor, state: Any, generator: torch.Generator | None) -> tuple[Tensor, Any]:
        for first, inner, outer in self.stages:
            x = functional.max_pool2d(first(x), 2)
            x = x + outer(functional.relu(inner(functional.relu(x))))
        x = x.view(len(x), -1) if self.spec.flattens_by_view else x.flatten(1)
        return functional.relu(self.dense(functional.relu(x))), state


def image(layout: Any, shape: tuple[int, ...], dtype: str = "uint8") -> InputSpec:
    return InputSpec(shape=shape, dtype=dtype, layout=layout, scale=1 / 255 if dtype == "uint8" else 1.0)


def network_of(torso: Any, network_input: InputSpec) -> Network:
    spec = NetworkSpec(input=network_input, torso=torso, head=ScalarHeadSpec(num_actions=3))
    return build_network(spec, torch.Generator().manual_seed(0))


def observations(spec: InputSpec, rows: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if spec.dtype == "uint8":
        return torch.randint(256, (rows, *spec.shape), generator=generator).to(torch.uint8)
    return torch.rand((rows, *spec.shape), generator=generator)


@pytest.fixture
def residual(registries: None) -> None:
    register_torso("residual-of-a-test", ResidualSpec, Residual)


SCAN, FRAMES = image("hw", (28, 28)), image("chw", (4, 84, 84))
CASES: dict[str, tuple[Callable[[], Any], InputSpec]] = {
    "lenet": (lambda: net_spec("lenet", SCAN), SCAN),
    "cnn": (lambda: net_spec("cnn", SCAN, dropout=0.0), SCAN),
    "cnn of small images": (lambda: net_spec("cnn", image("hw", (8, 8)), dropout=0.0), image("hw", (8, 8), "float32")),
    "vgg": (lambda: net_spec("vgg", image("hwc", (32, 32, 3)), dropout=0.0), image("hwc", (32, 32, 3))),
    "nature": (lambda: net_spec("nature", FRAMES), FRAMES),
    "nature of colours": (lambda: net_spec("nature", FRAMES), image("thwc", (2, 44, 44, 3))),
    "minatar": (lambda: net_spec("minatar", image("chw", (4, 10, 10))), image("chw", (4, 10, 10), "float32")),
    "layer norm": (
        lambda: ConvNetSpec(convs=(ConvLayerSpec(channels=6, kernel=3, pool="max"),), hidden=(9,), layer_norm=True),
        image("tchw", (2, 3, 12, 12)),
    ),
    **{
        f"layer norm of {kind}": (
            partial(
                ConvNetSpec,
                convs=(ConvLayerSpec(channels=6, kernel=3, pool="max"), ConvLayerSpec(channels=5, kernel=2)),
                hidden=(9,),
                layer_norm=True,
                layer_norm_kind=kind,
            ),
            image("tchw", (2, 3, 12, 12)),
        )
        for kind in ("channels", "elements")
    },
    "residual": (ResidualSpec, image("chw", (4, 16, 16))),
}


def computed(network: Network, obs: Tensor, *, bfloat16: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    """Output, and the gradient of a loss in it by each parameter."""
    prediction, _ = (network.mixed if bfloat16 else network)(obs)
    (prediction.output * torch.arange(1.0, 4.0)).square().mean().backward()
    return prediction.output.detach(), {name: weight.grad for name, weight in network.named_parameters()}


@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("residual")
def test_both_formats_give_equal_outputs_and_gradients(case: str, bfloat16: bool) -> None:
    torso, network_input = CASES[case][0](), CASES[case][1]
    contiguous = network_of(torso, network_input)
    other = copy.deepcopy(contiguous).set_memory_format("channels-last")
    obs = observations(network_input)
    tolerance = 0.1 if bfloat16 else 1e-4  # of the whole tensor's norm: bfloat16 rounds each value to 8 bits
    output, gradients = computed(contiguous, obs, bfloat16=bfloat16)
    output_of_other, gradients_of_other = computed(other, obs, bfloat16=bfloat16)
    assert (output_of_other - output).norm() <= tolerance * output.norm()
    for name, gradient in gradients.items():
        assert gradient.norm() > 0
        assert (gradients_of_other[name] - gradient).norm() <= tolerance * gradient.norm(), name


@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    "case",
    [
        *("lenet", "nature", "nature of colours", "residual"),
        *("layer norm", "layer norm of channels", "layer norm of elements"),
    ],
)
@pytest.mark.usefixtures("residual")
def test_every_convolution_computes_in_the_format(case: str, bfloat16: bool) -> None:
    """Also of one channel, whose strides alone do not tell."""
    torso, network_input = CASES[case][0](), CASES[case][1]
    for memory_format in MEMORY_FORMATS:
        network = network_of(torso, network_input).set_memory_format(memory_format)
        assert network.memory_format == memory_format
        found: list[bool] = []
        for module in network.torso.modules():
            if isinstance(module, (nn.ReLU, nn.Tanh, nn.Linear, nn.MaxPool2d)):
                module.register_forward_pre_hook(
                    lambda _, args: (
                        found.append(args[0].is_contiguous(memory_format=CHANNELS_LAST))  # noqa: B023
                        if args[0].dim() == 4
                        else None
                    )
                )
            if isinstance(module, nn.Conv2d) and case == "residual":
                module.register_forward_hook(
                    lambda _, __, x: found.append(x.is_contiguous(memory_format=CHANNELS_LAST))  # noqa: B023
                )
        (network.mixed if bfloat16 else network)(observations(network_input))
        assert found
        assert set(found) == {memory_format == "channels-last"}


def test_raw_frames_are_laid_out_once_for_several_forwards() -> None:
    network = network_of(net_spec("nature", FRAMES), FRAMES)
    obs = observations(FRAMES)
    assert network.scaling.lay_out(obs) is obs
    network.set_memory_format("channels-last")
    laid_out = network.scaling.lay_out(obs)
    assert laid_out.dtype == torch.uint8
    assert laid_out.is_contiguous(memory_format=CHANNELS_LAST)
    assert torch.equal(laid_out, obs)
    assert network.scaling.rearrange(laid_out) is laid_out  # no second copy
    assert torch.equal(network.readout(laid_out), network.readout(obs))
    stack = image("tchw", (2, 3, 40, 40))
    stacked = network_of(net_spec("nature", stack), stack).set_memory_format("channels-last")
    assert stacked.scaling.lay_out(observations(stack)).shape == (5, 2, 3, 40, 40)


@pytest.mark.parametrize("network_input", [InputSpec(shape=(6,)), image("chw", (2, 3, 4))], ids=["vector", "image"])
def test_networks_without_convolutions_have_no_format(network_input: InputSpec) -> None:
    network = network_of(MLPSpec(hidden=(5,)), network_input)
    assert not network.has_convolutions
    obs, before = observations(network_input), copy.deepcopy(network)
    assert torch.equal(before.readout(obs), network.set_memory_format("channels-last").readout(obs))
    assert network_of(net_spec("lenet", SCAN), SCAN).has_convolutions


def test_an_update_runs_on_the_meta_device() -> None:
    """Shapes and dtypes, and the strides that enter the first convolution, of a device that this machine may lack."""
    with torch.device("meta"):
        spec = NetworkSpec(input=FRAMES, torso=net_spec("nature", FRAMES), head=ScalarHeadSpec(num_actions=3))
        network = Network(spec).set_memory_format("channels-last")
        obs = network.scaling.lay_out(torch.empty((5, *FRAMES.shape), dtype=torch.uint8))
    assert obs.is_contiguous(memory_format=CHANNELS_LAST)
    prediction, _ = network.mixed(obs)
    prediction.output.sum().backward()
    assert prediction.output.shape == (5, 3)
    for name, weight in network.named_parameters():
        assert weight.dim() != 4 or weight.is_contiguous(memory_format=CHANNELS_LAST), name
        assert weight.grad is not None
        assert (weight.grad.shape, weight.grad.dtype) == (weight.shape, torch.float32)


def test_the_format_is_no_part_of_a_saved_model(tmp_path: Path) -> None:
    network = build_network(
        NetworkSpec(input=SCAN, torso=net_spec("lenet", SCAN), head=LogitsHeadSpec(num_classes=3)),
        torch.Generator().manual_seed(0),
    )
    save_model(tmp_path / "contiguous", network, kind="classifier", labels=("a", "b", "c"))
    network.set_memory_format("channels-last")
    save_model(tmp_path / "other", network, kind="classifier", labels=("a", "b", "c"))
    assert network.memory_format == "channels-last"
    for name in ("weights.safetensors", "model.onnx"):
        assert (tmp_path / "other" / name).read_bytes() == (tmp_path / "contiguous" / name).read_bytes()
    assert load_model(tmp_path / "other")[1].memory_format == "contiguous"
    again = pickle.loads(pickle.dumps(network))
    assert again.memory_format == "channels-last"
    assert copy.deepcopy(network).set_memory_format("contiguous").torso.convs[3].weight.is_contiguous()


def test_a_torso_that_depends_on_strides_says_so(residual: None) -> None:
    network_input = image("chw", (4, 16, 16))
    network = network_of(ResidualSpec(flattens_by_view=True), network_input).train()
    assert "view size is not compatible" in str(channels_last_problem(network))
    assert network.training
    assert network.memory_format == "contiguous"
    assert network.readout(observations(network_input)).shape == (5, 3)
    assert channels_last_problem(network_of(ResidualSpec(), network_input)) is None


class Clock:
    """A clock that advances as calls take time: so many seconds a row."""

    def __init__(self, **seconds_a_row: float) -> None:
        self.now, self.calls = 0.0, []  # type: ignore[var-annotated]
        self.runs: dict[MemoryFormat, Callable[[int], object]] = {
            "contiguous": lambda rows: self.work("contiguous", rows * seconds_a_row["contiguous"]),
            "channels-last": lambda rows: self.work("channels-last", rows * seconds_a_row["channels_last"]),
        }

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, seconds: float) -> None:
        self.now += seconds
        self.calls.append((name, seconds))


@pytest.mark.parametrize("usual", MEMORY_FORMATS)
@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        *((0.5, "channels-last"), (0.99 / GAIN, "channels-last"), (1.01 / GAIN, None), (1.0, None)),
        *((0.99 * GAIN, None), (1.01 * GAIN, "contiguous"), (2.0, "contiguous")),
    ],
)
def test_the_usual_format_is_left_for_a_clear_gain_only(usual: MemoryFormat, ratio: float, expected: Any) -> None:
    clock = Clock(contiguous=1e-4, channels_last=ratio * 1e-4)
    assert faster_format(clock.runs, 32, usual, clock=clock) == (expected or usual)
    names = [name for name, _ in clock.calls]
    assert names == [*MEMORY_FORMATS] * (len(names) // 2)  # in turns


def test_one_slow_call_decides_nothing() -> None:
    clock, stalls = Clock(contiguous=1e-4, channels_last=1e-4), iter([0.0] * 5 + [0.05] + [0.0] * 100)
    runs = {
        each: (lambda rows, run=run: (run(rows), clock.work("stall", next(stalls)))) for each, run in clock.runs.items()
    }
    assert faster_format(runs, 32, "contiguous", clock=clock) == "contiguous"
    assert faster_format(runs, 32, "channels-last", clock=clock) == "channels-last"


def test_a_measurement_keeps_to_its_budget() -> None:
    clock = Clock(contiguous=1e-3, channels_last=1e-3)
    faster_format(clock.runs, 64, "contiguous", clock=clock)
    assert clock.calls[-1] == ("channels-last", pytest.approx(0.064))  # the whole batch
    assert clock.now <= BUDGET_S + 2 * 0.064 + 1e-3 * 16
    slow = Clock(contiguous=0.05, channels_last=0.001)
    assert faster_format(slow.runs, 64, "contiguous", clock=slow) == "channels-last"
    assert max(seconds for _, seconds in slow.calls) == pytest.approx(0.2)  # four rows, where 64 take 3.2 s
