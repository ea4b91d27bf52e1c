"""Presets: tested settings by env, as data, with their sources, and the algorithm to begin with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torso.agents.value_based.algorithms import unknown_algorithm
from torso.agents.value_based.config import DQNConfig
from torso.agents.value_based.families import all_algorithm_names, config_class
from torso.agents.value_based.pqn_config import PQNConfig
from torso.agents.value_based.training_config import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Settings, the number of steps and the env's arguments that they are meant for, and their source."""

    config: TrainingConfig
    """Settings of the algorithm."""
    total_steps: int
    """Number of training steps."""
    source: str
    """Origin of the settings."""
    recommended: str = "dqn"
    """The algorithm to begin with in this env."""
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """The protocol, where the env has several."""


@dataclass(frozen=True, kw_only=True)
class _EnvRow:
    """Settings of an env for every algorithm, none of which is part of an algorithm; and the algorithm to recommend.

    ``of_algorithms`` are those for one algorithm, by its name, in their place.
    """

    source: str
    total_steps: int
    settings: Mapping[str, Any]
    of_algorithms: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: _RAINBOWS)
    algorithm: str = "dqn"
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)


_RAINBOWS: dict[str, dict[str, Any]] = {"rainbow": {"priority_exponent": 0.5}}  # Hessel et al. 2018, table 1
# Few quantiles are enough for four numbers: as RL Baselines3 Zoo's qrdqn.yml has it, and Clark et al. 2024 for implicit
# ones.
_CLASSIC: dict[str, Any] = {"hidden": (256, 256), "gamma": 0.99, "num_quantiles": 25, "num_fractions": 8}
_ADAM_OF_QUANTILES = {"learning_rate": 5e-5, "adam_eps": 0.01 / 32}
_MINATAR = _EnvRow(
    source="Young & Tian 2019, with Adam and 8 envs",
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
_ATARI = _EnvRow(
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
_ROWS: dict[str, _EnvRow] = {
    "CartPole-v1": _EnvRow(
        source="RL Baselines3 Zoo, dqn.yml, CartPole-v1; 8 envs, gamma and rates by torso's own runs",
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
    "LunarLander-v3": _EnvRow(
        source="RL Baselines3 Zoo, dqn.yml, LunarLander-v2; layer norm, gamma and rates by torso's own runs",
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
    "Acrobot-v1": _EnvRow(
        source="RL Baselines3 Zoo, dqn.yml, Acrobot-v1",
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
    "MountainCar-v0": _EnvRow(
        source="RL Baselines3 Zoo, dqn.yml, MountainCar-v0",
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
    "torso/Forager-v0": _EnvRow(
        source="torso's own runs",
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
    "torso/Digits-v0": _EnvRow(
        source="torso's own runs",
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
_OF_AUTHORS = "Gallici et al. 2024"
_PQN_MINATAR = _EnvRow(
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
_PQN_ATARI = _EnvRow(
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
    source=f"{_PQN_ATARI.source}; on Pong fewer",
    total_steps=1_500_000,
    settings={
        **_PQN_ATARI.settings,
        "learning_rate_decay_steps": 1_500_000,
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
_PQN_ROWS: dict[str, _EnvRow] = {
    "ALE/Pong-v5": _PQN_PONG,
    "CartPole-v1": _EnvRow(
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
    "LunarLander-v3": _EnvRow(
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
    "Acrobot-v1": _EnvRow(
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
    "torso/Forager-v0": _EnvRow(
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
_PQN_DEFAULT = _EnvRow(
    source="defaults", algorithm="pqn", total_steps=500_000, settings={"epsilon_decay_steps": 50_000}
)
_DEFAULT = _EnvRow(source="defaults", total_steps=100_000, settings={}, of_algorithms={})


@dataclass(frozen=True)
class _Table:
    """Rows by env, by the beginning of its id where one is for several games, and for envs without one."""

    rows: Mapping[str, _EnvRow]
    games: Mapping[str, _EnvRow]
    default: _EnvRow


_TABLES: dict[type[TrainingConfig], _Table] = {
    DQNConfig: _Table(_ROWS, {"ALE/": _ATARI, "MinAtar/": _MINATAR}, _DEFAULT),
    PQNConfig: _Table(_PQN_ROWS, {"ALE/": _PQN_ATARI, "MinAtar/": _PQN_MINATAR}, _PQN_DEFAULT),
}


def preset(algorithm: str | None, env_id: str) -> Preset:
    """Look up the preset of an env, for an algorithm; None: for the one that it recommends.

    ``env_id`` may name a module before a colon, or lack its version, for the latest one. Atari's games share a row, and
    so do MinAtar's. An env without a preset has the defaults, and recommends dqn. A preset sets rates, sizes and
    budgets, and nothing that the algorithm is made of.

    Raises:
        ConfigError: no such algorithm.
    """
    known = re.sub(r"^[\w.]+:(?=[\w/-]+-v\d+$)", "", env_id)
    if algorithm is not None and algorithm not in all_algorithm_names():
        raise unknown_algorithm(algorithm, all_algorithm_names())
    config = config_class(algorithm)
    row = _row(known, _TABLES[config])
    name = row.algorithm if algorithm is None else algorithm
    return Preset(
        config=config(algorithm=name, **{**row.settings, **row.of_algorithms.get(name, {})}),
        total_steps=row.total_steps,
        source=row.source,
        recommended=_row(known, _TABLES[DQNConfig]).algorithm,
        env_kwargs=dict(row.env_kwargs),
    )


def _row(env_id: str, table: _Table) -> _EnvRow:
    if ":" not in env_id and not re.search(r"-v\d+$", env_id):  # Gymnasium makes the latest version
        env_id = next((known for known in table.rows if known.rpartition("-v")[0] == env_id), env_id)
    of_games = next((row for prefix, row in table.games.items() if env_id.startswith(prefix)), table.default)
    return table.rows.get(env_id, of_games)
