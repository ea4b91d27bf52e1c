"""Presets of DQN and of what is made of it, by env."""

from __future__ import annotations

from typing import Any

from torso.agents.presets.rows import EnvRow, Table

_RAINBOWS: dict[str, dict[str, Any]] = {"rainbow": {"priority_exponent": 0.5}}  # Hessel et al. 2018, table 1
# Few quantiles are enough for four numbers: as RL Baselines3 Zoo's qrdqn.yml has it, and Clark et al. 2024 for implicit
# ones.
_CLASSIC: dict[str, Any] = {"hidden": (256, 256), "gamma": 0.99, "num_quantiles": 25, "num_fractions": 8}
_ADAM_OF_QUANTILES = {"learning_rate": 5e-5, "adam_eps": 0.01 / 32}
_MINATAR = EnvRow(
    source="Young & Tian 2019, with Adam and 8 envs",
    of_algorithms=_RAINBOWS,
    algorithm="n-step",
    total_steps=1_000_000,
    settings={
        "net": "minatar",
        "hidden": (128,),
        "num_envs": 8,
        "learning_rate": 2.5e-4,
        "adam_eps": 3e-4,
        "batch_size": 64,
        "learn_period": 4,
        "v_min": 0.0,  # no reward is below 0
        "v_max": 30.0,  # 0.3 a step for good
        "num_fractions": 8,
        "num_quantiles": 50,
        "replay_capacity": 100_000,
        "min_replay_size": 5_000,
        "target_update_period": 1_000,
        "epsilon_end": 0.02,
        "epsilon_decay_steps": 100_000,
        "evaluation_period": 50_000,
        "log_period": 10_000,
    },
)
_ATARI = EnvRow(
    source="Mnih et al. 2015, with CleanRL's Adam and target period, and a tenth of the steps",
    algorithm="n-step",
    total_steps=1_000_000,
    env_kwargs={"protocol": "dqn2015"},
    settings={
        "net": "nature",
        "hidden": (512,),
        "num_envs": 8,
        "clip_rewards": True,
        "learning_rate": 1e-4,
        "batch_size": 32,
        "learn_period": 4,
        "replay_capacity": 1_000_000,
        "min_replay_size": 20_000,
        "target_update_period": 1_000,
        "epsilon_end": 0.01,
        "epsilon_decay_steps": 100_000,
        "evaluation_period": 50_000,
        "evaluation_episodes": 5,
        "checkpoint_period": None,  # 20,000 steps of each env
        "log_period": 5_000,
    },
    of_algorithms={  # the papers' optimizers and target periods, Dopamine's for Munchausen
        "c51": {"learning_rate": 2.5e-4, "adam_eps": 0.01 / 32, "target_update_period": 10_000},
        "qr-dqn": {**_ADAM_OF_QUANTILES, "target_update_period": 10_000},
        "iqn": {**_ADAM_OF_QUANTILES, "target_update_period": 10_000},
        "munchausen": {**_ADAM_OF_QUANTILES, "target_update_period": 8_000},
        "m-iqn": {**_ADAM_OF_QUANTILES, "target_update_period": 8_000},
        "rainbow": {
            **_RAINBOWS["rainbow"],
            "learning_rate": 6.25e-5,
            "adam_eps": 1.5e-4,
            "target_update_period": 8_000,
        },
    },
)
_ROWS: dict[str, EnvRow] = {
    "CartPole-v1": EnvRow(
        source="RL Baselines3 Zoo, dqn.yml, CartPole-v1; 8 envs, gamma and rates by torso's own runs",
        of_algorithms=_RAINBOWS,
        algorithm="n-step",
        total_steps=50_000,
        settings={
            **_CLASSIC,
            "gamma": 0.995,  # looks far enough to see a slow drift off the track's end
            "v_min": 0.0,
            "v_max": 200.0,  # 1 a step for good
            "num_atoms": 101,
            "num_envs": 8,
            "learning_rate": 1e-3,
            "learning_rate_end": 1e-5,
            "learning_rate_decay_steps": 50_000,
            "batch_size": 64,
            "replay_capacity": 100_000,
            "min_replay_size": 1_000,
            "learn_period": 256,
            "updates_per_phase": 128,
            "target_update_period": 10,
            "epsilon_end": 0.04,
            "epsilon_decay_steps": 8_000,
            "evaluation_period": 5_000,
            "evaluation_episodes": 20,
        },
    ),
    "LunarLander-v3": EnvRow(
        source="RL Baselines3 Zoo, dqn.yml, LunarLander-v2; layer norm, gamma and rates by torso's own runs",
        of_algorithms=_RAINBOWS,
        algorithm="n-step",
        total_steps=100_000,
        settings={
            **_CLASSIC,
            "gamma": 0.995,  # with 0.99 some agents hover for good: the landing is too far away to be worth it
            "v_min": -300.0,
            "v_max": 300.0,
            "num_atoms": 101,
            "layer_norm": True,
            "learning_rate": 5e-4,
            "learning_rate_end": 5e-5,
            "batch_size": 128,
            "replay_capacity": 100_000,
            "min_replay_size": 1_000,
            "learn_period": 4,
            "updates_per_phase": 4,
            "target_update_period": 4,
            "target_update_rate": 0.02,  # a slow target steadied late learning more than any other setting
            "precision": "float32",
            "epsilon_end": 0.05,
            "epsilon_decay_steps": 20_000,
            "evaluation_period": 5_000,
            "evaluation_episodes": 100,
        },
    ),
    "Acrobot-v1": EnvRow(
        source="RL Baselines3 Zoo, dqn.yml, Acrobot-v1",
        of_algorithms=_RAINBOWS,
        total_steps=100_000,
        settings={
            **_CLASSIC,
            "v_min": -100.0,  # -1 a step for good
            "v_max": 0.0,
            "learning_rate": 6.3e-4,
            "batch_size": 128,
            "replay_capacity": 50_000,
            "min_replay_size": 1_000,
            "learn_period": 4,
            "updates_per_phase": 4,
            "target_update_period": 250,
            "epsilon_end": 0.1,
            "epsilon_decay_steps": 12_000,
        },
    ),
    "MountainCar-v0": EnvRow(
        source="RL Baselines3 Zoo, dqn.yml, MountainCar-v0",
        of_algorithms=_RAINBOWS,
        total_steps=120_000,
        settings={
            **_CLASSIC,
            "gamma": 0.98,
            "v_min": -50.0,  # -1 a step for good
            "v_max": 0.0,
            "learning_rate": 4e-3,
            "batch_size": 128,
            "replay_capacity": 10_000,
            "min_replay_size": 1_000,
            "learn_period": 16,
            "updates_per_phase": 8,
            "target_update_period": 600,
            "epsilon_end": 0.07,
            "epsilon_decay_steps": 24_000,
        },
    ),
    "torso/Forager-v0": EnvRow(
        source="torso's own runs",
        of_algorithms=_RAINBOWS,
        total_steps=200_000,
        settings={
            "hidden": (128, 128),
            "num_envs": 8,
            "gamma": 0.97,
            "num_quantiles": 25,
            "num_fractions": 8,
            "learning_rate": 5e-4,
            "batch_size": 64,
            "replay_capacity": 200_000,
            "min_replay_size": 2_000,
            "learn_period": 4,
            "target_update_period": 1_000,
            "epsilon_decay_steps": 50_000,
            "evaluation_period": 20_000,
        },
    ),
    "torso/Digits-v0": EnvRow(
        source="torso's own runs",
        of_algorithms=_RAINBOWS,
        total_steps=10_000,
        settings={
            "net": "cnn",
            "hidden": (128,),
            "gamma": 0.0,
            "v_min": 0.0,
            "v_max": 1.0,
            "num_quantiles": 25,
            "num_fractions": 8,
            "learning_rate": 1e-3,
            "epsilon_decay_steps": 5_000,
        },
    ),
}
_DEFAULT = EnvRow(source="defaults", total_steps=100_000, settings={})

DQN_PRESETS = Table(_ROWS, {"ALE/": _ATARI, "MinAtar/": _MINATAR}, _DEFAULT)
"""Rows of each env and game, and the defaults of the others."""
