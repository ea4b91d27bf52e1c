"""Evaluations fit the user's env: how long they are, how many envs they open, and whether there are any."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from torso.agents import DQN, Callback, DQNConfig, World, train_run
from torso.agents.runs.trackers import read_jsonl
from torso.nets import Predictor

CONFIG = DQNConfig(
    hidden=(8,), batch_size=8, min_replay_size=20, evaluation_period=50, evaluation_episodes=3, log_period=50
)


class Endless(gym.Env[np.ndarray[Any, Any], np.int64]):
    """An env whose episodes never end, of which it is counted how many are open at a time."""

    is_open = 0
    most_open = 0

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(0.0, 1.0, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        Endless.is_open += 1
        Endless.most_open = max(Endless.most_open, Endless.is_open)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: np.int64) -> Any:
        return np.ones(2, np.float32), 1.0, False, False, {}

    def close(self) -> None:
        Endless.is_open -= 1


class Long(Endless):
    """An env whose episodes have 70 steps."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.time = 0
        return super().reset(seed=seed)

    def step(self, action: np.int64) -> Any:
        self.time += 1
        return np.ones(2, np.float32), 1.0, self.time == 70, False, {}


def test_the_limit_of_steps_is_a_setting(tmp_path: Path) -> None:
    config = replace(CONFIG, evaluation_max_steps=9)
    trained = train_run(World(env=Endless), config, total_steps=100, seed=0, out=tmp_path / "run")
    assert trained.summary is not None
    assert trained.summary["score"]["returns"] == [9.0] * 3
    assert trained.summary["score"]["num_cut"] == 3
    evaluations = [line for line in read_jsonl(tmp_path / "run" / "progress.jsonl") if "evaluation_length" in line]
    assert {line["evaluation_length"] for line in evaluations} == {9.0}
    assert DQN.load(tmp_path / "run", Endless).evaluate(2).lengths_steps == (9, 9)


@pytest.mark.parametrize("envs", [1, 2])
def test_the_number_of_envs_is_a_setting(monkeypatch: pytest.MonkeyPatch, envs: int) -> None:
    monkeypatch.setattr(Endless, "is_open", 0)
    monkeypatch.setattr(Endless, "most_open", 0)
    config = replace(CONFIG, evaluation_max_steps=5, evaluation_envs=envs)
    DQN(Endless, config=config).learn(60)
    assert Endless.most_open == envs + 1  # and the one that is learnt in


def test_there_may_be_no_evaluation_at_all(tmp_path: Path) -> None:
    config = replace(CONFIG, evaluation_period=None)
    out = tmp_path / "run"
    trained = train_run(World(env=Endless), config, total_steps=100, seed=0, out=out)
    assert trained.summary is not None
    assert trained.summary["score"] is None
    assert not (out / "best").exists()
    assert (out / "model" / "model.onnx").is_file()
    assert (out / "learning_curve.png").is_file()
    assert all("evaluation_return" not in line for line in read_jsonl(out / "progress.jsonl"))
    assert Predictor.load(out).act(np.zeros((1, 2), np.float32))[0][0] in (0, 1)
    again = train_run(World(env=Endless), config, total_steps=160, seed=0, out=out, resume=True)
    assert again.total_steps == 160
    assert json.loads((out / "config.json").read_text())["settings"]["evaluation_period"] is None


def test_long_episodes_end_in_a_constructed_env() -> None:
    """Evaluations, which play in the same env, wait for the end of an episode; before, each cut one after 50 steps."""
    agent = DQN(Long(), config=replace(CONFIG, evaluation_episodes=1, checkpoint_period=10_000))
    lengths, evaluated = [], []

    class Seen(Callback):
        def on_episode(self, episode: Any) -> None:
            lengths.append(episode.length_steps)

        def on_evaluation(self, evaluation: Any) -> None:
            evaluated.append(evaluation.total_steps)

    agent.learn(300, callbacks=[Seen()])
    assert lengths == [70] * 4
    assert evaluated == [70, 140, 210, 280, 300]
