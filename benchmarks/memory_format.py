"""Memory formats of images: ``python benchmarks/memory_format.py [--rounds 20] [--threads 1] [--only NAME...]``.

Gradient steps of agents and classifiers, and forwards as torch serves them, with contiguous images and with
channels-last ones. Both formats take turns within one process; a ratio is the median over the rounds, contiguous by
channels-last: above 1, channels-last is faster. ``auto`` is what a run would choose on this machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from report import Report
from torch import Tensor, nn
from torch.nn import functional

from torso.agents import ClassifierConfig, DQNConfig
from torso.agents.optim.devices import Precision
from torso.agents.supervised.fit_trials import trial_fit
from torso.agents.supervised.learner import classifier_spec
from torso.agents.value_based.network import q_network_spec
from torso.agents.value_based.update_trials import trial_update
from torso.nets import InputSpec, Network, TorchBackend, build_network, register_torso
from torso.nets.prediction.memory_formats import MEMORY_FORMATS, faster_format

FRAMES = InputSpec(shape=(4, 84, 84), dtype="uint8", layout="chw", scale=1 / 255)
SCANS = InputSpec(shape=(28, 28), dtype="uint8", layout="hw", scale=1 / 255)
CPU = torch.device("cpu")
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
AGENTS = {"nature": (FRAMES, 32), "impala": (FRAMES, 32)}  # the input, and the rows of a gradient step
FITS = {"lenet": 128, "cnn": 128}
SERVED = {"nature": (1, 16, 64), "impala": (1, 16)}
Run = Callable[[int], object]


@dataclass(frozen=True, kw_only=True)
class ImpalaSpec:
    """IMPALA's network (Espeholt et al. 2018): three stages of a convolution, a pool and two residual blocks."""

    takes_images: ClassVar[bool] = True
    channels: tuple[int, ...] = (16, 32, 32)
    features: int = 256


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner, self.outer = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Add what two convolutions make of x, [B, C, H, W]."""
        summed: Tensor = x + self.outer(functional.relu(self.inner(functional.relu(x))))
        return summed


class Impala(nn.Module):
    """The torso of `ImpalaSpec`."""

    def __init__(self, spec: ImpalaSpec, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        channels, height, width = input_shape
        layers: list[nn.Module] = []
        for out in spec.channels:
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.MaxPool2d(3, 2, 1), _Block(out), _Block(out)]
            channels, height, width = out, (height + 1) // 2, (width + 1) // 2
        self.convs = nn.Sequential(*layers, nn.ReLU())
        self.dense = nn.Linear(channels * height * width, spec.features)
        self.num_features = spec.features

    def forward(self, x: Tensor, state: Any, generator: torch.Generator | None) -> tuple[Tensor, Any]:
        """Map [B, C, H, W] to features, [B, num_features]."""
        return functional.relu(self.dense(self.convs(x).flatten(1))), state


def agent(net: str, precision: Precision) -> tuple[dict[Any, Run], int]:
    """Updates of a DQN agent by format, and their rows."""
    network_input, rows = AGENTS[net]
    config = DQNConfig(net=net, hidden=(512,), batch_size=rows)
    network = build_network(q_network_spec(config, network_input, 6), torch.Generator().manual_seed(0))
    return {each: trial_update(config, network, each, device=CPU, precision=precision) for each in MEMORY_FORMATS}, rows


def fit(net: str, precision: Precision) -> tuple[dict[Any, Run], int]:
    """Updates of a classifier of 28x28 scans by format, and their rows."""
    config = ClassifierConfig(net=net, batch_size=FITS[net])
    network = build_network(classifier_spec(config, SCANS, 10), torch.Generator().manual_seed(0))
    trial = partial(trial_fit, config, config.recipe(), network, device=CPU, precision=precision)
    return {each: trial(each) for each in MEMORY_FORMATS}, FITS[net]


def served(net: str, rows: int) -> tuple[dict[Any, Run], int]:
    """Forwards of torch's backend by format, and their rows."""
    spec = q_network_spec(DQNConfig(net=net, hidden=(512,)), FRAMES, 6)
    inputs = torch.randint(256, (rows, *FRAMES.shape), generator=torch.Generator().manual_seed(0)).byte().numpy()

    def network() -> Network:
        return build_network(spec, torch.Generator().manual_seed(0))

    backends = {each: TorchBackend(network().set_memory_format(each)) for each in MEMORY_FORMATS}
    return {each: lambda num_rows, run=backend.run: run(inputs[:num_rows]) for each, backend in backends.items()}, rows


def measure(runs: dict[Any, Run], rows: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of a batch by format, a value a round; the formats take turns."""
    times_ms: dict[str, list[float]] = {each: [] for each in runs}
    for _ in range(rounds + 1):
        for each, run in runs.items():
            began_s = time.perf_counter()
            run(rows)
            times_ms[each].append(round(1e3 * (time.perf_counter() - began_s), 3))
    return {each: values[1:] for each, values in times_ms.items()}  # the first warms up


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="batches of each format, after a first one to warm up")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="measure these nets alone")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    register_torso("impala", ImpalaSpec, Impala)
    cases: dict[str, Callable[[], tuple[dict[Any, Run], int]]] = {}
    for precision in PRECISIONS:
        cases |= {f"DQN, {net}, {precision}": partial(agent, net, precision) for net in AGENTS}
        cases |= {f"fit, {net}, {precision}": partial(fit, net, precision) for net in FITS}
    cases |= {f"served, {net}, {n} rows": partial(served, net, n) for net, sizes in SERVED.items() for n in sizes}
    report = Report("memory_format")
    report.say(f"Milliseconds of a batch, the median of {arguments.rounds}; {arguments.threads} threads of PyTorch.")
    report.say()
    report.header(["batch", "rows", *MEMORY_FORMATS, "ratio", "auto"])
    for name, make in cases.items():
        if arguments.only and not any(f" {net}," in name for net in arguments.only):
            continue
        runs, rows = make()
        times_ms = measure(runs, rows, arguments.rounds)
        usual = "channels-last" if name.startswith("fit") else "contiguous"
        chosen = faster_format(runs, rows, usual)  # type: ignore[arg-type]
        report.data[name] = {"rows": rows, "ms": times_ms, "auto": chosen}
        pairs = zip(*times_ms.values(), strict=True)
        ratio = statistics.median(contiguous / other for contiguous, other in pairs)
        report.row(
            [name, rows, *(f"{statistics.median(each):.2f}" for each in times_ms.values()), f"{ratio:.2f}", chosen]
        )
    report.say()
    report.write()


if __name__ == "__main__":
    main()
