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
from torso.agents.runs.checkpoints import CheckpointStore
from torso.agents.runs.trackers import read_jsonl
from torso.cli.entry import main
from torso.errors import ConfigError, EnvError
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


# -- simulators of which only so many can be open ---------------------------------------------------------------------


class Simulator(gym.Env[np.ndarray[Any, Any], np.int64]):
    """An env of which at most ``most_open`` can be open. Episodes of 7 steps; the reward is the action's."""

    is_open = 0
    most_open = 1
    metadata: dict[str, Any] = {"render_modes": ["human"]}  # noqa: RUF012 - Gymnasium's own convention

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        if Simulator.is_open >= Simulator.most_open:
            raise RuntimeError("the simulator is in use")
        Simulator.is_open += 1
        self.observation_space = gym.spaces.Box(0.0, 9.0, (1,), np.float32)
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: np.int64) -> Any:
        self.time += 1
        return np.array([self.time], np.float32), float(action), self.time == 7, False, {}

    def render(self) -> None:
        pass

    def close(self) -> None:
        Simulator.is_open -= 1


SIMULATOR = "torso-test/Simulator-v0"


@pytest.fixture
def simulator(monkeypatch: pytest.MonkeyPatch) -> type[Simulator]:
    if SIMULATOR not in gym.registry:
        gym.register(SIMULATOR, Simulator)
    for name, value in (("is_open", 0), ("most_open", 1)):
        monkeypatch.setattr(Simulator, name, value)
    return Simulator


@pytest.mark.parametrize("source", [SIMULATOR, Simulator], ids=["id", "class"])
def test_evaluations_may_take_the_place_of_the_training(simulator: type[Simulator], source: Any) -> None:
    config = replace(CONFIG, evaluation_envs=0)
    evaluated = []

    class Seen(Callback):
        def on_evaluation(self, evaluation: Any) -> None:
            evaluated.append(evaluation.total_steps)

    agent = DQN(source, config=config).learn(120, callbacks=[Seen()])
    assert evaluated == [56, 105, 120]  # each at the end of an episode, the last at the training's
    assert agent.evaluate(3).lengths_steps == (7,) * 3
    agent.learn(150)
    assert simulator.is_open == 0
    simulator.most_open = 2
    pair = DQN(source, config=replace(config, num_envs=2)).learn(120)
    assert pair.evaluate(3).lengths_steps == (7,) * 3
    with pytest.raises(EnvError, match="the simulator is in use"):
        DQN(source, config=replace(config, evaluation_envs=2)).learn(120)


@pytest.mark.parametrize("num_envs", [1, 2])
def test_they_resume_with_the_same_bits(tmp_path: Path, simulator: type[Simulator], num_envs: int) -> None:
    class KilledError(Exception):
        pass

    config = replace(CONFIG, evaluation_envs=0, num_envs=num_envs, min_replay_size=40, checkpoint_period=52)
    simulator.most_open = num_envs

    def run(out: Path, until: int, *, resume: bool = False) -> None:
        def on_event(event: Any) -> None:
            if event.total_steps >= until:
                raise KilledError

        world = World(env=SIMULATOR)
        train_run(world, config, total_steps=300, seed=0, out=out, resume=resume, on_event=on_event)

    run(tmp_path / "whole", 1_000)
    with pytest.raises(KilledError):
        run(tmp_path / "killed", 200)
    run(tmp_path / "killed", 1_000, resume=True)
    whole, killed = (CheckpointStore(tmp_path / name / "checkpoint").load() for name in ("whole", "killed"))
    assert whole is not None
    assert killed is not None
    assert killed.state["parts"] == whole.state["parts"]
    assert all((whole.tensors[name] == killed.tensors[name]).all() for name in whole.tensors)
    assert (tmp_path / "whole/progress.jsonl").read_bytes() == (tmp_path / "killed/progress.jsonl").read_bytes()


def test_an_evaluation_that_waits_is_not_lost_in_a_stop(tmp_path: Path, simulator: type[Simulator]) -> None:
    config = replace(CONFIG, evaluation_envs=0)

    class StopAt53(Callback):
        def on_step(self, tick: Any) -> bool:
            return tick.total_steps == 53

    options: dict[str, Any] = {"total_steps": 90, "seed": 0, "out": tmp_path / "run"}
    train_run(World(env=SIMULATOR), config, **options, callbacks=[StopAt53()])
    train_run(World(env=SIMULATOR), config, **options, resume=True)
    lines = read_jsonl(tmp_path / "run" / "progress.jsonl")
    assert [line["step"] for line in lines if "evaluation_return" in line] == [60, 90]


def test_commands_open_as_many_as_the_training(
    tmp_path: Path, simulator: type[Simulator], capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    settings = ["--min-replay-size", "40", "--evaluation-envs", "0", "--evaluation-period", "50"]
    assert main(["train", "dqn", "--env", SIMULATOR, "--steps", "100", *settings, "--out", out, "--json"]) == 0
    assert main(["evaluate", out, "--episodes", "3", "--json"]) == 0
    for options in ([], ["--render"]):
        assert main(["play", "--model", out, "--episodes", "2", "--json", *options]) == 0
    assert simulator.is_open == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["episodes"] == 2


def test_what_would_open_another_env_is_refused(tmp_path: Path, simulator: type[Simulator]) -> None:
    options: dict[str, Any] = {"total_steps": 90, "seed": 0, "out": tmp_path / "run", "video_period": 50}
    with pytest.raises(ConfigError, match="video_period must be 0 with evaluation_envs=0, since a second env would be"):
        train_run(World(env=SIMULATOR), replace(CONFIG, evaluation_envs=0), **options)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="evaluation_envs must be a whole number of at least 0, got -1"):
        DQNConfig(evaluation_envs=-1)
