"""Seconds until an evaluation on CartPole-v1 is 500: torso with its presets beside SBX at RL-Zoo's settings.

    python benchmarks/first_500.py --peers-python PEERS/bin/python [--seeds 10] [--sides n-step,pqn,sbx]

The peers live in a virtual environment of their own, made once:

    python -m venv PEERS && PEERS/bin/pip install torch==2.13.0 stable-baselines3==2.9.2 sbx-rl==0.28.0

Each side trains alone, one process after another, seed by seed, until the mean of 20 greedy episodes is 500, in
evaluations at every 2,500 steps (PQN's at the ends of its rollouts of 2,048). Seconds are those from the first step
on, compilation included and imports not: of learning, and with the evaluations. A side that ends without it, after
100,000 steps or its preset's, counts as slower than all that did not.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from peer_processes import ask
from report import Report

HERE = Path(__file__).parent
PERIOD, PEER_STEPS = 2_500, 100_000
SBX, SB3 = "sbx", "sb3"
NAMES = {SBX: "SBX", SB3: "Stable-Baselines3"}


def seconds(runs: list[dict[str, Any]], name: str) -> list[float]:
    """Seconds of each run, infinite where it did not get there."""
    return [float("inf") if run["reached_step"] is None else run[name] for run in runs]


def shown(values: list[float]) -> str:
    """Median and spread."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.1f} ({low:.1f} to {'never' if high == float('inf') else f'{high:.1f}'})"


def main() -> None:
    """Run all sides, print the table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers-python", required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--sides", default=f"n-step,pqn,{SBX}", help=f"algorithms of torso, {SBX}, {SB3}")
    options = parser.parse_args()
    report = Report("first_500")
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in options.sides.split(",")}
    for seed in range(options.seeds):
        for side, runs in results.items():
            if side in NAMES:
                script = [options.peers_python, str(HERE / "peers/first_500.py"), side]
                runs.append(ask([*script, str(seed), str(PEER_STEPS), str(PERIOD)]))
            else:
                runs.append(ask([sys.executable, str(HERE / "first_500_torso.py"), side, str(seed), str(PERIOD)]))
            print(f"seed {seed}, {side}: {runs[-1]}", file=sys.stderr, flush=True)
    report.data["results"] = results
    rows = []
    for side, runs in results.items():
        steps = [run["reached_step"] for run in runs if run["reached_step"] is not None]
        name = NAMES.get(side, f"torso, `{side}`, its preset")
        reached = f"{len(steps)} of {len(runs)}"
        median_steps = f"{statistics.median(steps):,.0f}" if steps else ""
        rows.append([name, reached, median_steps, *(shown(seconds(runs, each)) for each in ("learning_s", "total_s"))])
    report.table(["side", "reached 500", "steps, median of those", "seconds of learning", "with evaluations"], rows)
    report.write()


if __name__ == "__main__":
    main()
