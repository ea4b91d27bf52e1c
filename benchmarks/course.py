"""Course benchmark: the figures of docs/course.md, each by the command that its table prints, over three seeds.

python benchmarks/course.py [--seeds 3]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import warnings
from pathlib import Path

from report import Report

from torso.cli import main as torso

DEEP = (
    "--dataset digits --net mlp --hidden 32 32 32 32 32 32 32 32 "
    "--optimizer sgd --learning-rate 0.1 --schedule constant --max-epochs 20"
)
SHALLOW = DEEP.replace(" 32" * 8, " 32")
COMMANDS = (
    "--dataset xor --net perceptron",
    "--dataset xor --net logistic",
    "--dataset xor --net mlp --hidden 8 --activation tanh",
    "--dataset moons --net logistic",
    "--dataset moons --net mlp --hidden 16 16 16 --activation identity",
    "--dataset moons --net mlp --hidden 16 16 16 --activation relu",
    f"{DEEP} --activation sigmoid --init xavier",
    f"{DEEP} --activation relu --init he",
    f"{SHALLOW} --activation sigmoid --init xavier",
    f"{SHALLOW} --init zeros",
)


def test_accuracy(command: str, seed: int) -> float:
    """Test accuracy that ``torso fit COMMAND --seed SEED`` prints."""
    printed = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zeros, which are the point
        code = torso(["fit", *command.split(), "--seed", str(seed), "--out", str(Path(folder) / "run"), "--json"])
    if code:
        raise RuntimeError(f"torso fit {command} ended with {code}")
    return float(json.loads(printed.getvalue())["test_accuracy"])


def main() -> None:
    """Run all commands and leave the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    report = Report("course")
    report.say(f"Test accuracy over {seeds} seeds, which also draw what is held out to choose the best epoch by.\n")
    report.say("| `torso fit` | least | most |\n|---|---|---|")
    report.data["test_accuracy"] = {}
    for command in COMMANDS:
        found = sorted(test_accuracy(command, seed) for seed in range(seeds))
        report.data["test_accuracy"][command] = found
        report.say(f"| `{command}` | {found[0]:.1%} | {found[-1]:.1%} |")
    report.write()


if __name__ == "__main__":
    main()
