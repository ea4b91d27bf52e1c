"""NaN and infinity end a training where they come in, and what was saved before stays."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from torso.agents import DQN, DQNConfig, World, evaluate, train_run
from torso.agents.training.figures import BestNetwork
from torso.cli.terminal.output import print_result
from torso.errors import EnvError
from torso.nets import InputSpec, MLPSpec, NetworkSpec, ScalarHeadSpec, build_network

CONFIG = DQNConfig(
    hidden=(8,),
    batch_size=8,
    min_replay_size=20,
    evaluation_period=None,
    evaluation_episodes=1,
    checkpoint_period=50,
    log_period=25,
)


class Faulty(gym.Env[np.ndarray[Any, Any], np.int64]):
    """From the ``at``-th step on, over episodes of 10 steps, a ``reward``, an observation or a ``reset`` is ``value``.

    Steps are counted over all envs of this class.
    """

    steps = 0

    def __init__(self, what: str, value: str, at: int = 150) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self.what, self.value, self.at = what, float(value), at

    def of(self, what: str, sound: float) -> float:
        return self.value if self.what == what and Faulty.steps >= self.at else sound

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return np.array([0.0, self.of("reset", 1.0)], np.float32), {}

    def step(self, action: np.int64) -> Any:
        Faulty.steps += 1
        self.time += 1
        obs = np.array([0.0, self.of("observation", 1.0)], np.float32)
        return obs, self.of("reward", 1.0), self.time == 10, False, {}


@pytest.fixture(autouse=True)
def counted_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Faulty, "steps", -1)  # but for the one that shows how the env steps


def train(out: Path, what: str, value: str, **settings: Any) -> None:
    world = World(env=Faulty, env_kwargs={"what": what, "value": value})
    train_run(world, replace(CONFIG, **settings), total_steps=400, seed=0, out=out)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("prioritized", [False, True], ids=["even", "prioritized"])
def test_a_reward_that_is_not_finite_is_an_error_of_the_env(tmp_path: Path, value: str, prioritized: bool) -> None:
    with pytest.raises(EnvError) as error:
        train(tmp_path / "run", "reward", value, prioritized=prioritized)
    assert str(error.value).endswith(f":Faulty returned reward {value} at step 150 of env 0, expected a finite number")
    lines = (tmp_path / "run" / "progress.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 125
    assert DQN.load(tmp_path / "run", Faulty).predict([0.0, 1.0]) in (0, 1)  # from the last good checkpoint


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("observation", "an observation with nan at [1] at step 150 of env 0, expected finite numbers"),
        ("reset", "an observation with nan at [1] at step 155 of env 0, expected finite numbers"),
    ],
)
def test_an_observation_that_is_not_finite_is_one_too(tmp_path: Path, what: str, message: str) -> None:
    with pytest.raises(EnvError) as error:
        train(tmp_path / "run", what, "nan", checkpoint_period=145)
    assert str(error.value).endswith(f":Faulty returned {message}")


def test_a_segment_that_begins_with_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(EnvError, match=r"returned an observation with inf at \[1\] at its reset of env 0, expected"):
        train(tmp_path / "run", "reset", "inf", checkpoint_period=150)


def test_evaluations_refuse_it_too() -> None:
    world = World(env=Faulty, env_kwargs={"what": "reward", "value": "nan", "at": 6})
    with pytest.raises(EnvError, match="returned reward nan at step 7 of env 0, expected a finite number"):
        evaluate(lambda obs, state: (np.zeros(len(obs), np.int64), state), world, [0])


def test_nan_never_beats_a_number() -> None:
    spec = NetworkSpec(input=InputSpec(shape=(2,)), torso=MLPSpec(), head=ScalarHeadSpec(num_actions=2))
    network = build_network(spec, torch.Generator().manual_seed(0))
    best = BestNetwork(network)
    taken = [best.challenge(network, mean, step) for step, mean in enumerate([math.nan, 1.0, math.nan, 0.5, 1.0])]
    assert taken == [False, True, False, False, True]
    assert (best.mean, best.step) == (1.0, 4)


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    print_result({"a": math.nan, "b": [1.0, math.inf], "c": {"d": (-math.inf, 2)}}, "", as_json=True)
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [1.0, None], "c": {"d": [None, 2]}}
