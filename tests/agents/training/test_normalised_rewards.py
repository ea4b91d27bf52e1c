"""Training with normalised rewards: the unit of the env's rewards changes nothing, and a resume no bit."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from torso.agents import DQN, DQNConfig, Training, World, train_run
from torso.agents.runs.checkpoints import CheckpointStore

ALL: dict[str, Any] = {"algorithm": "double", "prioritized": True, "n_step": 3, "num_envs": 2}
CONFIG: dict[str, Any] = {
    "hidden": (16,),
    "batch_size": 8,
    "replay_capacity": 250,
    "min_replay_size": 40,
    "target_update_period": 30,
    "evaluation_period": 90,
    "evaluation_episodes": 2,
    "evaluation_max_steps": 100,
    "checkpoint_period": 120,
    "normalise_rewards": True,
}


def times(factor: float) -> World:
    wrapper = partial(gym.wrappers.TransformReward, func=partial(np.multiply, factor))
    return World(env="CartPole-v1", wrappers=[wrapper])


def weights(world: World, **settings: Any) -> dict[str, torch.Tensor]:
    training = Training(world, DQNConfig(**{**CONFIG, **settings}), seed=0)
    for _ in training.run(400):
        pass
    return training.session.learner.online.state_dict()


@pytest.mark.parametrize("settings", [{}, ALL], ids=["dqn", "all"])
def test_the_unit_of_the_rewards_changes_no_bit(settings: dict[str, Any]) -> None:
    """A power of two, since multiplying by it rounds nothing."""
    one, large, small = (weights(times(factor), **settings) for factor in (1.0, 2.0**10, 2.0**-10))
    assert all(torch.equal(one[name], each[name]) for each in (large, small) for name in one)
    raw = weights(times(2.0**10), **settings, normalise_rewards=False)
    assert not all(torch.equal(one[name], raw[name]) for name in one)


@pytest.mark.parametrize("factor", [1.0, 1_000.0, 0.001])
def test_an_agent_learns_from_rewards_of_any_size_and_reports_them_as_they_are(factor: float) -> None:
    wrapper = partial(gym.wrappers.TransformReward, func=partial(np.multiply, factor))
    agent = DQN(
        "torso/Identity-v0",
        wrappers=[wrapper],
        hidden=(32,),
        normalise_rewards=True,
        learning_rate=3e-3,
        min_replay_size=100,
        learn_period=2,
        target_update_period=100,
        epsilon_decay_steps=800,
        evaluation_period=1_000,
    ).learn(2_000)
    assert agent.evaluate(10).mean == pytest.approx(8.0 * factor)


@pytest.mark.parametrize("settings", [{}, {**ALL, "clip_rewards": True}], ids=["dqn", "all"])
def test_a_killed_run_resumes_with_the_same_bits(tmp_path: Path, settings: dict[str, Any]) -> None:
    class KilledError(Exception):
        pass

    def run(out: Path, until: int, *, resume: bool = False) -> None:
        def on_event(event: Any) -> None:
            if event.total_steps >= until:
                raise KilledError

        config = DQNConfig(**{**CONFIG, **settings})
        world = World(env="LunarLander-v3")  # whose rewards are of all sizes
        train_run(world, config, total_steps=400, seed=5, out=out, resume=resume, on_event=on_event)

    run(tmp_path / "whole", 10_000)
    with pytest.raises(KilledError):
        run(tmp_path / "killed", 200)
    run(tmp_path / "killed", 10_000, resume=True)
    whole, killed = (CheckpointStore(tmp_path / name / "checkpoint").load() for name in ("whole", "killed"))
    assert whole is not None
    assert killed is not None
    assert killed.state["parts"] == whole.state["parts"]
    assert whole.state["parts"]["experience"]["reward_scale"]["count"] >= 400
    assert all(torch.equal(whole.tensors[name], killed.tensors[name]) for name in whole.tensors)
    assert (tmp_path / "whole/progress.jsonl").read_bytes() == (tmp_path / "killed/progress.jsonl").read_bytes()
