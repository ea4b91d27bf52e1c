"""Panels of lines with bands, one legend below all of them: learning curves and performance profiles over seeds."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from torso.arrays import Floats
from torso.insight.pictures.canvas import GREY, display_name, light_axes, new_figure, save, short_names

# Okabe & Ito 2008: colours that colour-blind readers tell apart, without the yellow, which is too pale for a line.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_Dash = Literal["-", "--", ":", "-."]
_DASHES: tuple[_Dash, ...] = ("-", "--", ":", "-.")
_WIDTH_IN, _HEIGHT_IN = 4.4, 3.3  # of a panel
_CHARACTER_IN = 0.085  # of a title or the legend
_LONGEST_LABEL, _LONGEST_TITLE = 70, 140  # characters


@dataclass(frozen=True, kw_only=True)
class Series:
    """Line of a panel: x and y, each [N], the lower and upper edge of its band, and the seeds that it is a mean of.

    ``num_seeds`` is None where it is a mean of none, and the legend says nothing of them.
    """

    label: str
    x: Floats
    y: Floats
    band: tuple[Floats, Floats] | None = None
    num_seeds: int | None = 1


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Plot of several lines under a title."""

    title: str
    x_label: str
    lines: tuple[Series, ...]


def draw_panels(
    panels: Sequence[Panel],
    path: Path,
    *,
    title: str,
    y_label: str,
    columns: int | None = None,
    x: Callable[[Axes], None] = lambda axes: None,
    y: Callable[[Axes], None] = lambda axes: None,
) -> Path:
    """Draw panels in rows, as a PNG; lines of one label have one colour and dash in all of them. Returns the path.

    ``x`` and ``y`` set the ticks of the axes. Raises StorageError where the file cannot be written.
    """
    columns = min(columns or (2 if len(panels) == 4 else 3), len(panels))
    rows = math.ceil(len(panels) / columns)
    labels = list(dict.fromkeys(line.label for panel in panels for line in panel.lines))
    styles = {label: _style(place) for place, label in enumerate(labels)}
    width = max(7.2, _WIDTH_IN * columns)
    texts = _legend_texts(labels, panels)
    legend_columns = max(1, min(len(labels), int(width / (0.6 + _CHARACTER_IN * max(map(len, texts))))))
    legend_in = 0.2 + 0.19 * math.ceil(len(labels) / legend_columns)
    figure = new_figure(title, width, 0.5 + _HEIGHT_IN * rows + legend_in)
    for place, panel in enumerate(panels):
        axes = light_axes(figure.add_subplot(rows, columns, place + 1))
        name = display_name(panel.title, limit=_LONGEST_TITLE)
        axes.set_title(textwrap.fill(name, int(width / columns / _CHARACTER_IN)), fontsize=10, color=GREY)
        axes.set_xlabel(panel.x_label)
        if place % columns == 0:
            axes.set_ylabel(y_label)
        for line in panel.lines:
            _draw_line(axes, line, *styles[line.label])
        x(axes)
        y(axes)
    handles = [Line2D([], [], color=colour, linestyle=dash, linewidth=1.7) for colour, dash in styles.values()]
    figure.legend(handles, texts, loc="outside lower center", ncols=legend_columns, frameon=False, fontsize=9)
    return save(figure, path)


def named_steps(axes: Axes) -> None:
    """Write the ticks of the x axis as steps: 20k, 1M."""
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _style(place: int) -> tuple[str, _Dash]:
    """Colour and dash of a line: a new dash where the colours begin again."""
    return _COLOURS[place % len(_COLOURS)], _DASHES[place // len(_COLOURS) % len(_DASHES)]


def _draw_line(axes: Axes, line: Series, colour: str, dash: _Dash) -> None:
    if line.band is not None:
        axes.fill_between(line.x, *line.band, color=colour, alpha=0.15, linewidth=0)
    marker = "o" if len(line.x) == 1 else ""
    axes.plot(line.x, line.y, color=colour, linestyle=dash, linewidth=1.7, marker=marker)


def _legend_texts(labels: Sequence[str], panels: Sequence[Panel]) -> list[str]:
    """Labels, shortened, with the number of seeds where lines are of some."""
    texts = []
    for label, short in zip(labels, short_names(labels, limit=_LONGEST_LABEL), strict=True):
        lines = [line for panel in panels for line in panel.lines if line.label == label]
        counts = [line.num_seeds for line in lines if line.num_seeds is not None]
        if not counts:
            texts.append(short)
            continue
        few, many = min(counts), max(counts)
        number = f"{few}" if few == many else f"{few} to {many}"
        texts.append(f"{short} ({number} seed{'' if many == 1 else 's'})")
    return texts
