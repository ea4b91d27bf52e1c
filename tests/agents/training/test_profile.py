"""Profile of a training: its parts make up the whole, and measuring changes no bit."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from torso.agents import DQNConfig, PQNConfig, Training, World
from torso.agents.runs.events import TrainingEvent
from torso.agents.training.profile import PARTS, Profile, profile_table
from torso.agents.value_based.training_config import TrainingConfig
from torso.cli.entry import main

WORLD = World(env="CartPole-v1")
CONFIGS: dict[str, TrainingConfig] = {
    "dqn": DQNConfig(hidden=(16,), min_replay_size=100, evaluation_period=200, log_period=100),
    "pqn": PQNConfig(
        hidden=(16,), num_envs=4, rollout_steps=8, num_minibatches=2, evaluation_period=200, log_period=100
    ),
}


def trained(config: TrainingConfig, *, profiles: bool) -> tuple[Training, list[TrainingEvent]]:
    training = Training(WORLD, config, seed=0, profiles=profiles)
    return training, list(training.run(600))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_parts_make_up_the_whole_and_change_no_bit(config: TrainingConfig) -> None:
    began_s = time.perf_counter()
    measured, events = trained(config, profiles=True)
    wall_s = time.perf_counter() - began_s
    profile = measured.profile
    assert profile is not None
    parts = profile["seconds_by_part"]
    assert list(parts) == [*PARTS, "rest"]
    assert sum(parts.values()) == pytest.approx(profile["seconds"], rel=1e-6)
    assert 0 < profile["seconds"] <= wall_s
    assert measured.profile == profile  # it is over
    assert profile["steps"] == measured.total_steps >= 600
    assert all(seconds > 0 for seconds in parts.values())
    plain, expected = trained(config, profiles=False)
    assert plain.profile is None
    assert [type(event) for event in events] == [type(event) for event in expected]
    for one, two in zip(
        measured.session.learner.online.parameters(), plain.session.learner.online.parameters(), strict=True
    ):
        assert torch.equal(one, two)


def test_a_call_within_a_call_counts_once() -> None:
    profile = Profile(torch.device("cpu"))
    inner = profile.watch("env", lambda: time.sleep(0.02))
    outer = profile.watch("evaluate", inner)
    outer()
    assert profile.seconds["env"] == 0.0
    assert profile.seconds["evaluate"] >= 0.02
    inner()
    assert profile.seconds["env"] >= 0.02


def test_a_call_that_fails_counts_and_fails() -> None:
    profile = Profile(torch.device("cpu"))

    def fail() -> None:
        raise ValueError("it failed")

    with pytest.raises(ValueError, match="it failed"):
        profile.watch("learn", fail)()
    assert profile.seconds["learn"] > 0
    profile.watch("act", lambda: None)()
    assert profile.seconds["act"] > 0


def test_a_later_run_counts_anew() -> None:
    training, _ = trained(CONFIGS["dqn"], profiles=True)
    list(training.run(700))
    assert training.profile is not None
    assert training.profile["steps"] == 100


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_prints_it(as_json: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "pqn", "--env", "CartPole-v1", "--steps", "2000", "--profile", "--out", str(tmp_path / "run")]
    assert main([*words, *(["--json"] if as_json else [])]) == 0
    out, err = capsys.readouterr()
    if as_json:
        profile: dict[str, Any] = json.loads(out)["profile"]
        assert profile["steps"] >= 2_000
        table = profile_table(profile)
    else:
        table = err
    assert "steps/s" in table
    assert all(f"  {part}" in table for part in (*PARTS, "rest"))
