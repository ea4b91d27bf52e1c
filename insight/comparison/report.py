"""Report of training runs: tables of scores over seeds as Markdown, with performance profiles and learning curves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from torso.arrays import Floats
from torso.files import atomic_write_bytes, make_directory
from torso.insight.comparison.curves import plot_sample_efficiency, shares_steps
from torso.insight.comparison.markdown import report_text
from torso.insight.comparison.run_records import RunGroup, RunRecord, by_env, group_runs
from torso.insight.comparison.scores import (
    NETWORKS,
    GroupScores,
    aggregates,
    games_of,
    human_normalized,
    improvements,
    seed_scores,
    summarise,
)
from torso.insight.metrics.statistics import bootstrap_interval, performance_profile
from torso.insight.pictures.line_panels import Panel, Series, draw_panels

REPORT, PROFILES, CURVES = "report.md", "profiles.png", "curves.png"
_NUM_THRESHOLDS = 201


def write_report(runs: Sequence[RunRecord], out: Path, *, seed: int = 0) -> dict[str, Any]:
    """Write report.md, profiles.png and curves.png into a directory; return their paths and the figures as JSON data.

    runs: ended ones, with evaluations. seed: of the bootstrap.

    Raises:
        RunError: runs that have not ended or have no evaluations, two of one seed; nothing was written.
        StorageError: the directory could not be written.
    """
    groups, rng = group_runs(runs), np.random.default_rng(seed)
    rows = [
        GroupScores(group=group, best=summarise(group, "best", rng), last=summarise(group, "last", rng))
        for group in groups
    ]
    compared, over_games = improvements(groups, rng), aggregates(groups, rng)
    versions = count_versions(runs)
    with_curves = [group for group in groups if shares_steps(group)]
    apart = [group for group in groups if not shares_steps(group)]
    text = report_text(rows, compared, over_games, versions, apart, profiles=PROFILES, curves=CURVES)
    files = {"report": REPORT, "profiles": PROFILES, **({"curves": CURVES} if with_curves else {})}
    make_directory(out)
    _plot_profiles(groups, out / PROFILES, rng)
    if with_curves:
        plot_sample_efficiency(with_curves, out / CURVES, rng)
    atomic_write_bytes(out / REPORT, text.encode())
    return {
        "files": {name: str(out / file) for name, file in files.items()},
        "rows": [row.to_json() for row in rows],
        "improvements": [asdict(each) for each in compared],
        "games": [asdict(each) for each in over_games],
        "versions": {name: dict(counts) for name, counts in versions.items()},
    }


def count_versions(runs: Sequence[RunRecord]) -> dict[str, Counter[str]]:
    """Count the runs of each version of each package that they record."""
    counts: dict[str, Counter[str]] = {}
    for run in runs:
        for name, version in run.versions.items():
            counts.setdefault(name, Counter())[version] += 1
    return counts


def _plot_profiles(groups: Sequence[RunGroup], path: Path, rng: np.random.Generator) -> None:
    """Plot the share of runs above each score: a row of panels for each env, its best networks beside its last ones."""
    panels = []
    for env, members in by_env(groups).items():
        scores = {network: [[seed_scores(group, network)] for group in members] for network in NETWORKS}
        panels += _profile_panels(env, "return τ", members, scores, rng)
    if games := games_of(groups):
        members = [each[0] for each in games.values()]
        normalized = {network: [human_normalized(each, network) for each in games.values()] for network in NETWORKS}
        num_games = len(next(iter(games.values())))
        panels += _profile_panels(f"{num_games} Atari games", "human-normalised score τ", members, normalized, rng)
    draw_panels(
        panels,
        path,
        title="performance profiles; band of the 95% bootstrap interval",
        y_label="runs above τ",
        columns=2,
        y=_percent,
    )


def _profile_panels(
    title: str,
    x_label: str,
    members: Sequence[RunGroup],
    scores: dict[Any, list[list[Floats]]],
    rng: np.random.Generator,
) -> list[Panel]:
    """Two panels of the same thresholds, of the best and of the last networks; scores: of each group, by task."""
    every = np.concatenate([task for each in scores.values() for tasks in each for task in tasks])
    margin = 0.05 * float(np.ptp(every)) or 1.0
    thresholds = np.linspace(every.min() - margin, every.max() + margin, _NUM_THRESHOLDS)

    def profile(tasks: Sequence[Floats]) -> Floats:
        return performance_profile(tasks, thresholds)

    panels = []
    for network, of_groups in scores.items():
        lines = []
        for group, tasks in zip(members, of_groups, strict=True):
            several = any(len(task) > 1 for task in tasks)
            band = bootstrap_interval(profile, tasks, rng=rng, resamples=2_000) if several else None
            lines.append(
                Series(label=group.label, x=thresholds, y=profile(tasks), band=band, num_seeds=len(group.runs))
            )
        panels.append(Panel(title=title, x_label=f"{x_label} of the {network} network", lines=tuple(lines)))
    return panels


def _percent(axes: Axes) -> None:
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
