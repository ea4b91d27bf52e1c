"""Algorithms of the DQN family by name, defined as settings."""

from __future__ import annotations

from typing import Any

# Settings that define each algorithm; every combination of them is an algorithm too.
ALGORITHM_SETTINGS: dict[str, dict[str, Any]] = {
    "dqn": {},  # Mnih et al. 2015
    "double": {"double": True},  # van Hasselt et al. 2016
    "dueling": {"double": True, "dueling": True},  # Wang et al. 2016
    "prioritized": {"double": True, "prioritized": True},  # Schaul et al. 2016
    "n-step": {"double": True, "n_step": 3},  # Hessel et al. 2018
}
ALGORITHMS = tuple(ALGORITHM_SETTINGS)
