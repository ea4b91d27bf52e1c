"""A suite's folder read: its seeds, what became of them, and their learning curves, also as a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter
from suites import Row, Seed

from torso.agents.runs.trackers import PROGRESS, read_jsonl
from torso.insight.pictures.canvas import GREY, class_colour, light_axes, new_figure, save

Curve = list[tuple[int, float]]  # (step, mean return of an evaluation)
_PANELS_A_ROW = 4


def seeds_of(row: Row, suite: Path) -> list[Seed]:
    """All seeds of a row."""
    return [Seed(row, number, suite) for number in range(row.seeds)]


def figures_of(seed: Seed) -> dict[str, Any] | None:
    """Read the result of a finished seed; None for one that is not."""
    figures: dict[str, Any] | None = json.loads(seed.figures.read_text()) if seed.figures.exists() else None
    return figures


def curve_of(seed: Seed) -> Curve:
    """The evaluations so far."""
    lines = read_jsonl(seed.run / PROGRESS)
    return [(line["step"], line["evaluation_return"]) for line in lines if line.get("evaluation_return") is not None]


def first_at(curve: Curve, threshold: float) -> int | None:
    """The step of the first evaluation whose mean return is the threshold or more."""
    return next((step for step, mean in curve if mean >= threshold), None)


def draw(rows: Sequence[Row], suite: Path, path: Path) -> Path | None:
    """Curves over steps: the mean of the finished seeds in the band from their least to their most; others dotted."""
    panels: dict[str, list[Row]] = {}
    for row in rows:
        if any(curve_of(seed) for seed in seeds_of(row, suite)):
            panels.setdefault(row.panel or row.env, []).append(row)
    if not panels:
        return None
    columns = min(_PANELS_A_ROW, len(panels))
    lines = math.ceil(len(panels) / columns)
    width, height = (7.2, 3.8) if len(panels) == 1 else (3.4 * columns, 2.7 * lines)
    figure = new_figure(None, width, height)
    for index, (name, members) in enumerate(panels.items()):
        axes = light_axes(figure.add_subplot(lines, columns, index + 1))
        axes.set_title(name, fontsize=9 if len(panels) > 1 else 11, color=GREY)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        if index >= len(panels) - columns:
            axes.set_xlabel("step")
        if index % columns == 0:
            axes.set_ylabel("return of an evaluation")
        for place, row in enumerate(members):
            _draw_row(axes, row, suite, class_colour(place))
        if members[0].threshold is not None:
            axes.axhline(members[0].threshold, color=GREY, linestyle="--", linewidth=0.9)  # the threshold
        axes.legend(
            frameon=False, fontsize=7 if len(panels) > 1 else 9, loc="lower right" if len(panels) > 1 else "best"
        )
    several = any(row.seeds > 1 for members in panels.values() for row in members)
    if several and len(panels) > 1:
        title = "mean of the seeds, in the band from the least to the most; dotted: seeds that are not finished"
        figure.suptitle(title, fontsize=10, color=GREY)
    return save(figure, path)


def _draw_row(axes: Axes, row: Row, suite: Path, colour: str) -> None:
    seeds = seeds_of(row, suite)
    finished = [curve_of(seed) for seed in seeds if seed.figures.exists()]
    label = row.line or row.label
    if finished:
        steps = sorted({step for curve in finished for step, _ in curve})
        steps = [step for step in steps if step <= min(curve[-1][0] for curve in finished)]
        means = np.array([np.interp(steps, *zip(*curve, strict=True)) for curve in finished])  # [seeds, steps]
        if len(finished) > 1:
            axes.fill_between(steps, means.min(axis=0), means.max(axis=0), color=colour, alpha=0.15, linewidth=0)
        if row.line:  # where lines share a panel, words are few
            named = label if len(finished) == row.seeds else f"{label}, {len(finished)} of {row.seeds} seeds"
        else:
            band = ", least to most" if len(finished) > 1 else ""
            named = f"{label}: mean of {len(finished)} of {row.seeds} seeds{band}" if row.seeds > 1 else label
        axes.plot(steps, means.mean(axis=0), color=colour, linewidth=1.6, marker=_dot(steps), label=named)
    for seed in seeds:
        curve = [] if seed.figures.exists() else curve_of(seed)
        if curve:
            named = None if row.line else f"{label}: seed {seed.number}, not finished"
            style = {"color": colour, "linewidth": 0.9, "linestyle": ":", "marker": _dot(curve)}
            axes.plot(*zip(*curve, strict=True), label=named, **style)


def _dot(points: Sequence[Any]) -> str:
    """A line of one point is not seen."""
    return "." if len(points) == 1 else ""
