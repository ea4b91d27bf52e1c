"""Steps per second on Pong with a GPU, and their two limits: ``python benchmarks/gpu/atari.py [--minutes 7]``.

DQN and PQN train by their presets, without evaluations and checkpoints. Beside the training stand the emulator alone,
with random actions in as many envs, and the update alone (PQN's without the rollout's targets), as the steps that its
updates are for. A training that costs no more than its slower part reaches the lesser of the two.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from measuring import Cases, calls_per_s, cuda_or_exit, deadline, hardware, parser_of, wait_for

from torso.agents import DQNConfig, PQNConfig, Training, World, preset
from torso.agents.optim.devices import resolve_precision
from torso.agents.optim.executors import make_executor, resolve_executor
from torso.agents.training.session import build_network_for
from torso.agents.value_based.families import family_of
from torso.agents.value_based.training_config import TrainingConfig
from torso.envs import env_seeds

ENV = "ALE/Pong-v5"
ALGORITHMS = ("dqn", "pqn")
NEVER = 1_000_000_000


def timed_config(algorithm: str, env: str, device: torch.device, **settings: Any) -> TrainingConfig:
    """Settings of the preset, without evaluations and checkpoints, which learn after few steps."""
    config = preset(algorithm, env).config
    early: dict[str, Any] = {"evaluation_period": None, "checkpoint_period": NEVER, "device": str(device)}
    if isinstance(config, DQNConfig):
        early |= {"min_replay_size": 2_000, "replay_capacity": 200_000, "epsilon_decay_steps": 2_000}
    else:
        early |= {"epsilon_decay_steps": 2_000}
    return replace(config, **{**early, **settings})


def world_of(env: str) -> World:
    """The env as its preset has it."""
    return World(env=env, env_kwargs=preset("dqn", env).env_kwargs)


def emulator(env: str, config: TrainingConfig, seconds: float) -> dict[str, float]:
    """Steps per second of the envs alone, with random actions."""
    world = world_of(env)
    envs = world.make(env_seeds(0, config.num_envs, 0))
    rng = np.random.default_rng(0)
    try:
        envs.reset()
        ticks, began_s = 0, time.perf_counter()
        while (elapsed_s := time.perf_counter() - began_s) < seconds:
            actions = rng.integers(world.spec.num_actions, size=config.num_envs)
            envs.step(actions + world.spec.action_start)
            ticks += 1
    finally:
        envs.close()
    return {"steps_per_s": ticks * config.num_envs / elapsed_s}


def steps_per_update(config: TrainingConfig) -> float:
    """Steps for each of which a training takes one gradient step."""
    if isinstance(config, PQNConfig):
        return config.rollout_steps * config.num_envs / (config.epochs * config.num_minibatches)
    assert isinstance(config, DQNConfig)  # noqa: S101 - there are two
    return config.learn_period / config.updates_per_phase


def update_alone(env: str, config: TrainingConfig, device: torch.device, seconds: float) -> dict[str, float]:
    """Updates per second of the learner alone, as the training runs them, and the steps that these are for."""
    family, world = family_of(config), world_of(env)
    executor = make_executor(resolve_executor(config.executor, device), device)
    precision = resolve_precision(config.precision, device, pays=True)
    network = build_network_for(world, config, 0)
    trial = family.trial(config, network, "contiguous", device=device, precision=precision, executor=executor)
    rows = family.minibatch_rows(config)
    calls_per_s(lambda: trial(rows), device, calls=10)
    rate = calls_per_s(lambda: trial(rows), device, calls=5)
    updates_per_s = calls_per_s(lambda: trial(rows), device, calls=max(5, round(rate * seconds)))
    return {"updates_per_s": updates_per_s, "steps_per_s": updates_per_s * steps_per_update(config)}


class Clock:
    """Stop of a training: lets learning settle for some updates, then takes the time for so many seconds."""

    def __init__(self, training: Training, device: torch.device, seconds: float, settle_updates: int) -> None:
        self._training, self._device = training, device
        self._seconds, self._settle_updates = seconds, settle_updates
        self._began: tuple[int, int, float] | None = None  # steps, updates, seconds
        self.result: dict[str, float] = {}

    def __call__(self) -> bool:
        """Look at the clock after a tick; whether it is over."""
        steps, updates = self._training.total_steps, self._training.session.learner.num_updates
        if self._began is None:
            if updates >= self._settle_updates:
                wait_for(self._device)
                self._began = steps, updates, time.perf_counter()
            return False
        first_step, first_update, began_s = self._began
        if time.perf_counter() - began_s < self._seconds:
            return False
        wait_for(self._device)
        elapsed_s = time.perf_counter() - began_s
        self.result = {
            "steps_per_s": (steps - first_step) / elapsed_s,
            "updates_per_s": (updates - first_update) / elapsed_s,
        }
        return True


def training(
    env: str, config: TrainingConfig, device: torch.device, seconds: float, settle_updates: int = 100
) -> dict[str, float]:
    """Steps and updates per second of the training itself."""
    made = Training(world_of(env), config, seed=0)
    clock = Clock(made, device, seconds, settle_updates)
    for _ in made.run(NEVER, stop=clock):
        pass
    return clock.result


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
            todo[f"{name}, {executor}, update alone"] = partial(update_alone, ENV, of_executor, device, seconds)
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
