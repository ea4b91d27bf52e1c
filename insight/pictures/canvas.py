"""Matplotlib style of torso's figures: colours, axes, tiles of small pictures, saving as PNG."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogFormatter,
    LogFormatterMathtext,
    LogLocator,
    MaxNLocator,
    NullFormatter,
)

from torso.arrays import Array
from torso.files import atomic_write_bytes

BLUE, ORANGE, GREEN, RED, GREY, INK = "#2f6db3", "#d9722c", "#3a8f4d", "#b3322f", "#6b7280", "#1f2937"
PALE = "#e5e7eb"
# One for each class; the first two are told apart by colour-blind readers too.
CLASS_COLOURS = (BLUE, ORANGE, GREEN, RED, "#7c5cb8", "#8a5a44", "#cf6fa8", "#707a86", "#a8a32c", "#2aa0ad")
DIVERGING, SEQUENTIAL = "RdBu_r", "magma"  # signed values, blue below 0 and red above; values from 0 up

_DPI = 140
_LONGEST_NAME = 40  # characters


def class_colour(index: int) -> str:
    """Return the colour of a class, the same in every picture; colours repeat after ten."""
    return CLASS_COLOURS[index % len(CLASS_COLOURS)]


def new_figure(title: str | None, width_in: float, height_in: float, *, constrained: bool = True) -> Figure:
    """Create a figure with an optional title; ``constrained`` lets the layout make room for the axes' labels."""
    figure = Figure(figsize=(width_in, height_in), dpi=_DPI, layout="constrained" if constrained else None)
    FigureCanvasAgg(figure)
    if title is None:
        return figure
    if constrained:
        wrapped = textwrap.fill(title, max(20, int((width_in - 0.3) / 0.088)))
        figure.suptitle(wrapped, fontsize=11, color=GREY)
    else:
        figure.text(0.5, 1 - 0.12 / height_in, title, fontsize=11, color=GREY, ha="center", va="top")
    return figure


def title_width_in(title: str) -> float:
    """Least width, in inches, of a figure that a title fits into."""
    return 0.5 + 0.088 * len(title)


def light_axes(axes: Axes, *, grid: bool = True) -> Axes:
    """Remove the frame above and to the right of axes, and draw a pale grid; return the axes."""
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(color=PALE, linewidth=0.8)
        axes.set_axisbelow(True)
    return axes


def hide_axes(axes: Axes) -> Axes:
    """Hide ticks and frame of axes, so that only the content is seen; return the axes."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    return axes


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as a PNG, atomically; StorageError where that fails. Its texts are drawn as they are."""
    buffer = io.BytesIO()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if isinstance(axis.get_major_formatter(), LogFormatterMathtext):  # whose labels are formulas
                axis.set_major_formatter(LogFormatter())
            if isinstance(axis.get_minor_formatter(), LogFormatterMathtext):
                axis.set_minor_formatter(LogFormatter())
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with rc_context({"text.parse_math": False}), warnings.catch_warnings():  # for texts that are made while drawing
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(buffer, format="png")
    atomic_write_bytes(path, buffer.getvalue())
    return path


def display_name(name: object, limit: int = _LONGEST_NAME) -> str:
    """Return a user's name as a line for a picture: shortened, without line breaks and other control characters.

    A leading underscore, by which Matplotlib leaves a line out of legends, follows a space.
    """
    text = "".join(character if character.isprintable() else " " for character in str(name))
    text = text if len(text) <= limit else f"{text[: limit - 1]}…"
    return f" {text}" if text.startswith("_") else text


