"""Limits of a training, measured alone: the emulator, the forward pass by which it acts, the update; and the training.

What is measured without an update has no learning in it, what is measured without envs has made-up inputs.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from torso.agents import DQNConfig, PQNConfig, Training, World, preset
from torso.agents.optim.devices import Precision, torch_threads
from torso.agents.optim.executors import ExecutorName, make_executor
from torso.agents.optim.memory_formats import made_up_inputs
from torso.agents.protocols import Due
from torso.agents.replay.ring import ReplayRing
from torso.agents.training.driver import resolve_training
from torso.agents.training.session import build_network_for
from torso.agents.value_based.assembly import transitions_of
from torso.agents.value_based.families import family_of
from torso.agents.value_based.training_config import TrainingConfig
from torso.envs import env_seeds
from torso.nets import Network
from torso.nets.modules.layers import MemoryFormat

NEVER = 1_000_000_000
_FIRST_TICKS = 3


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


def wait_for(device: torch.device) -> None:
    """Wait until the device has done what was launched."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def calls_per_s(call: Callable[[], object], device: torch.device, *, calls: int) -> float:
    """Rate of calls one after another, as a training makes them: the device is waited for at the end alone."""
    wait_for(device)
    began_s = time.perf_counter()
    for _ in range(calls):
        call()
    wait_for(device)
    return calls / (time.perf_counter() - began_s)


def settled_rate(call: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Rate of calls over so many seconds, after a few that are not counted."""
    calls_per_s(call, device, calls=10)
    rate = calls_per_s(call, device, calls=5)
    return calls_per_s(call, device, calls=max(5, round(rate * seconds)))


def emulator(env: str, config: TrainingConfig, seconds: float) -> dict[str, float]:
    """Steps per second of the envs alone, with random actions."""
    world = world_of(env)
    envs = world.make(env_seeds(0, config.num_envs, 0))
    rng, is_warm = np.random.default_rng(0), False
    try:
        envs.reset()
        ticks, began_s = 0, time.perf_counter()
        while (elapsed_s := time.perf_counter() - began_s) < seconds:
            actions = rng.integers(world.spec.num_actions, size=config.num_envs)
            envs.step(actions + world.spec.action_start)
            ticks += 1
            if ticks == _FIRST_TICKS and not is_warm:  # the first ones wait for the reset
                is_warm, ticks, began_s = True, 0, time.perf_counter()
    finally:
        envs.close()
    return {"steps_per_s": ticks * config.num_envs / elapsed_s}


def updates_at_once(config: TrainingConfig) -> int:
    """Gradient steps for which a training samples together: those that a tick of all envs owes."""
    if isinstance(config, DQNConfig):
        return max(1, config.num_envs // config.learn_period) * config.updates_per_phase
    return 1


def sampler(
    config: DQNConfig, shape: tuple[int, ...], dtype: str, device: torch.device, frame_stack: int = 1
) -> Callable[[], None]:
    """Return what draws and gathers a minibatch from a full replay, and sets new priorities where there are any.

    The replay has ``replay_capacity`` steps of ``num_envs`` envs, all alike; shape, dtype: of an observation.
    """
    num_envs, steps = config.num_envs, config.replay_capacity
    ring = ReplayRing(
        capacity_steps=steps, num_envs=num_envs, shape=shape, dtype=dtype, device=device, frame_stack=frame_stack
    )
    experience = transitions_of(config, ring, torch.Generator(device).manual_seed(0))
    obs = np.zeros((num_envs, *shape), dtype)
    zeros, false = np.zeros(num_envs, np.int64), np.zeros(num_envs, bool)
    for _ in range(ring.capacity_rows):
        ring.append(obs, zeros, zeros, false, false, false)
    priority = torch.ones(config.batch_size, device=device)

    def sample() -> None:
        experience.feedback(experience.sample(Due(steps, steps, 1)), priority)

    return sample


def steps_per_update(config: TrainingConfig) -> float:
    """Steps for each of which a training takes one gradient step."""
    if isinstance(config, PQNConfig):
        return config.rollout_steps * config.num_envs / (config.epochs * config.num_minibatches)
    assert isinstance(config, DQNConfig)  # noqa: S101 - there are two
    return config.learn_period / config.updates_per_phase


@dataclass(frozen=True)
class Parts:
    """Settings of a training in an env, resolved on this machine, and its network, untrained."""

    config: TrainingConfig
    device: torch.device
    network: Network
    precision: Precision
    memory_format: MemoryFormat
    executor: ExecutorName

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments of a learner, or of a trial of its update."""
        executor = make_executor(self.executor, self.device)
        return {"device": self.device, "precision": self.precision, "executor": executor}


def parts_of(env: str, config: TrainingConfig, device: torch.device) -> Parts:
    """Resolve the settings of a training as `Training` does."""
    world = world_of(env)
    resolved = resolve_training(world, config)
    return Parts(
        config=config,
        device=device,
        network=build_network_for(world, config, 0),
        precision=resolved["precision"],
        memory_format=resolved.get("memory_format", "contiguous"),
        executor=resolved["executor"],
    )


def forward_alone(parts: Parts, seconds: float) -> dict[str, float]:
    """Steps per second of acting alone: action values of all envs, for made-up observations."""
    config = parts.config
    family = family_of(config)
    learner = family.learner(config, copy.deepcopy(parts.network), memory_format=parts.memory_format, **parts.settings)
    policy = learner.policy()
    obs = made_up_inputs(parts.network.spec.input, config.num_envs).numpy()
    with torch_threads(config.num_threads):
        ticks_per_s = settled_rate(lambda: policy.values(obs), parts.device, seconds)
    return {"steps_per_s": ticks_per_s * config.num_envs}


def update_alone(parts: Parts, seconds: float) -> dict[str, float]:
    """Updates per second of the learner alone, as the training runs them, and the steps that these are for.

    PQN's are without the targets of a rollout.
    """
    config, family = parts.config, family_of(parts.config)
    count = updates_at_once(config)
    trial = family.trial(config, parts.network, parts.memory_format, num_minibatches=count, **parts.settings)
    rows = count * family.minibatch_rows(config)
    with torch_threads(config.num_threads):
        updates_per_s = count * settled_rate(lambda: trial(rows), parts.device, seconds)
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
