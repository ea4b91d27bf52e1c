"""Presets: lookup by algorithm and env, and the return that they promise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from torso.agents.presets.lookup import preset
from torso.agents.training.agent import DQN
from torso.agents.value_based.algorithms import algorithm_names
from torso.agents.value_based.config import DQNConfig
from torso.errors import ConfigError

ENVS = ["CartPole-v1", "LunarLander-v3", "Acrobot-v1", "MountainCar-v0", "ALE/Pong-v5", "ALE/Breakout-v5"]
ENVS += [f"MinAtar/{game}-v1" for game in ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")]
ENVS += ["torso/Forager-v0"]


def test_an_env_without_a_preset_gets_the_defaults() -> None:
    assert preset("dqn", "Taxi-v3").config == DQNConfig()
    assert preset("double", "Taxi-v3").config == DQNConfig(algorithm="double")
    assert preset("dqn", "Taxi-v3").source == "defaults"


@pytest.mark.parametrize("env_id", ENVS)
def test_each_env_has_a_preset_for_each_algorithm(env_id: str) -> None:
    for algorithm in algorithm_names():
        known = preset(algorithm, env_id)
        assert known.source not in ("", "defaults")
        assert known.config != preset(algorithm, "Taxi-v3").config
    assert preset("dqn", env_id) == preset("dqn", f"some.module:{env_id}")


def test_an_algorithm_is_what_its_paper_says() -> None:
    def choices(algorithm: str) -> tuple[bool, bool, bool]:
        config = preset(algorithm, "CartPole-v1").config
        return config.double, config.dueling, config.prioritized

    assert [choices(name) for name in ("dqn", "double", "dueling", "prioritized", "n-step")] == [
        (False, False, False),
        (True, False, False),
        (True, True, False),
        (True, False, True),
        (True, False, False),
    ]
    assert preset("n-step", "CartPole-v1").config.n_step == 3


@pytest.mark.parametrize("env_id", ENVS)
def test_a_preset_changes_nothing_that_an_algorithm_is_made_of(env_id: str) -> None:
    for algorithm in algorithm_names():
        assert preset(algorithm, env_id).config.row == DQNConfig(algorithm=algorithm).row
    recommended = preset(None, env_id)
    assert recommended.config == preset(recommended.recommended, env_id).config


def test_recommended_algorithms() -> None:
    recommended = {env_id: preset(None, env_id).config.algorithm for env_id in ENVS}
    assert recommended["CartPole-v1"] == recommended["ALE/Pong-v5"] == "n-step"
    assert recommended["torso/Forager-v0"] == preset(None, "Taxi-v3").config.algorithm == "dqn"


def test_the_support_of_a_categorical_head_holds_an_envs_returns() -> None:
    """Rewards of 1 (or -1) a step for good are worth 1 / (1 - gamma)."""
    for env_id, reward in (("CartPole-v1", 1), ("Acrobot-v1", -1), ("MountainCar-v0", -1)):
        config = preset("c51", env_id).config
        assert config.v_min is not None
        assert config.v_max is not None
        assert config.v_min <= reward / (1 - config.gamma) * (1 - 1e-9) <= config.v_max
        assert config.v_min <= 0 <= config.v_max
    atari = preset("c51", "ALE/Pong-v5").config
    assert (atari.v_min, atari.v_max, atari.clip_rewards) == (None, None, True)  # the head's own: -10 and 10


def test_ataris_presets_have_the_papers_rates() -> None:
    rates = {
        name: (config.learning_rate, config.adam_eps, config.target_update_period)
        for name in algorithm_names()
        for config in [preset(name, "ALE/Breakout-v5").config]
    }
    assert rates["rainbow"] == (6.25e-5, 1.5e-4, 8_000)
    assert rates["c51"] == (2.5e-4, 0.01 / 32, 10_000)
    assert rates["qr-dqn"] == rates["iqn"] == (5e-5, 0.01 / 32, 10_000)
    assert rates["munchausen"] == rates["m-iqn"] == (5e-5, 0.01 / 32, 8_000)
    assert rates["dqn"] == rates["n-step"] == (1e-4, 1e-8, 1_000)
    assert preset("rainbow", "ALE/Breakout-v5").config.priority_exponent == 0.5
    assert preset("prioritized", "ALE/Breakout-v5").config.priority_exponent == 0.6


def test_presets_name_the_protocol_they_follow() -> None:
    assert preset("dqn", "ALE/Pong-v5").env_kwargs == {"protocol": "dqn2015"}
    assert preset("dqn", "CartPole-v1").env_kwargs == {}


def test_an_unknown_algorithm_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown algorithm 'dqm'; known are dqn, .*; did you mean dqn"):
        preset("dqm", "CartPole-v1")
    with pytest.raises(ConfigError, match=r"unknown algorithm 'ppo'; known are dqn, double, .*rainbow, pqn$"):
        preset("ppo", "CartPole-v1")


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_cartpole_is_solved_by_its_preset(seed: int) -> None:
    """475 of 500 is solved by the env's own threshold. The training ends once its evaluations say 500."""
    known = preset(None, "CartPole-v1")
    agent = DQN("CartPole-v1", config=replace(known.config, stop_return=500.0), seed=seed).learn(known.total_steps)
    assert agent.evaluate(20).mean >= 475
