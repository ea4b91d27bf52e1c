"""Preset of an algorithm in an env."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torso.agents.presets.of_dqn import DQN_PRESETS
from torso.agents.presets.of_pqn import PQN_PRESETS
from torso.agents.presets.rows import EnvRow, Table
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


_TABLES: dict[type[TrainingConfig], Table] = {DQNConfig: DQN_PRESETS, PQNConfig: PQN_PRESETS}


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


def _row(env_id: str, table: Table) -> EnvRow:
    if ":" not in env_id and not re.search(r"-v\d+$", env_id):  # Gymnasium makes the latest version
        env_id = next((known for known in table.rows if known.rpartition("-v")[0] == env_id), env_id)
    of_games = next((row for prefix, row in table.games.items() if env_id.startswith(prefix)), table.default)
    return table.rows.get(env_id, of_games)
