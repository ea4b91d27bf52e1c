"""The two policies that come with torso, for the playground's Play, made anew: trained, scored, put in their place.

    python benchmarks/playground_policies.py [--out playground/models]

QR-DQN, so that the page has distributions to show, on networks small enough for the wheel. One thread and one seed: the
same machine makes the same bits. The best network by its selection episodes; fresh episodes score it once.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import tempfile
from pathlib import Path

from playground_digits import ROOT, torso
from report import Report

TRAIN = {
    "cartpole": "train qr-dqn --env CartPole-v1 --hidden 128 128 --seed 0 --num-threads 1",
    "forager": "train qr-dqn --env torso/Forager-v0 --steps 200000 --seed 0 --num-threads 1",
}


def main() -> None:
    """Train, score, copy the models to their place, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "playground" / "models")
    options = parser.parse_args()
    report = Report("playground_policies")
    rows = []
    for name, command in TRAIN.items():
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / name
            trained = json.loads(torso(*shlex.split(command), "--out", str(run), "--json"))
            best = run / "best"
            scored = json.loads(torso("evaluate", str(best), "--episodes", "100", "--json"))
            size = sum(path.stat().st_size for path in best.iterdir())
            report.data[name] = {"train": trained, "evaluate": scored, "bytes": size}
            shutil.rmtree(options.out / name, ignore_errors=True)
            shutil.copytree(best, options.out / name)
        spread = f"{scored['mean_return']:.1f} ± {scored['std_return']:.1f}"
        rows.append([name, f"`torso {command}`", f"{size:,}", spread])
    report.say("Mean and standard deviation of the returns of 100 fresh greedy episodes.\n")
    report.table(["model", "command", "bytes", "return"], rows)
    report.write()


if __name__ == "__main__":
    main()
