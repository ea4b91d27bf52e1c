"""Cost of each algorithm's updates: ``python benchmarks/algorithm_updates.py [--rounds 40] [--threads 1]``.

Gradient steps on minibatches of 32 transitions with the Nature network, each algorithm's beside DQN's: they take
turns within one process, and a ratio is the median over the rounds of an algorithm's time by DQN's in the same round.
An update is what it is in a training: targets, loss, backward pass, clipping and optimizer; neither replay nor env.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from report import Report

from torso.agents import DQNConfig
from torso.agents.optim.devices import Precision
from torso.agents.value_based.network import q_network_spec
from torso.agents.value_based.update_trials import trial_update
from torso.nets import InputSpec, build_network
from torso.nets.modules.layers import MemoryFormat

FRAMES = InputSpec(shape=(4, 84, 84), dtype="uint8", layout="chw", scale=1 / 255)
ROWS, ACTIONS = 32, 6
CPU = torch.device("cpu")
CASES: dict[str, tuple[dict[str, object], float | None]] = {  # settings, and the largest ratio that is aimed at
    "dqn": ({}, None),
    "double": ({"algorithm": "double"}, None),
    "dueling": ({"algorithm": "dueling"}, None),
    "dqn, noisy": ({"noisy": True, "exploration": "noisy"}, 1.2),
    "c51": ({"algorithm": "c51"}, 1.15),
    "qr-dqn": ({"algorithm": "qr-dqn"}, 1.15),
    "iqn, 8 and 8 fractions": ({"algorithm": "iqn", "num_fractions": 8}, 2.5),
    "iqn, 64 and 64 fractions": ({"algorithm": "iqn", "num_fractions": 64}, None),
    "munchausen": ({"algorithm": "munchausen"}, None),
    "m-iqn, 8 and 8 fractions": ({"algorithm": "m-iqn", "num_fractions": 8}, None),
    "rainbow": ({"algorithm": "rainbow"}, None),
}


def update_of(settings: dict[str, object], memory_format: MemoryFormat, precision: Precision) -> Callable[[], object]:
    """Return an algorithm's update of one minibatch."""
    config = DQNConfig(net="nature", hidden=(512,), batch_size=ROWS, **settings)  # type: ignore[arg-type]
    network = build_network(q_network_spec(config, FRAMES, ACTIONS), torch.Generator().manual_seed(0))
    update = trial_update(config, network, memory_format, device=CPU, precision=precision)
    return lambda: update(ROWS)


def milliseconds(call: Callable[[], object]) -> float:
    """Time a call."""
    began_s = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - began_s)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="updates of each algorithm, after three to warm up")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    parser.add_argument("--memory-format", choices=("contiguous", "channels-last"), default="contiguous")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    forms = arguments.memory_format, arguments.precision
    updates = {name: update_of(settings, *forms) for name, (settings, _) in CASES.items()}
    times_ms: dict[str, list[float]] = {name: [] for name in updates}
    for _ in range(arguments.rounds + 3):
        for name, update in updates.items():
            times_ms[name].append(round(milliseconds(update), 3))
    times_ms = {name: values[3:] for name, values in times_ms.items()}
    report = Report("algorithm_updates")
    report.say(f"Milliseconds of an update of {ROWS} transitions, and by DQN's of the same round: medians of")
    report.say(
        f"{arguments.rounds} rounds with the quartiles; {', '.join(forms)}, {arguments.threads} threads of PyTorch."
    )
    report.say()
    rows = []
    for name, values in times_ms.items():
        ratios = [value / of_dqn for value, of_dqn in zip(values, times_ms["dqn"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        aim = CASES[name][1]
        shown = "" if aim is None else f"at most {aim:g}: {'held' if middle <= aim else 'missed'}"
        rows.append([name, f"{statistics.median(values):.2f}", f"{middle:.2f} ({low:.2f} to {high:.2f})", shown])
        report.data[name] = {"ms": values, "ratio": round(middle, 3), "aim": aim}
    report.table(["algorithm", "ms", "by DQN's", "aim"], rows)
    report.write()


if __name__ == "__main__":
    main()
