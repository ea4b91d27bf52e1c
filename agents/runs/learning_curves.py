"""Learning-curve plots, drawn from a run's progress.jsonl."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, PercentFormatter

from torso.agents.runs.run_directory import RunDirectory
from torso.agents.runs.trackers import PROGRESS, read_jsonl
from torso.errors import RunError
from torso.insight.pictures.canvas import (
    BLUE,
    GREEN,
    ORANGE,
    log_scale_y,
    new_panels,
    save_with_legends,
    whole_number_ticks,
)

_CURVE = "learning_curve.png"

if TYPE_CHECKING:
    pass

Line = dict[str, Any]


def plot_fit(run: Path | str) -> Path:
    """Draw a fit: loss and validation accuracy (or R²) by epoch, the best epoch marked. Returns the PNG's path."""
    run = Path(run)
    lines = read_jsonl(run / PROGRESS)
    figure, (loss_axes, score_axes) = new_panels(_title(run), panels=2)
    _curve(loss_axes, lines, "loss", color=BLUE, label="training")
    _curve(loss_axes, lines, "validation_loss", color=ORANGE, label="validation")
    if all(line["loss"] > 0 for line in lines):  # a perceptron's may be 0
        log_scale_y(loss_axes)
    regression = any(line.get("validation_r2") is not None for line in lines)
    loss_axes.set_ylabel("squared error (targets' deviations)" if regression else "loss of an example")
    score, name = ("validation_r2", "R²") if regression else ("validation_accuracy", "accuracy")
    _curve(score_axes, lines, score, color=ORANGE)
    score_axes.set_ylabel(f"{name} in validation")
    if not regression:
        low, high = score_axes.get_ylim()
        score_axes.set_ylim(max(low, -0.01), min(high, 1.01))  # of one epoch, they are around its point
        score_axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=None))
    later = [line[score] for line in lines[len(lines) // 8 :] if line.get(score) is not None]
    if later and max(later) > min(
        later
    ):  # the first epochs may fall below the axis: the differences of the last ones matter
        margin = 0.08 * (max(later) - min(later))
        most = 1 + margin / 4  # of accuracy and R²; the line stays whole
        score_axes.set_ylim(min(later) - margin, min(max(later) + margin, most))
    best = [line for line in lines if line.get("is_best") and line.get(score) is not None]
    if best:
        step, best_score = best[-1]["step"], best[-1][score]
        label = f"best: {f'{best_score:.4f}' if regression else f'{best_score:.2%}'} in epoch {step}"
        score_axes.plot([step], [best_score], "o", color=GREEN, zorder=3, label=label)
    for axes in (loss_axes, score_axes):
        axes.set_xlabel("epoch")
        whole_number_ticks(axes, sorted({line["step"] for line in lines}))
    return save_with_legends(figure, run / _CURVE)


def plot_training(run: Path | str) -> Path:
    """Draw a training run: returns of training episodes, and of evaluations with their spread, by step."""
    run = Path(run)
    lines = read_jsonl(run / PROGRESS)
    figure, (axes,) = new_panels(_title(run), panels=1)
    _curve(axes, lines, "episode_return", color=BLUE, label="training episodes, mean of the last 100", alpha=0.7)
    evaluations = [line for line in lines if line.get("evaluation_return") is not None]
    if evaluations:
        steps = [line["step"] for line in evaluations]
        means = [line["evaluation_return"] for line in evaluations]
        bands = [_band(line) for line in evaluations]
        low, high = [band[0] for band in bands], [band[1] for band in bands]
        axes.fill_between(steps, low, high, color=ORANGE, alpha=0.2, linewidth=0)
        axes.plot(steps, means, "o-", color=ORANGE, markersize=3.5, label="greedy evaluation, mean ± deviation")
        best = [line for line in evaluations if line.get("is_best")]
        if best:
            step, mean = best[-1]["step"], best[-1]["evaluation_return"]
            axes.plot([step], [mean], "o", color=GREEN, zorder=3, label=f"best: {mean:,.4g} at step {step:,}")
    axes.set_xlabel("step")
    axes.set_ylabel("return of an episode")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    return save_with_legends(figure, run / _CURVE)


def _band(line: Line) -> tuple[float, float]:
    """Mean return less and plus its deviation, within the least and the most of the evaluation's returns."""
    mean, std = line["evaluation_return"], line.get("evaluation_std") or 0.0
    return max(mean - std, line.get("evaluation_min", -math.inf)), min(mean + std, line.get("evaluation_max", math.inf))


def _title(run: Path) -> str:
    """Plot title: data set or env, net or algorithm, and seed, as recorded in the run; else its directory's name."""
    try:
        config = RunDirectory.open(run).config
    except RunError:
        return run.name
    settings = config["settings"]
    task = settings.get("dataset") or settings.get("env_id")
    method = settings.get("algorithm") or settings.get("net")
    return " · ".join(str(part) for part in (task, method, f"seed {config['seed']}") if part is not None)


def _curve(
    axes: Axes, lines: Sequence[Line], name: str, *, color: str, label: str | None = None, alpha: float = 1.0
) -> None:
    points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
    if points:
        marker = "o" if len(points) == 1 else ""
        axes.plot(*zip(*points, strict=True), color=color, label=label, alpha=alpha, marker=marker)
