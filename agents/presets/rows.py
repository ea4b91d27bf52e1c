"""Rows of presets: settings of an env as data, and tables of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class EnvRow:
    """Settings of an env for every algorithm, none of which is part of an algorithm; and the algorithm to recommend.

    ``of_algorithms`` are those for one algorithm, by its name, in their place.
    """

    source: str
    total_steps: int
    settings: Mapping[str, Any]
    of_algorithms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    algorithm: str = "dqn"
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """Rows by env, by the beginning of its id where one is for several games, and for envs without one."""

    rows: Mapping[str, EnvRow]
    games: Mapping[str, EnvRow]
    default: EnvRow
