"""Learning curves of groups of runs: aligned in env steps, with the mean and the spread over seeds, as a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from torso.arrays import Floats
from torso.errors import RunError
from torso.files import make_directory
from torso.insight.comparison.run_records import EVALUATION_RETURN, RunGroup, by_env
from torso.insight.metrics.statistics import sample_efficiency
from torso.insight.pictures.line_panels import Panel, Series, draw_panels, named_steps

Band = Literal["min-max", "std", "none"]
_METRICS = {  # names of figures in pictures, with what they are in
    EVALUATION_RETURN: "return of evaluation episodes",
    "episode_return": "return of training episodes (mean of the last 100)",
    "episode_length": "length of training episodes (steps)",
    "evaluation_length": "length of evaluation episodes (steps)",
    "loss": "loss of an update",
}
_BANDS = {
    "min-max": "mean over seeds; band from the least seed to the greatest",
    "std": "mean over seeds; band of one standard deviation over seeds each way",
    "none": "mean over seeds",
}


def align(curves: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    """Interpolate curves linearly on all of their steps that lie within every one of them.

    curves: (steps [N], values [N]) of each, steps rising. Nothing is extrapolated: the grid begins where the last one
    begins and ends where the shortest ends. Returns steps [S] and values [S, curves]; S is 0 where they share no steps.
    """
    start, end = max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves)
    every = np.unique(np.concatenate([steps for steps, _ in curves]))
    grid = every[(start <= every) & (every <= end)]
    return grid, np.stack([np.interp(grid, steps, values) for steps, values in curves], axis=-1)


def shares_steps(group: RunGroup, metric: str = EVALUATION_RETURN) -> bool:
    """Whether a group's curves have a step in common; those of one evaluation each may not.

    Raises as `RunRecord.curve`.
    """
    return len(align([run.curve(metric) for run in group.runs])[0]) > 0


def group_curves(group: RunGroup, metric: str) -> tuple[Floats, Floats]:
    """Align a figure of a group's runs: steps [S] and values [S, seeds].

    Raises RunError where a run has no such figure, or the runs share no steps.
    """
    curves = [run.curve(metric) for run in group.runs]
    steps, values = align(curves)
    if not len(steps):
        spans = "; ".join(
            f"{run.path} from {each[0]:,.0f} to {each[-1]:,.0f}"
            for run, (each, _) in zip(group.runs, curves, strict=True)
        )
        raise RunError(f"the {metric} of runs must have steps in common, got {spans}; leave one of them out")
    return steps, values


def plot_curves(
    groups: Sequence[RunGroup], path: Path, *, metric: str = EVALUATION_RETURN, band: Band = "min-max"
) -> list[dict[str, Any]]:
    """Plot the mean over the seeds of each group with its spread, a panel for each env, as a PNG.

    Returns what is drawn, a JSON object for each group. Raises RunError as `group_curves`, before anything is written,
    and StorageError.
    """
    return _plot(groups, path, metric, _BANDS[band], lambda values: _mean_and_spread(values, band), band != "none")


def plot_sample_efficiency(groups: Sequence[RunGroup], path: Path, rng: np.random.Generator) -> None:
    """Plot the interquartile mean of evaluation returns over steps, with its 95% bootstrap interval, as a PNG.

    groups: those whose runs share steps. Raises as `plot_curves`.
    """
    title = "interquartile mean over seeds; band of its 95% bootstrap interval"
    _plot(
        groups,
        path,
        EVALUATION_RETURN,
        title,
        lambda values: sample_efficiency([values], rng=rng, resamples=2_000),
        True,
    )


def _plot(
    groups: Sequence[RunGroup],
    path: Path,
    metric: str,
    title: str,
    summarise_seeds: Callable[[Floats], tuple[Floats, Floats, Floats]],
    has_bands: bool,
) -> list[dict[str, Any]]:
    """Plot a line and its band for each group; ``summarise_seeds`` makes [S] of each from values [S, seeds]."""
    panels, drawn = [], []
    for env, members in by_env(groups).items():
        lines = []
        for group in members:
            steps, values = group_curves(group, metric)
            middle, low, high = summarise_seeds(values)
            band = (low, high) if has_bands and len(group.runs) > 1 else None
            lines.append(Series(label=group.label, x=steps, y=middle, band=band, num_seeds=len(group.runs)))
            drawn.append(
                {
                    "env": env,
                    "label": group.label,
                    "runs": [str(run.path) for run in group.runs],
                    "seeds": [run.seed for run in group.runs],
                    "steps": steps.tolist(),
                    "mean": middle.tolist(),
                    "low": low.tolist(),
                    "high": high.tolist(),
                }
            )
        panels.append(Panel(title=env, x_label="env steps", lines=tuple(lines)))
    make_directory(path.parent)
    y_label = _METRICS.get(metric, metric)
    draw_panels(panels, path, title=title, y_label=y_label, x=named_steps)
    return drawn


def _mean_and_spread(values: Floats, band: Band) -> tuple[Floats, Floats, Floats]:
    """Mean over seeds and the edges of its band, each [S], of values [S, seeds]."""
    mean = values.mean(axis=1)
    if band == "min-max":
        return mean, values.min(axis=1), values.max(axis=1)
    deviation = values.std(axis=1) if band == "std" else np.zeros_like(mean)
    return mean, mean - deviation, mean + deviation
