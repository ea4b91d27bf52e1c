"""Presets of PQN, by env."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torso.agents.presets.rows import EnvRow, Table

_OF_AUTHORS = "Gallici et al. 2024"
_PQN_MINATAR = EnvRow(
    source=f"{_OF_AUTHORS}, MinAtar, with half the steps",
    algorithm="pqn",
    total_steps=5_000_000,
    settings={
        "net": "minatar",
        "hidden": (128,),
        "num_envs": 128,
        "rollout_steps": 32,
        "num_minibatches": 32,
        "learning_rate": 5e-4,
        "learning_rate_end": 1e-8,
        "learning_rate_decay_steps": 5_000_000,
        "epsilon_end": 0.05,
        "epsilon_decay_steps": 500_000,
        "evaluation_period": 250_000,
        "log_period": 50_000,
    },
)
# An hour of two cores, and on Pong twelve minutes: Mnih et al. 2013's network is a third of the Nature network's work,
# and minibatches half as large as the authors' learn more from as many steps.
_PQN_ATARI = EnvRow(
    source=f"{_OF_AUTHORS}, Atari, with a quarter of the envs, a fifth of the steps, and Mnih et al. 2013's network",
    algorithm="pqn",
    total_steps=10_000_000,
    env_kwargs={"protocol": "dqn2015"},
    settings={
        "net": "nips",
        "hidden": (256,),
        "num_envs": 32,
        "rollout_steps": 32,
        "num_minibatches": 16,
        "clip_rewards": True,
        "learning_rate": 2.5e-4,
        "learning_rate_end": 1e-5,
        "learning_rate_decay_steps": 10_000_000,
        "epsilon_end": 0.001,
        "epsilon_decay_steps": 1_000_000,
        "evaluation_period": 500_000,
        "evaluation_episodes": 5,
        "log_period": 10_000,
        "num_threads": 2,
        "overlap": True,
    },
)
_PQN_PONG = replace(
    _PQN_ATARI,
    source=f"{_PQN_ATARI.source}; on Pong fewer steps and a lambda by torso's own runs",
    total_steps=1_250_000,
    settings={
        **_PQN_ATARI.settings,
        "trace_decay": 0.85,  # a point is some sixty steps away from what earned it
        "learning_rate_decay_steps": 1_250_000,
        "epsilon_decay_steps": 150_000,
        "evaluation_period": 250_000,
    },
)
_OWN_RUNS = f"{_OF_AUTHORS}, CartPole; rates, envs and sizes by torso's own runs"
_PQN_CLASSIC: dict[str, Any] = {
    "hidden": (256, 256),
    "num_envs": 32,
    "epochs": 4,
    "learning_rate_end": 1e-5,
}
_PQN_ROWS: dict[str, EnvRow] = {
    "ALE/Pong-v5": _PQN_PONG,
    "CartPole-v1": EnvRow(
        source=f"{_OF_AUTHORS}, CartPole, with fewer steps and a rate of torso's own runs",
        algorithm="pqn",
        total_steps=200_000,
        settings={
            **_PQN_CLASSIC,
            "rollout_steps": 64,
            "num_minibatches": 16,
            "trace_decay": 0.95,
            "reward_factor": 0.1,
            "learning_rate": 2.5e-4,
            "learning_rate_decay_steps": 200_000,
            "epsilon_end": 0.2,
            "epsilon_decay_steps": 50_000,
            "evaluation_period": 20_000,
            "log_period": 4_000,
        },
    ),
    "LunarLander-v3": EnvRow(
        source=_OWN_RUNS,
        algorithm="pqn",
        total_steps=400_000,
        settings={
            **_PQN_CLASSIC,
            "gamma": 0.995,
            "rollout_steps": 64,
            "num_minibatches": 32,
            "trace_decay": 0.9,
            "reward_factor": 0.1,
            "learning_rate": 5e-4,
            "learning_rate_decay_steps": 400_000,
            "epsilon_decay_steps": 80_000,
            "evaluation_period": 40_000,
            "log_period": 4_000,
        },
    ),
    "Acrobot-v1": EnvRow(
        source=_OWN_RUNS,
        algorithm="pqn",
        total_steps=200_000,
        settings={
            **_PQN_CLASSIC,
            "trace_decay": 0.95,
            "learning_rate": 5e-4,
            "learning_rate_decay_steps": 200_000,
            "epsilon_decay_steps": 40_000,
            "evaluation_period": 20_000,
            "log_period": 4_000,
        },
    ),
    "torso/Forager-v0": EnvRow(
        source=_OWN_RUNS,
        algorithm="pqn",
        total_steps=300_000,
        settings={
            **_PQN_CLASSIC,
            "gamma": 0.97,
            "learning_rate": 5e-4,
            "learning_rate_decay_steps": 300_000,
            "epsilon_decay_steps": 60_000,
            "evaluation_period": 30_000,
            "log_period": 4_000,
        },
    ),
}
_PQN_DEFAULT = EnvRow(source="defaults", algorithm="pqn", total_steps=500_000, settings={"epsilon_decay_steps": 50_000})

PQN_PRESETS = Table(_PQN_ROWS, {"ALE/": _PQN_ATARI, "MinAtar/": _PQN_MINATAR}, _PQN_DEFAULT)
"""Rows of each env and game, and the defaults of the others."""
