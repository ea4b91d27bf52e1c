"""Stable-Baselines3's DQN, or SBX's, at RL-Zoo's settings for CartPole-v1; for the peers' own virtual environment."""

from typing import Any

import gymnasium as gym


def cartpole_dqn(peer: str, seed: int) -> Any:
    """Build the model: rl-baselines3-zoo, hyperparams/dqn.yml, CartPole-v1. peer: sb3 or sbx."""
    if peer == "sb3":
        from stable_baselines3 import DQN
    else:
        from sbx import DQN
    return DQN(
        "MlpPolicy",
        gym.make("CartPole-v1"),
        learning_rate=2.3e-3,
        batch_size=64,
        buffer_size=100_000,
        learning_starts=1_000,
        gamma=0.99,
        target_update_interval=10,
        train_freq=256,
        gradient_steps=128,
        exploration_fraction=0.16,
        exploration_final_eps=0.04,
        policy_kwargs={"net_arch": [256, 256]},
        seed=seed,
        verbose=0,
    )
