"""This checkout beside another one of torso: ``python benchmarks/before_after.py --before CHECKOUT [--pairs 10]``.

For a change that must cost no speed. CHECKOUT is a clone of the repository at the commit before, with the folder
``.dev`` that it holds; both sides run in this Python, with the same packages. Sides take turns, a pair at a time, and
the one that begins changes with every pair:

- serving: a server with an MLP of 64-128-128-10, and one with the Nature network of Atari frames; requests a second of
  a closed loop of 16, sent by this checkout's load generator to both;
- learning: DQN on CartPole-v1 at RL Baselines3 Zoo's settings, and on Pong with the Nature network and 8 envs, a
  thread each; steps a second, from the first update on.

The figure is the ratio after : before of each pair; its median, smallest and largest are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from report import Report

from torso.nets import (
    InputSpec,
    LogitsHeadSpec,
    MLPSpec,
    NetworkSpec,
    ScalarHeadSpec,
    build_network,
    net_spec,
    save_model,
)

HERE = Path(__file__).resolve().parents[1]
LEARN = """
import sys, time
from torso.agents import DQNConfig, Training, World

which, steps = sys.argv[1], int(sys.argv[2])
never = {"evaluation_period": 10**9, "checkpoint_period": 10**9, "evaluation_episodes": 1, "num_threads": 1}
if which == "cartpole":
    world = World(env="CartPole-v1")
    config = DQNConfig(
        hidden=(256, 256), learning_rate=2.3e-3, batch_size=64, replay_capacity=100_000, min_replay_size=1_000,
        target_update_period=10, learn_period=256, updates_per_phase=128, epsilon_end=0.04, epsilon_decay_steps=8_000,
        **never,
    )
else:
    world = World(env="ALE/Pong-v5", env_kwargs={"protocol": "dqn2015"})
    config = DQNConfig(
        net="nature", hidden=(512,), num_envs=8, learning_rate=1e-4, batch_size=32, replay_capacity=20_000,
        min_replay_size=400, learn_period=4, target_update_period=1_000, clip_rewards=True, epsilon_end=0.01,
        epsilon_decay_steps=400, precision="bfloat16", **never,
    )
training, began = Training(world, config, seed=0), []

def clock():
    if not began and training.session.learner.num_updates:
        began.append((training.total_steps, time.perf_counter()))
    if training.total_steps >= steps and len(began) == 1:
        began.append((training.total_steps, time.perf_counter()))
    return len(began) == 2

for _ in training.run(10**8, stop=clock):
    pass
(first, began_s), (last, ended_s) = began
print((last - first) / (ended_s - began_s))
"""


def environment(checkout: Path) -> dict[str, str]:
    """Environment variables under which ``import torso`` takes a checkout's: ``.dev`` before what is installed."""
    return {**os.environ, "PYTHONPATH": str(checkout / ".dev"), "OMP_NUM_THREADS": "1"}


def steps_per_s(checkout: Path, which: str, steps: int) -> float:
    """Steps a second of a training, ``cartpole`` or ``pong``."""
    command = [sys.executable, "-c", LEARN, which, str(steps)]
    done = subprocess.run(command, env=environment(checkout), capture_output=True, text=True, check=True)
    return float(done.stdout)


def requests_per_s(checkout: Path, model: Path, seconds: float) -> float:
    """Requests a second of a server of the checkout's, by this checkout's load generator."""
    with tempfile.TemporaryDirectory() as folder:
        port_file = Path(folder) / "port"
        serve = [sys.executable, "-m", "torso.cli", "serve", str(model), "--port", "0", "--port-file", str(port_file)]
        server = subprocess.Popen(
            [*serve, "--drain-s", "0"], env=environment(checkout), cwd=folder, stderr=subprocess.DEVNULL
        )
        try:
            while not port_file.exists():
                if server.poll() is not None:
                    sys.exit(f"error: the server of {checkout} ended with {server.returncode}")
                time.sleep(0.05)
            address = f"127.0.0.1:{port_file.read_text().strip()}"
            load = [*("bench-serve", "--address", address, "--in-flight", "16", "--warmup-s", "1")]
            command = [sys.executable, "-m", "torso.cli", *load, "--duration-s", str(seconds), "--json"]
            done = subprocess.run(
                command, env=environment(HERE), cwd=folder, capture_output=True, text=True, check=True
            )
            [result] = json.loads(done.stdout)["loads"]
            return float(result["throughput"])
        finally:
            server.terminate()
            server.wait(timeout=30)


def commit(checkout: Path) -> str:
    """The short hash of what is checked out."""
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="a checkout of the commit before")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--only", default="", metavar="TEXT", help="what has this in its name, such as serving")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    parser.add_argument("--steps", type=int, default=20_000, help="of each training on CartPole")
    parser.add_argument("--pong-steps", type=int, default=2_500, help="of each training on Pong")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report = Report(f"before_after_{arguments.only}".rstrip("_"))
    sides = {"before": arguments.before.resolve(), "after": HERE}
    report.say(f"before: {commit(sides['before'])}; after: {commit(HERE)}; {arguments.pairs} alternating pairs")
    report.say()
    report.say("| what | before, median | after, median | ratio, median | smallest | largest |")
    report.say("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        mlp, cnn = Path(folder) / "mlp", Path(folder) / "cnn"
        spec = NetworkSpec(
            input=InputSpec(shape=(64,)), torso=MLPSpec(hidden=(128, 128)), head=LogitsHeadSpec(num_classes=10)
        )
        save_model(mlp, build_network(spec, torch.Generator().manual_seed(0)), kind="classifier")
        pixels = InputSpec(shape=(4, 84, 84), dtype="uint8", layout="chw", scale=1 / 255)
        spec = NetworkSpec(input=pixels, torso=net_spec("nature", pixels), head=ScalarHeadSpec(num_actions=6))
        save_model(cnn, build_network(spec, torch.Generator().manual_seed(0)), kind="policy")
        measures: dict[str, Callable[[Path], float]] = {
            "serving an MLP, requests/s": lambda side: requests_per_s(side, mlp, arguments.seconds),
            "serving a CNN, requests/s": lambda side: requests_per_s(side, cnn, arguments.seconds),
            "DQN on CartPole, steps/s": lambda side: steps_per_s(side, "cartpole", arguments.steps),
            "DQN on Pong, steps/s": lambda side: steps_per_s(side, "pong", arguments.pong_steps),
        }
        for what, measure in measures.items():
            if arguments.only not in what:
                continue
            found: dict[str, list[float]] = {"before": [], "after": []}
            for pair in range(arguments.pairs):
                for name in ("before", "after") if pair % 2 == 0 else ("after", "before"):
                    found[name].append(measure(sides[name]))
            ratios = [after / before for before, after in zip(found["before"], found["after"], strict=True)]
            report.data[what] = {**found, "ratios": ratios}
            before, after = (statistics.median(found[name]) for name in ("before", "after"))
            ratio = statistics.median(ratios)
            report.say(
                f"| {what} | {before:,.0f} | {after:,.0f} | {ratio:.3f} | {min(ratios):.3f} | {max(ratios):.3f} |"
            )
    report.write()


if __name__ == "__main__":
    main()
