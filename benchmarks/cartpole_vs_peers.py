"""DQN on CartPole-v1 at RL-Zoo's settings: torso beside Stable-Baselines3 and SBX, in one run.

    python benchmarks/cartpole_vs_peers.py --peers-python PEERS/bin/python [--seeds 10] [--steps 50000]

The peers live in a virtual environment of their own, made once:

    python -m venv PEERS && PEERS/bin/pip install torch==2.13.0 stable-baselines3==2.9.2 sbx-rl==0.28.0

Each side trains alone, one process after another, seed by seed, so that what else the machine does falls on all alike.
Seconds are those of learning: no imports, no evaluations. SB3 runs with torch's own number of threads and, for the
first seeds, also with one; it is compared at the faster. Every side evaluates 20 greedy episodes each 2,500 steps and
keeps the best network (SB3 and SBX by their EvalCallback). Solved is a greedy mean of 475 or more over 20 fresh
episodes: of the network that training ended with (last), and of the one that the evaluations chose (best).
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from peer_processes import ask
from report import Report

SOLVED = 475.0
ONE_THREAD = "Stable-Baselines3, 1 thread"
HERE = Path(__file__).parent


def main() -> None:
    """Run all sides, print the table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers-python", required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--one-thread-seeds", type=int, default=2)
    arguments = parser.parse_args()
    peer, steps = [arguments.peers_python, str(HERE / "peers/sb3_cartpole.py")], str(arguments.steps)
    torso = [sys.executable, str(HERE / "cartpole_torso.py")]
    sides = {
        "torso": lambda seed: [*torso, str(seed), steps],
        "Stable-Baselines3": lambda seed: [*peer, "sb3", str(seed), steps, "0"],
        "SBX": lambda seed: [*peer, "sbx", str(seed), steps, "0"],
        ONE_THREAD: lambda seed: [*peer, "sb3", str(seed), steps, "1"],
    }
    report = Report("cartpole_vs_peers")
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for seed in range(arguments.seeds):
        for name, command in sides.items():
            if name == ONE_THREAD and seed >= arguments.one_thread_seeds:
                continue
            result = ask(command(seed))
            results[name].append(result)
            last, best = (statistics.fmean(result[key]) for key in ("returns", "best_returns"))
            line = f"seed {seed}  {name}: {result['steps_per_s']:,.0f} steps/s, greedy {last:.1f} last, {best:.1f} best"
            print(line, file=sys.stderr)
    report.data["results"] = results
    speed = {name: statistics.median(run["steps_per_s"] for run in runs) for name, runs in results.items()}
    rows = []
    for name, runs in results.items():
        means = [statistics.fmean(run["returns"]) for run in runs]
        best = [statistics.fmean(run["best_returns"]) for run in runs]
        rows.append(
            [
                name,
                f"{speed[name]:,.0f}",
                f"{min(r['steps_per_s'] for r in runs):,.0f} to {max(r['steps_per_s'] for r in runs):,.0f}",
                f"{sum(mean >= SOLVED for mean in means)} of {len(means)}",
                f"{sum(mean >= SOLVED for mean in best)} of {len(best)}",
                " ".join(f"{mean:.0f}" for mean in means),
            ]
        )
    report.table(["side", "steps/s, median", "spread", "solved, last", "solved, best", "greedy means, last"], rows)
    sb3 = max(speed[name] for name in speed if name.startswith("Stable"))
    report.say(
        f"torso: {speed['torso'] / sb3:.2f} times Stable-Baselines3, {speed['torso'] / speed['SBX']:.2f} times SBX"
    )
    report.write()


if __name__ == "__main__":
    main()