class Tiles:
    """Layout of small pictures and texts on a figure, in inches from the top left corner."""

    def __init__(self, figure: Figure) -> None:
        self.width, self.height = figure.get_size_inches()
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, self.width)
        axes.set_ylim(self.height, 0)
        axes.axis("off")
        self.axes = axes

    def show(
        self,
        picture: Array,
        x: float,
        y: float,
        size: float,
        *,
        caption: str = "",
        colour: str = INK,
        cmap: str = "gray",
        low: float = 0.0,
        high: float = 1.0,
    ) -> None:
        """Draw a picture [H, W] or [H, W, 3] at the top of the square of ``size`` at (x, y), its caption below it."""
        rows, columns = picture.shape[:2]
        width, height = size * min(1, columns / rows), tile_height_in(picture, size)
        left, top = x + (size - width) / 2, y
        extent = (left, left + width, top + height, top)
        values: Array = np.clip(picture, 0, 1) if picture.ndim == 3 else picture
        self.axes.imshow(
            values, cmap=cmap, vmin=low, vmax=high, extent=extent, interpolation="nearest", aspect="auto", zorder=1
        )
        frame = Rectangle((left, top), width, height, fill=False, edgecolor="#9ca3af", linewidth=0.5, zorder=2)
        self.axes.add_patch(frame)
        if caption:
            self.write(caption, x + size / 2, y + height + 0.03, colour=colour)
        self.axes.set_xlim(0, self.width)  # imshow changes the limits
        self.axes.set_ylim(self.height, 0)

    def write(
        self,
        text: str,
        x: float,
        y: float,
        *,
        colour: str = INK,
        size: float = 7.5,
        ha: str = "center",
        va: str = "top",
        weight: str = "normal",
    ) -> None:
        """Write a text at (x, y)."""
        self.axes.text(x, y, text, fontsize=size, color=colour, ha=ha, va=va, weight=weight, linespacing=1.1)


def tile_height_in(picture: Array, size: float) -> float:
    """Height that a picture [H, W] or [H, W, 3] fills of a square of ``size``."""
    return size * min(1.0, int(picture.shape[0]) / int(picture.shape[1]))


def montage(maps: Array, *, gap: int = 1) -> Array:
    """Arrange pictures [N, H, W] in one array, in rows that make it about square, with gaps of NaN between them."""
    count, height, width = maps.shape
    columns = max(1, round(np.sqrt(count * height / width) + 0.4))
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap), np.nan)
    for index, picture in enumerate(maps):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def new_panels(title: str, *, panels: int) -> tuple[Figure, list[Axes]]:
    """Create a figure of one or more plots side by side, each on a pale grid."""
    figure = new_figure(title, 4.8 * panels if panels > 1 else 7.2, 3.6)
    return figure, [light_axes(figure.add_subplot(1, panels, index + 1)) for index in range(panels)]


def save_with_legends(figure: Figure, path: Path) -> Path:
    """Save a figure whose axes have a legend above them wherever a line has a label; returns the path."""
    for axes in figure.axes:
        legend_above(axes)
    return save(figure, path)


def legend_above(axes: Axes) -> None:
    """Put the legend, where a line has a label, above the axes, so that it hides no curve."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)


def short_names(names: Sequence[object], limit: int = 24) -> list[str]:
    """Shorten `display_name`s to so many characters, in the middle; those that become equal are numbered."""
    tail = limit // 3
    texts = [display_name(name, limit=len(str(name))) for name in names]
    short = [text if len(text) <= limit else f"{text[: limit - tail - 1]}…{text[-tail:]}" for text in texts]
    if len(set(short)) == len(short):
        return short
    return [f"{index}: {text}" if short.count(text) > 1 else text for index, text in enumerate(short)]


def whole_number_ticks(axes: Axes, steps: Sequence[int]) -> None:
    """Put the ticks of the x axis on whole numbers, and a single one on a single step."""
    axes.xaxis.set_major_locator(FixedLocator(list(steps)) if len(steps) == 1 else MaxNLocator(integer=True))


def log_scale_y(axes: Axes) -> None:
    """Scale the y axis by the logarithm, its ticks written as plain numbers."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high < 3 * low:  # too few powers of ten and their multiples
        axes.yaxis.set_major_locator(MaxNLocator(5))
    elif high < 100 * low:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
