"""Scores of groups of runs: estimates over seeds, probabilities of improvement, human-normalised scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np

from torso.arrays import Floats
from torso.envs.games.atari_scores import human_normalized_score
from torso.insight.comparison.run_records import RunGroup, by_env
from torso.insight.metrics.statistics import (
    Scores,
    bootstrap_interval,
    interquartile_mean,
    mean_score,
    median_score,
    optimality_gap,
    probability_of_improvement,
)

WhichNetwork = Literal["best", "last"]
NETWORKS: tuple[WhichNetwork, ...] = ("best", "last")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Value with its 95% stratified bootstrap interval; without one where a single seed leaves nothing to resample."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class SeedScores:
    """Scores of a group's best or last networks: one a seed, their mean and deviation (n in the denominator), IQM."""

    scores: tuple[float, ...]
    mean: float
    std: float
    iqm: Estimate
    human_normalized_mean: float | None
    """Mean of human-normalised scores; None but for the Atari games that have published ones."""


@dataclass(frozen=True, kw_only=True)
class GroupScores:
    """Scores of a group of ended runs."""

    group: RunGroup
    best: SeedScores
    last: SeedScores

    @property
    def steps_text(self) -> str:
        """Env steps of the runs: one number, or from the least to the most."""
        steps = [run.total_steps for run in self.group.runs]
        least, most = min(steps), max(steps)
        return f"{least:,}" if least == most else f"{least:,} to {most:,}"

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON data."""
        runs = self.group.runs
        return {
            "env": self.group.env,
            "env_id": runs[0].env_id,
            "label": self.group.label,
            "algorithm": runs[0].algorithm,
            "runs": [str(run.path) for run in runs],
            "seeds": [run.seed for run in runs],
            "total_steps": [run.total_steps for run in runs],
            "best": asdict(self.best),
            "last": asdict(self.last),
        }


@dataclass(frozen=True, kw_only=True)
class Improvement:
    """Probability that a run of ``first`` scores more than one of ``second``; of several envs, the mean over them."""

    envs: tuple[str, ...]
    first: str
    second: str
    best: Estimate
    last: Estimate


@dataclass(frozen=True, kw_only=True)
class GamesAggregate:
    """Human-normalised scores of one algorithm over several Atari games."""

    label: str
    network: WhichNetwork
    num_games: int
    iqm: Estimate
    median: Estimate
    mean: Estimate
    optimality_gap: Estimate


def seed_scores(group: RunGroup, network: WhichNetwork) -> Floats:
    """Scores of a group's networks, float64 [seeds]. Raises RunError for a run that has none."""
    return np.array([run.best_score if network == "best" else run.last_score for run in group.runs])


def summarise(group: RunGroup, network: WhichNetwork, rng: np.random.Generator) -> SeedScores:
    """Summarise the scores of a group's networks over its seeds. Raises RunError as `seed_scores`."""
    scores = seed_scores(group, network)
    mean = float(scores.mean())
    return SeedScores(
        scores=tuple(scores.tolist()),
        mean=mean,
        std=float(scores.std()),
        iqm=_estimate(interquartile_mean, [scores], rng=rng),
        human_normalized_mean=human_normalized_score(group.runs[0].env_id, mean),
    )


def improvements(groups: Sequence[RunGroup], rng: np.random.Generator) -> list[Improvement]:
    """Compare algorithms in each env, and over all envs that two of them share, where each has at least 2 seeds."""
    several = by_env(group for group in groups if len(group.runs) > 1)
    pairs: dict[tuple[str, str], list[tuple[RunGroup, RunGroup]]] = {}
    for members in several.values():
        for first, second in combinations(members, 2):
            reverse = (second.label, first.label)
            pair = (second, first) if reverse in pairs else (first, second)
            pairs.setdefault((pair[0].label, pair[1].label), []).append(pair)
    found = []
    for compared in pairs.values():
        found += [_improvement([pair], rng) for pair in compared]
        found += [_improvement(compared, rng)] if len(compared) > 1 else []
    return found


def games_of(groups: Sequence[RunGroup]) -> dict[str, list[RunGroup]]:
    """Map each label to its groups in Atari games with published scores, for those that have all games, if several."""
    games = {
        env: {group.label: group for group in members}
        for env, members in by_env(groups).items()
        if human_normalized_score(members[0].runs[0].env_id, 0.0) is not None
    }
    if len(games) < 2:
        return {}
    labels = dict.fromkeys(label for members in games.values() for label in members)
    return {
        label: [members[label] for members in games.values()]
        for label in labels
        if all(label in members for members in games.values())
    }


def human_normalized(groups: Sequence[RunGroup], network: WhichNetwork) -> list[Floats]:
    """Human-normalised scores of groups in Atari games, float64 [seeds] for each."""
    found = []
    for group in groups:
        scores = [human_normalized_score(group.runs[0].env_id, float(each)) for each in seed_scores(group, network)]
        found.append(np.array(scores, np.float64))
    return found


def aggregates(groups: Sequence[RunGroup], rng: np.random.Generator) -> list[GamesAggregate]:
    """Aggregate human-normalised scores over Atari games, for the algorithms that played all of them."""
    return [
        _aggregate(label, members, network, rng) for label, members in games_of(groups).items() for network in NETWORKS
    ]


def _improvement(pairs: Sequence[tuple[RunGroup, RunGroup]], rng: np.random.Generator) -> Improvement:
    best, last = (
        _estimate(
            probability_of_improvement,
            *([seed_scores(pair[side], network) for pair in pairs] for side in (0, 1)),
            rng=rng,
        )
        for network in NETWORKS
    )
    first, second = pairs[0]
    return Improvement(
        envs=tuple(one.env for one, _ in pairs), first=first.label, second=second.label, best=best, last=last
    )


def _aggregate(
    label: str, members: Sequence[RunGroup], network: WhichNetwork, rng: np.random.Generator
) -> GamesAggregate:
    scores = human_normalized(members, network)
    return GamesAggregate(
        label=label,
        network=network,
        num_games=len(members),
        iqm=_estimate(interquartile_mean, scores, rng=rng),
        median=_estimate(median_score, scores, rng=rng),
        mean=_estimate(mean_score, scores, rng=rng),
        optimality_gap=_estimate(optimality_gap, scores, rng=rng),
    )


def _estimate(statistic: Callable[..., Floats], *groups: Scores, rng: np.random.Generator) -> Estimate:
    value = float(statistic(*groups))
    if all(np.size(task) == 1 for group in groups for task in group):
        return Estimate(value=value, low=None, high=None)
    low, high = bootstrap_interval(statistic, *groups, rng=rng)
    return Estimate(value=value, low=float(low), high=float(high))
