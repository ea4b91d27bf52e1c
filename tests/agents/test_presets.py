"""Presets: found by algorithm and env, and good for what they promise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from torso.agents.agent import DQN
from torso.agents.dqn import DQNConfig
from torso.agents.presets import ALGORITHMS, preset
from torso.errors import ConfigError


def test_an_env_without_a_preset_gets_the_defaults() -> None:
    assert preset("dqn", "CartPole-v1").config != DQNConfig()
    assert preset("dqn", "CartPole-v1").total_steps == 50_000
    assert preset("dqn", "MountainCar-v0").config == DQNConfig()
    assert all(preset(algorithm, "CartPole-v1").source for algorithm in ALGORITHMS)


def test_an_unknown_algorithm_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown algorithm 'dqm'; known are dqn; did you mean dqn"):
        preset("dqm", "CartPole-v1")
    with pytest.raises(ConfigError, match=r"unknown algorithm 'ppo'; known are dqn$"):
        preset("ppo", "CartPole-v1")


@pytest.mark.parametrize("seed", [0, 1])
def test_cartpole_is_solved_by_its_preset(seed: int) -> None:
    """475 of 500 is solved by the env's own threshold. The training ends once its evaluations say 500."""
    known = preset("dqn", "CartPole-v1")
    agent = DQN("CartPole-v1", config=replace(known.config, stop_return=500.0), seed=seed).learn(known.total_steps)
    assert agent.evaluate(20).mean >= 475
