"""Cost of the checks of an env's steps: ``python benchmarks/step_checks.py [--blocks 40]``.

CartPole-v1 is stepped with random actions in three ways: by Gymnasium's vector env alone, with every single env checked
(`CheckedEnv`), and with the check of finite rewards and observations besides, as a training does. The ways alternate in
short blocks within one process and one thread; a ratio is the median over the rounds of blocks. Times are this
process's on the CPU, so that other work on the machine takes less part in them. A training by `DQNConfig`'s defaults
shows what share of its step that is.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from report import Report

from torso.agents import DQNConfig, Training, World
from torso.envs import make_vector
from torso.envs.vector.finite import require_finite_step

ENV = "CartPole-v1"
TICKS = 2_000  # of a block
WAYS = ("Gymnasium", "checked", "checked, finite")


def stepper(way: str, num_envs: int) -> Callable[[], float]:
    """Give a function that steps a vector env ``TICKS`` times and returns the microseconds of a step of one env."""
    if way == "Gymnasium":
        made = [lambda: gym.make(ENV)] * num_envs
        envs: gym.vector.VectorEnv = SyncVectorEnv(made, copy=True, autoreset_mode=AutoresetMode.NEXT_STEP)
    else:
        envs = make_vector(ENV, num_envs)
    envs.reset(seed=0)
    actions = np.random.default_rng(0).integers(0, 2, (TICKS, num_envs))
    steps = np.zeros(num_envs, np.int64)
    is_finite_checked = way == "checked, finite"

    def block() -> float:
        began_s = time.process_time()
        for action in actions:
            obs, rewards, *_ = envs.step(action)
            if is_finite_checked:
                require_finite_step(ENV, obs, rewards, steps)
        return 1e6 * (time.process_time() - began_s) / (TICKS * num_envs)

    return block


def training_step_us(num_envs: int, steps: int) -> float:
    """Microseconds of a step of a training once it learns, without evaluations."""
    config = DQNConfig(num_envs=num_envs, evaluation_period=None, device="cpu", log_period=10**9)
    training = Training(World(env=ENV), config, seed=0)
    for _ in training.run(config.min_replay_size + 500):
        pass
    before, began_s = training.total_steps, time.process_time()
    for _ in training.run(before + steps):
        pass
    return 1e6 * (time.process_time() - began_s) / (training.total_steps - before)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=40, help="blocks of each way, after a first one to warm up")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report = Report("step_checks")
    rows = []
    for num_envs in (1, 8):
        blocks = {way: stepper(way, num_envs) for way in WAYS}
        measured = [{way: block() for way, block in blocks.items()} for _ in range(arguments.blocks + 1)][1:]
        learning = training_step_us(num_envs, 4_000)
        times_us = {way: [round(each[way], 3) for each in measured] for way in WAYS}
        report.data[f"{num_envs} envs"] = {"step_us": times_us, "training_step_us": round(learning, 1)}
        for way in WAYS:
            extra = statistics.median(each[way] - each["Gymnasium"] for each in measured)
            ratio = statistics.median(each[way] / each["Gymnasium"] for each in measured)
            middle = statistics.median(each[way] for each in measured)
            rows.append([num_envs, way, f"{middle:.2f}", f"{extra:+.2f}", f"{ratio:.2f}", f"{extra / learning:.1%}"])
    report.say("CPU microseconds of a step of one env: the median block, the median difference and ratio of a round.")
    report.say()
    report.table(["envs", "steps", "µs", "more by", "ratio", "of a training's step"], rows)
    report.write()


if __name__ == "__main__":
    main()
