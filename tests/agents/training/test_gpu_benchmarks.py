"""Benchmarks on a GPU: their arguments, what they do without one, and that they measure, here on the CPU."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from torso.agents import DQNConfig, PQNConfig, World
from torso.agents.optim.executors import EagerExecutor
from torso.nets import InputSpec

FOLDER = Path(__file__).parents[3] / "benchmarks" / "gpu"
SCRIPTS = ("updates", "atari", "time_to_score")
CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"net": "auto", "hidden": (8,), "num_envs": 2}


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    before = list(sys.path)
    sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]
    yield {name: importlib.import_module(name) for name in ("measuring", "training_limits", *SCRIPTS)}
    sys.path[:] = before


@pytest.mark.parametrize("name", SCRIPTS)
def test_arguments(name: str) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, FOLDER / f"{name}.py", *arguments], capture_output=True, text=True)

    asked = run("--help")
    assert (asked.returncode, asked.stderr) == (0, "")
    assert "--minutes" in asked.stdout
    too_long = run("--minutes", "9")
    assert too_long.returncode == 2
    assert "at most 8, got 9" in too_long.stderr
    if not torch.cuda.is_available():
        refused = run()
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr == "error: this benchmark must have a GPU that torch can use, found none\n"


def test_cases_are_gone_on_with(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    measuring = scripts["measuring"]
    calls: list[str] = []

    def cases(*names: str) -> dict[str, Any]:
        return {name: lambda name=name: calls.append(name) or {"value": len(calls)} for name in names}

    def results(seconds: int = 1, **options: Any) -> Any:
        return measuring.Cases("gpu_test", {"seconds": seconds, "pair": (1, 2)}, tmp_path, **options)

    assert not results().measure(cases("a", "b"), lambda: calls == ["a"])
    assert json.loads((tmp_path / "gpu_test.json").read_text())["cases"] == {"a": {"value": 1}}
    second = results()
    assert second.measure(cases("a", "b"), lambda: False)
    assert calls == ["a", "b"]
    assert second.by_name == {"a": {"value": 1}, "b": {"value": 2}}
    for options in ({"seconds": 2}, {"fresh": True}):
        assert results(**options).by_name == {}


def test_time_ends(scripts: dict[str, ModuleType]) -> None:
    assert scripts["measuring"].deadline(0.0)()
    assert not scripts["measuring"].deadline(8.0)()


def test_updates_are_measured(scripts: dict[str, ModuleType]) -> None:
    updates = scripts["updates"]
    frames = InputSpec(shape=(4, 6, 6), dtype="uint8", layout="chw", scale=1 / 255)
    assert set(updates.configs()) > {"dqn", "rainbow", "pqn"}
    for name in ("dqn", "pqn"):
        config = replace(updates.configs()[name], net="cnn", hidden=(8,))
        made = {
            each: updates.update_of(config, "float32", CPU, executor, frames)
            for each, executor in (("eager", EagerExecutor()), ("none", None))
        }
        found = updates.rates(made, CPU, rounds=2, calls=3)
        assert [len(found[each]) for each in made] == [2, 2]
        assert min(map(min, found.values())) > 0
    for settings in ({}, {"prioritized": True, "n_step": 3}):
        rates = updates.sampling(CPU, 2, steps=200, calls=2, **settings)["minibatches_per_s"]
        assert len(rates) == 2
        assert min(rates) > 0


@pytest.mark.parametrize("algorithm", ["dqn", "pqn"])
def test_steps_and_their_limits_are_measured(scripts: dict[str, ModuleType], algorithm: str) -> None:
    limits, env = scripts["training_limits"], "torso/Identity-v0"
    settings = {"min_replay_size": 20, "replay_capacity": 1_000} if algorithm == "dqn" else {"rollout_steps": 16}
    config = limits.timed_config(algorithm, env, CPU, **SMALL, **settings)
    assert config.evaluation_period is None
    parts = limits.parts_of(env, config, CPU)
    found = [
        limits.emulator(env, config, 0.05),
        limits.forward_alone(parts, 0.05),
        limits.training(env, config, CPU, 0.05, settle_updates=4),
        limits.update_alone(parts, 0.05),
    ]
    assert min(each["steps_per_s"] for each in found) > 0
    assert min(each["updates_per_s"] for each in found[2:]) > 0


def test_an_update_is_for_so_many_steps(scripts: dict[str, ModuleType]) -> None:
    of = scripts["training_limits"].steps_per_update
    assert of(DQNConfig(learn_period=4, updates_per_phase=2)) == 2.0
    assert of(PQNConfig(num_envs=32, rollout_steps=32, epochs=2, num_minibatches=4)) == 128.0


def test_a_training_goes_on_until_its_score(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    world = World(env="torso/Identity-v0")
    config = PQNConfig(
        **{**SMALL, "num_envs": 4, "hidden": (32,)},
        device="cpu",
        rollout_steps=16,
        num_minibatches=4,
        learning_rate=5e-3,
        evaluation_period=256,
        evaluation_episodes=5,
        epsilon_decay_steps=500,
        stop_return=7.0,
    )
    calls: list[None] = []

    def soon() -> bool:
        calls.append(None)
        return len(calls) > 100

    run = {"steps": 20_000, "seed": 0, "out": tmp_path / "run"}
    first = scripts["time_to_score"].train_until(world, config, is_over=soon, **run)
    assert first["state"] == "under way"
    assert first["steps_to_goal"] is None
    last = scripts["time_to_score"].train_until(world, config, is_over=lambda: False, **run)
    assert last["state"] == "reached"
    assert last["total_steps"] >= last["steps_to_goal"] > first["total_steps"]
    assert 0 < last["seconds_to_goal"] <= last["seconds"]
    assert last["evaluations"][-1][1] >= 7.0
