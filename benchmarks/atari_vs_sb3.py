"""DQN and PQN on Pong while they learn, beside Stable-Baselines3's DQN: steps per second and memory, in one run.

    python benchmarks/atari_vs_sb3.py --peers-python PEERS/bin/python [--repeats 3] [--steps 2000] [--threads 2,1]

The peers live in a virtual environment of their own, made once:

    python -m venv PEERS && PEERS/bin/pip install torch==2.13.0 stable-baselines3==2.9.2 sbx-rl==0.28.0 \
        ale-py==0.12.1 opencv-python-headless

Both sides train Mnih et al. 2015's network on minibatches of 32, one update every 4 steps, out of a replay of the same
number of steps, with the same epsilon, Adam, Huber loss, gradient clipping and target period. torso steps ale-py's C++
vector env; Stable-Baselines3 its own AtariWrapper and VecFrameStack over single envs, in one process. Episodes begin
with up to 30 no-ops and actions are not sticky. Stable-Baselines3's replay also runs with ``optimize_memory_usage``.
With 8 envs, 2 updates follow each tick of 8 steps on both sides: updates a step are the same everywhere, and counted.
torso's PQN has its preset, another algorithm with a network, envs and minibatches of its own: it is there to say what
the same game costs by it.

Every side is a process of its own, one after another, in turn. A process makes random steps, repeats them until its
replay is full (so that memory and the reads of minibatches are those of a long run), learns for a while, and then takes
the time of ``--steps`` steps of acting, storing and learning, without evaluations or files. With t threads it is bound
to t cores. The speed of a side is the median over the repeats.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from peer_processes import ask
from report import Report

from torso.agents import preset

HERE = Path(__file__).parent
SB3, TORSO, PQN = "Stable-Baselines3", "torso", "torso PQN, its preset"
PQN_STEPS = 20_480  # whole rollouts: learning comes at their ends
SETTINGS: dict[str, Any] = {
    "seed": 0,
    "warm_up": 1_000,  # random steps
    "settle": 200,  # steps of learning before the clock starts
    "batch_size": 32,
    "learning_rate": 1e-4,
    "gamma": 0.99,
    "max_grad_norm": 10.0,
    "epsilon": 0.05,
    "target_update_period": 1_000,
    "algorithm": "dqn",
    "precision": "auto",
}
TORSO_ENV: dict[str, Any] = {  # what AtariWrapper does of itself
    "env": "ALE/Pong-v5",
    "env_kwargs": {"protocol": "dqn2015", "use_fire_reset": True},
}
SIDES: dict[str, dict[str, Any]] = {  # in the order in which they take turns
    f"{SB3}, 1 env": {"num_envs": 1, "optimize_memory_usage": False},
    f"{TORSO} float32, 1 env": {"num_envs": 1, "precision": "float32"},
    f"{TORSO} bfloat16, 1 env": {"num_envs": 1, "precision": "bfloat16"},
    f"{SB3}, 1 env, optimize_memory_usage": {"num_envs": 1, "optimize_memory_usage": True},
    f"{SB3}, 8 envs": {"num_envs": 8, "optimize_memory_usage": False},
    f"{TORSO} float32, 8 envs": {"num_envs": 8, "precision": "float32"},
    f"{TORSO} bfloat16, 8 envs": {"num_envs": 8, "precision": "bfloat16"},
    PQN: {"num_envs": preset("pqn", "ALE/Pong-v5").config.num_envs, "algorithm": "pqn", "steps": PQN_STEPS},
}


def command_of(name: str, threads: int, options: argparse.Namespace) -> list[str]:
    """The command that runs a side."""
    given = {"threads": threads, "steps": options.steps, "replay_capacity": options.replay, **SETTINGS, **SIDES[name]}
    if name.startswith(SB3):
        return [options.peers_python, str(HERE / "peers/sb3_atari.py"), json.dumps(given)]
    return [sys.executable, str(HERE / "atari_torso.py"), json.dumps({**TORSO_ENV, **given})]


def median_speed(runs: list[dict[str, Any]]) -> float:
    """Steps per second of a side."""
    return statistics.median(run["steps_per_s"] for run in runs)


def fastest(results: dict[int, dict[str, list[dict[str, Any]]]], threads: int, num_envs: int | None = None) -> float:
    """Stable-Baselines3's best speed with so many envs, or any, whichever its replay, on so many threads or fewer."""
    return max(
        median_speed(runs)
        for count, sides in results.items()
        for name, runs in sides.items()
        if count <= threads and name.startswith(SB3) and num_envs in (None, SIDES[name]["num_envs"])
    )


def table(report: Report, threads: int, results: dict[int, dict[str, list[dict[str, Any]]]]) -> None:
    """The sides with so many threads."""
    rows = []
    for name, runs in results[threads].items():
        each, speed = [run["steps_per_s"] for run in runs], median_speed(runs)
        rows.append(
            [
                name,
                f"{speed:,.0f}",
                f"{min(each):,.0f} to {max(each):,.0f}",
                f"{speed / fastest(results, threads, 1):.2f}",
                f"{speed / fastest(results, threads, None if name == PQN else SIDES[name]['num_envs']):.2f}",
                f"{statistics.median(1_000 * run['cpu_s'] / run['steps'] for run in runs):.1f}",
                f"{statistics.median(run['updates'] / run['steps'] for run in runs):.3f}",
                f"{max(run['peak_rss_gb'] for run in runs):.2f}",
                f"{runs[0]['replay_gb']:.2f}",
            ]
        )
    report.say(f"{threads} thread{'s' if threads > 1 else ''}:")
    report.say()
    header = ["side", "steps/s, median", "spread", "times SB3, 1 env", "times SB3, as many envs"]
    report.table([*header, "CPU ms a step", "updates a step", "peak memory, GB", "of it the replay"], rows)


def main() -> None:
    """Run all sides, print the tables, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers-python", required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--replay", type=int, default=100_000, help="steps that the replay holds, full")
    parser.add_argument("--threads", default="2,1")
    options = parser.parse_args()
    counts = [int(count) for count in options.threads.split(",")]
    report = Report("atari_vs_sb3")
    results: dict[int, dict[str, list[dict[str, Any]]]] = {count: {name: [] for name in SIDES} for count in counts}
    for repeat in range(options.repeats):
        for count in counts:
            for name in SIDES:
                result = ask(command_of(name, count, options))
                results[count][name].append(result)
                told = f"{result['steps_per_s']:,.0f} steps/s, {result['peak_rss_gb']:.2f} GB"
                print(f"repeat {repeat}, threads {count}, {name}: {told}", file=sys.stderr, flush=True)
    each = [(name, run) for sides in results.values() for name, runs in sides.items() for run in runs]
    parameters = {run["parameters"] for name, run in each if name != PQN}
    if len(parameters) != 1:
        raise SystemExit(f"the sides' networks differ: {sorted(parameters)} parameters")
    report.data |= {"settings": {**SETTINGS, "replay_capacity": options.replay}, "results": results}
    report.say(
        f"Processes of each side: {options.repeats}, of {options.steps:,} steps of learning; a replay of "
        f"{options.replay:,} steps, full; {parameters.pop():,} parameters on both sides. PQN: {PQN_STEPS:,} steps, "
        f"{next(run['parameters'] for name, run in each if name == PQN):,} parameters."
    )
    report.say()
    for count in counts:
        table(report, count, results)
    report.say(
        "Ratios are to the fastest Stable-Baselines3 of that many envs, on that many threads or fewer; PQN's last one "
        "to the fastest of any number of envs."
    )
    report.write()


if __name__ == "__main__":
    main()
