"""Every row of the algorithm table, and every exploration, solves the identity env."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from torso.agents import DQN, PQN, DQNConfig, PQNConfig
from torso.agents.value_based.algorithms import algorithm_names

BASE = DQNConfig(
    hidden=(32,),
    learning_rate=3e-3,
    batch_size=32,
    min_replay_size=100,
    learn_period=2,
    target_update_period=100,
    epsilon_decay_steps=600,
    evaluation_period=400,
    evaluation_episodes=10,
    v_min=0.0,
    v_max=10.0,
    num_atoms=21,
    num_quantiles=16,
    num_fractions=8,
    precision="float32",
)


def learnt(config: DQNConfig) -> float:
    """Mean return after 1,600 steps: 8 at best, 1 for naming each of 8 values out of 4; 2 by chance."""
    return DQN("torso/Identity-v0", config=config, seed=0).learn(1_600).evaluate(20).mean


@pytest.mark.parametrize("algorithm", algorithm_names())
def test_a_row_solves_the_identity_env(algorithm: str) -> None:
    assert learnt(BASE.with_algorithm(algorithm)) >= 0.95 * 8


@pytest.mark.parametrize(
    "settings",
    [
        {"exploration": "ladder", "num_envs": 4},
        {"exploration": "boltzmann", "temperature": 0.1},
        {"noisy": True, "exploration": "noisy"},
        {"noisy": True, "exploration": "epsilon"},
    ],
    ids=["ladder", "boltzmann", "noisy", "noise and epsilon"],
)
def test_an_exploration_solves_the_identity_env(settings: dict[str, Any]) -> None:
    assert learnt(replace(BASE, **settings)) >= 0.95 * 8


def test_pqn_solves_the_identity_env() -> None:
    config = PQNConfig(
        hidden=(32,),
        num_envs=8,
        rollout_steps=8,
        epochs=4,
        num_minibatches=4,
        learning_rate=3e-3,
        epsilon_decay_steps=600,
        evaluation_period=400,
        evaluation_episodes=10,
    )
    assert PQN("torso/Identity-v0", config=config, seed=0).learn(8_000).evaluate(20).mean >= 0.95 * 8
