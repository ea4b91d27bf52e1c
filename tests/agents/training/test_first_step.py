"""Runs that end before their first step leave nothing behind; those that recorded something stay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from torso.agents import DQN, ClassifierConfig, DQNConfig, World, fit_run, train_run
from torso.agents.runs.run_directory import RunDirectory
from torso.envs import load_dataset
from torso.errors import EnvError, RunError

SMALL = DQNConfig(hidden=(8,), min_replay_size=20, log_period=50, evaluation_episodes=1, evaluation_period=None)


class Breaks(gym.Env[Any, Any]):
    """Raises at a step of its life, in every copy but the first, which only probes."""

    made = 0
    at = 1
    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        type(self).made += 1
        self.is_probe, self.steps = self.made == 1, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if self.at == 0 and not self.is_probe:
            raise RuntimeError("boom at the reset")
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        if not self.is_probe and self.steps == self.at:
            raise RuntimeError("boom")
        return np.zeros(2, np.float32), 1.0, False, self.steps % 5 == 0, {}


@pytest.fixture
def breaking_at() -> Callable[[int], Any]:
    def make(step: int) -> Any:
        return type("Breaks", (Breaks,), {"at": step, "made": 0})

    return make


def run_of(env: Any, out: Path, **options: Any) -> Any:
    return train_run(World(env=env), SMALL, total_steps=200, seed=0, out=out, **options)


@pytest.mark.parametrize("step", [0, 1, 2, 40])
def test_an_env_that_raises_before_anything_is_recorded(
    tmp_path: Path, breaking_at: Callable[[int], Any], step: int
) -> None:
    out = tmp_path / "runs" / "one"
    with pytest.raises(EnvError, match="boom"):
        run_of(breaking_at(step), out)
    assert list(tmp_path.iterdir()) == []
    assert run_of("CartPole-v1", out).summary is not None  # the corrected one


def test_what_has_figures_stays(tmp_path: Path, breaking_at: Callable[[int], Any]) -> None:
    with pytest.raises(EnvError, match="boom"):
        run_of(breaking_at(70), tmp_path / "run")
    assert (tmp_path / "run" / "progress.jsonl").read_text().startswith('{"step": 50, ')
    with pytest.raises(RunError, match="already holds a run: add resume=True to continue it, or give another out="):
        run_of("CartPole-v1", tmp_path / "run")


def test_a_run_of_before_and_a_folder_of_before_stay(tmp_path: Path, breaking_at: Callable[[int], Any]) -> None:
    with pytest.raises(EnvError):
        run_of(breaking_at(1), tmp_path)
    assert list(tmp_path.iterdir()) == []  # the folder itself was there
    run_of("CartPole-v1", tmp_path)
    resumed = train_run(World(env="CartPole-v1"), SMALL, total_steps=300, seed=0, out=tmp_path, resume=True)
    assert resumed.total_steps == 300
    with pytest.raises(RunError):
        run_of("CartPole-v1", tmp_path)
    assert RunDirectory.open(tmp_path).settings["total_steps"] == 300


def test_a_fit_that_fails_before_its_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(event: object) -> None:
        raise RuntimeError("boom")

    data = load_dataset("iris")
    with monkeypatch.context() as broken:
        broken.setattr("torso.agents.supervised.fitting.Fitting._step", fail)
        with pytest.raises(RuntimeError, match="boom"):
            fit_run(data, ClassifierConfig(), seed=0, out=tmp_path / "fit")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError, match="boom"):
        fit_run(data, ClassifierConfig(), seed=0, out=tmp_path / "fit", on_event=fail)
    assert (tmp_path / "fit" / "config.json").exists()


def test_an_agent_may_learn_into_another_directory_then(tmp_path: Path, breaking_at: Callable[[int], Any]) -> None:
    broken = breaking_at(1)
    agent = DQN(broken, config=SMALL)
    with pytest.raises(EnvError, match="boom"):
        agent.learn(100, out=tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
    broken.at = -1
    assert agent.learn(100, out=tmp_path / "b").total_steps == 100
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    with pytest.raises(RunError):
        DQN("CartPole-v1", config=SMALL).learn(100, out=tmp_path / "b")  # it holds a run
    other = DQN("CartPole-v1", config=SMALL)
    with pytest.raises(RunError):
        other.learn(100, out=tmp_path / "b")
    assert other.learn(60, out=tmp_path / "c").total_steps == 60


def test_a_warm_start_that_fails_leaves_nothing(tmp_path: Path, breaking_at: Callable[[int], Any]) -> None:
    """It has a checkpoint of step 0, of weights that do not follow from the seed."""
    whole = breaking_at(-1)
    DQN(whole, config=SMALL).learn(60).save(tmp_path / "model")
    with pytest.raises(EnvError, match="boom"):
        DQN.load(tmp_path / "model", breaking_at(1), config=SMALL).learn(100, out=tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
