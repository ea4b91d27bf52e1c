"""Steps per second on Pong with a GPU, and their two limits: ``python benchmarks/gpu/atari.py [--minutes 7]``.

DQN and PQN train by their presets, without evaluations and checkpoints. Beside the training stand the emulator alone,
with random actions in as many envs, and the update alone (PQN's without the rollout's targets), as the steps that its
updates are for. A training that costs no more than its slower part reaches the lesser of the two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from measuring import Cases, cuda_or_exit, deadline, hardware, parser_of
from training_limits import emulator, parts_of, timed_config, training, update_alone

from torso.agents.value_based.training_config import TrainingConfig

ENV = "ALE/Pong-v5"
ALGORITHMS = ("dqn", "pqn")


def update_alone_of(config: TrainingConfig, device: torch.device, seconds: float) -> dict[str, float]:
    """Updates per second of a training's learner alone."""
    return update_alone(parts_of(ENV, config, device), seconds)


def main() -> None:
    """Measure, print and write."""
    parser = parser_of(__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="time of each measurement")
    parser.add_argument("--num-threads", type=int, default=1, help="threads of PyTorch on the CPU")
    arguments = parser.parse_args()
    device = cuda_or_exit()
    is_over = deadline(arguments.minutes)
    about = {"env": ENV, "seconds": arguments.seconds, "num_threads": arguments.num_threads}
    cases = Cases("gpu_atari", {**about, "hardware": hardware(device)}, arguments.results, fresh=arguments.fresh)
    todo: dict[str, Callable[[], Any]] = {}
    seconds = arguments.seconds
    for name in ALGORITHMS:
        config = timed_config(name, ENV, device, num_threads=arguments.num_threads)
        todo[f"{name}, emulator alone"] = partial(emulator, ENV, config, seconds)
        for executor in ("eager", "graph"):
            of_executor = replace(config, executor=executor)
            todo[f"{name}, {executor}, update alone"] = partial(update_alone_of, of_executor, device, seconds)
            todo[f"{name}, {executor}, training"] = partial(training, ENV, of_executor, device, seconds)
    cases.measure(todo, is_over)
    report, found = cases.report, cases.by_name
    report.say(f"Steps per second on {ENV}, measured for {seconds:g} s each; one training's share of the lesser limit.")
    report.say()
    rows = []
    for name in ALGORITHMS:
        for executor in ("eager", "graph"):
            names = f"{name}, emulator alone", f"{name}, {executor}, update alone", f"{name}, {executor}, training"
            if all(each in found for each in names):
                envs, update, steps = (found[each]["steps_per_s"] for each in names)
                share = f"{steps / min(envs, update):.0%}"
                rows.append([f"{name}, {executor}", f"{envs:,.0f}", f"{update:,.0f}", f"{steps:,.0f}", share])
    report.table(["training", "emulator alone", "update alone", "training", "share"], rows)
    report.write()


if __name__ == "__main__":
    main()
