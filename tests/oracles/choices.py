"""Choices of which a value-based algorithm is made: every combination, which ones are legal, and a covering set."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

HEADS = ("scalar", "categorical", "quantile", "implicit-quantile")
NEXT_POLICIES: dict[str, dict[str, Any]] = {
    "greedy, target": {"algorithm": "dqn"},
    "greedy, online": {"algorithm": "double"},
    "softmax": {"algorithm": "munchausen"},
    "softmax, bonus online": {"algorithm": "munchausen", "munchausen_network": "online"},
}
CHOICES: dict[str, Sequence[Any]] = {
    "head": HEADS,
    "dueling": (False, True),
    "noisy": (False, True),
    "next_policy": tuple(NEXT_POLICIES),
    "prioritized": (False, True),
    "n_step": (1, 3),
    "exploration": ("epsilon", "ladder", "noisy", "boltzmann"),
}

Choice = dict[str, Any]


def combinations() -> list[Choice]:
    """Every combination of the choices, legal or not."""
    return [dict(zip(CHOICES, values, strict=True)) for values in itertools.product(*CHOICES.values())]


def is_legal(choice: Mapping[str, Any]) -> bool:
    """Whether a combination can work: where noise alone explores, there has to be some."""
    return bool(choice["noisy"] or choice["exploration"] != "noisy")


def settings_of(choice: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of `DQNConfig` for a combination."""
    rest = {name: value for name, value in choice.items() if name != "next_policy"}
    return {**rest, **NEXT_POLICIES[choice["next_policy"]]}


def described(choice: Mapping[str, Any]) -> str:
    """Short name of a combination."""
    flags = [name for name in ("dueling", "noisy", "prioritized") if choice[name]]
    return "-".join([choice["head"], choice["next_policy"], *flags, str(choice["n_step"]), choice["exploration"]])


def pairwise(legal: Iterable[Choice]) -> list[Choice]:
    """Choose few combinations in which every pair of values that is in some combination is: the greedy covering set."""
    left = list(legal)
    missing = set().union(*(pairs_of(choice) for choice in left))
    chosen: list[Choice] = []
    while missing:
        best = max(left, key=lambda choice: len(pairs_of(choice) & missing))
        chosen.append(best)
        missing -= pairs_of(best)
    return chosen


def pairs_of(choice: Mapping[str, Any]) -> set[tuple[tuple[str, Any], tuple[str, Any]]]:
    """Pairs of values in a combination."""
    return set(itertools.combinations(choice.items(), 2))
