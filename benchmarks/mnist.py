"""MNIST: how accurate each network becomes, and in how many seconds of training.

TORSO_DATA=FOLDER python benchmarks/mnist.py [--seeds 5] [--only cnn,lenet]

Every row is `torso fit --dataset mnist --net NET` with the settings that it has of itself (`fit_preset`). Validation
data choose the epoch; the test set is scored once a seed, at the end, and chose nothing, here or when the presets were
made.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from report import RESULTS, Report

from torso.agents.supervised.config import ClassifierConfig
from torso.agents.supervised.fit_runs import fit_run
from torso.agents.supervised.fitting import EpochDone, FitEvent
from torso.agents.supervised.recipes import fit_preset
from torso.envs import Splits, load_dataset

# What each should reach, as a share of the test set.
GOALS = {"softmax": 0.92, "mlp": 0.986, "lenet": 0.991, "cnn": 0.993, "vgg": 0.997}


class Clock:
    """The seconds to the end of the last epoch: steps, scoring of validation data, checkpoints and models included."""

    def __init__(self) -> None:
        self.began_s = time.perf_counter()
        self.seconds = 0.0

    def on_event(self, event: FitEvent) -> None:
        """Look at the clock when an epoch ends."""
        if isinstance(event, EpochDone):
            self.seconds = time.perf_counter() - self.began_s


def fit(data: Splits, net: str, seed: int, out: Path) -> dict[str, Any]:
    """One fit; its summary, with the seconds that it trained."""
    config, clock = ClassifierConfig(**fit_preset(net, "mnist")), Clock()
    result = fit_run(data, config, seed=seed, out=out, on_event=clock.on_event)
    summary = {name: value for name, value in (result.summary or {}).items() if name != "test_metrics"}
    return {**summary, "training_s": clock.seconds}


def row(net: str, found: dict[str, Any]) -> list[Any]:
    """A line of the table."""
    fits = found["fits"]
    accuracies = [each["test_accuracy"] for each in fits]
    seconds = [each["training_s"] for each in fits]
    return [
        net,
        f"{fits[0]['num_parameters']:,}",
        f"{statistics.median(accuracies):.2%}",
        f"{min(accuracies):.2%} to {max(accuracies):.2%}",
        len(fits),
        f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})",
        fits[0]["epochs"],
        f"{GOALS[net]:.1%}",
    ]


def main() -> None:
    """Run the rows that are asked for, and write the table with those of earlier runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default=",".join(GOALS), help="which networks; the others' rows stay as they were")
    options = parser.parse_args()
    data, report, earlier = load_dataset("mnist"), Report("mnist"), RESULTS / "mnist.json"
    report.data["nets"] = json.loads(earlier.read_text())["nets"] if earlier.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for net in options.only.split(","):
            fits = [fit(data, net, seed, Path(folder) / f"{net}-{seed}") for seed in range(options.seeds)]
            report.data["nets"][net] = {
                "command": report.data["command"],
                "preset": fit_preset(net, "mnist"),
                "fits": fits,
            }
            print(row(net, report.data["nets"][net]), flush=True)
    header = ["network", "parameters", "test accuracy, median", "range", "seeds", "training s", "epochs", "goal"]
    report.table(header, [row(net, report.data["nets"][net]) for net in GOALS if net in report.data["nets"]])
    for net in GOALS:
        if net in report.data["nets"]:
            report.say(f"- {net}: `{report.data['nets'][net]['command']}`")
    report.write()


if __name__ == "__main__":
    main()
