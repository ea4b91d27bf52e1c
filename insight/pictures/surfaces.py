"""Decision surfaces: predictions and unit drives of a network of two inputs, over the plane."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from torso.arrays import Array
from torso.insight.pictures.canvas import DIVERGING, GREY, INK, class_colour, hide_axes, light_axes, new_figure, save

_SIDE = 240  # points per side
_MAX_LINES = 64


class Plane(NamedTuple):
    """Grid of points over a rectangle.

    ``points``: float32 [side * side, 2], row by row from below; ``extent``: left, right, bottom, top.
    """

    points: Array
    extent: tuple[float, float, float, float]

    def sheet(self, values: Array) -> Array:
        """Reshape values of the points into rows, from below."""
        return values.reshape(_SIDE, _SIDE, *values.shape[1:])


class LabelledPoints(NamedTuple):
    """Test points [N, 2], their labels int64 [N], and the labels that a model predicted [N]."""

    points: Array
    labels: Array
    predicted: Array


def plane_around(inputs: Array, margin: float = 0.12) -> Plane:
    """Build the grid around points [N, 2]; ``margin`` widens each side by a share of the range."""
    low, high = inputs.min(axis=0).astype(np.float64), inputs.max(axis=0).astype(np.float64)
    wider = margin * np.where(high > low, high - low, 1.0)
    low, high = low - wider, high + wider
    across, up = (np.linspace(low[axis], high[axis], _SIDE) for axis in (0, 1))
    points = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2).astype(np.float32)
    return Plane(points, (float(low[0]), float(high[0]), float(low[1]), float(high[1])))


def draw_decision_surface(
    path: Path,
    title: str,
    plane: Plane,
    probabilities: Array,
    scores: Array,
    test: LabelledPoints,
    label_names: Sequence[str],
    feature_names: Sequence[str],
    hidden_drives: Array | None = None,
) -> Path:
    """Draw the plane in the classes' colours, stronger with confidence, white where all classes are equally likely.

    probabilities: [P, K] of the plane's points; scores: [P, K], the largest of which decides, and between which the
    boundary runs (the probabilities themselves, or the readout). Misclassified test points have a ring.
    hidden_drives: [P, H]; a dashed line marks where a hidden unit's drive is 0.
    """
    figure = new_figure(title, 6.6, 5.6)
    axes = light_axes(figure.add_subplot(), grid=False)
    num_classes = probabilities.shape[1]
    _draw_class_regions(axes, plane, probabilities, scores)
    for index in range(num_classes):
        rows = test.labels == index
        style: dict[str, Any] = {"s": 22, "linewidths": 0.6, "zorder": 3}
        axes.scatter(
            *test.points[rows].T, color=class_colour(index), edgecolors="white", label=str(label_names[index]), **style
        )
    wrong = test.predicted != test.labels
    if wrong.any():
        style = {"s": 60, "facecolors": "none", "edgecolors": INK, "linewidths": 1.1, "zorder": 4}
        axes.scatter(*test.points[wrong].T, label=f"wrong: {int(wrong.sum())} of {len(wrong)}", **style)
    if hidden_drives is not None:
        _draw_hidden_unit_lines(axes, plane, hidden_drives)
    axes.set_xlabel(feature_names[0], color=GREY)
    axes.set_ylabel(feature_names[1], color=GREY)
    axes.tick_params(labelsize=8)
    longest = max(len(str(name)) for name in label_names)
    columns = max(1, min(6, num_classes + 2, int(6.4 / (0.6 + 0.075 * longest))))
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    return save(figure, path)


def _draw_class_regions(axes: Axes, plane: Plane, probabilities: Array, scores: Array) -> None:
    num_classes = probabilities.shape[1]
    colours = np.array([to_rgb(class_colour(index)) for index in range(num_classes)])
    best = probabilities.argmax(axis=1)
    confidence = (probabilities.max(axis=1) - 1 / num_classes) / (1 - 1 / num_classes)  # 0 to 1
    strength = 0.55 * confidence[:, np.newaxis]
    shade = plane.sheet((1 - strength) + strength * colours[best])
    axes.imshow(shade, origin="lower", extent=plane.extent, aspect="auto", interpolation="bilinear", zorder=0)
    across, up = _grid_coordinates(plane)
    for index in range(num_classes if num_classes > 2 else 1):
        others = np.delete(scores, index, axis=1).max(axis=1)
        lead = plane.sheet(scores[:, index] - others)
        if lead.min() < 0 < lead.max():
            axes.contour(across, up, lead, levels=[0], colors=INK, linewidths=1.4, zorder=2)


def _draw_hidden_unit_lines(axes: Axes, plane: Plane, drives: Array) -> None:
    across, up = _grid_coordinates(plane)
    drawn = 0
    for unit in range(drives.shape[1]):
        sheet = plane.sheet(drives[:, unit])
        if sheet.min() < 0 < sheet.max() and drawn < _MAX_LINES:
            fraction = min(1.0, 16 / drives.shape[1])
            axes.contour(
                across, up, sheet, levels=[0], colors=GREY, linewidths=0.9, linestyles="--", alpha=0.35 + 0.5 * fraction
            )
            drawn += 1
    if drawn:
        axes.plot([], [], "--", color=GREY, linewidth=0.9, label="a hidden unit's line")


def _grid_coordinates(plane: Plane) -> tuple[Array, Array]:
    left, right, bottom, top = plane.extent
    return np.linspace(left, right, _SIDE), np.linspace(bottom, top, _SIDE)


def draw_unit_surfaces(
    path: Path,
    title: str,
    plane: Plane,
    drives: Array,
    names: Sequence[str],
    tops: Sequence[Array],
    stimuli: Array,
    feature_names: Sequence[str],
) -> Path:
    """Draw a panel for each unit: its drive over the plane, the inputs that excite it most, and its optimal stimulus.

    drives: [P, U] of the plane's points; tops: [k, 2] each; stimuli: [U, 2].
    """
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = new_figure(title, 3.3 * columns + 0.3, 2.9 * rows + 0.85)
    across, up = _grid_coordinates(plane)
    for place, (name, top, stimulus) in enumerate(zip(names, tops, stimuli, strict=True)):
        axes = hide_axes(figure.add_subplot(rows, columns, place + 1))
        sheet = plane.sheet(drives[:, place])
        largest = float(np.abs(sheet).max()) or 1.0
        axes.imshow(
            sheet,
            origin="lower",
            extent=plane.extent,
            aspect="auto",
            cmap=DIVERGING,
            vmin=-largest,
            vmax=largest,
            alpha=0.8,
        )
        if sheet.min() < 0 < sheet.max():
            axes.contour(across, up, sheet, levels=[0], colors=INK, linewidths=1.0)
        axes.scatter(top[:, 0], top[:, 1], s=20, color="white", edgecolors=INK, linewidths=0.7, label="top test inputs")
        axes.plot(
            stimulus[0], stimulus[1], "*", color="#f2c230", markeredgecolor=INK, markersize=13, label="optimal stimulus"
        )
        axes.set_title(f"{name}\nfrom {sheet.min():.2g} to {sheet.max():.2g}", fontsize=9, color=INK)
        axes.set_xlabel(feature_names[0], fontsize=8, color=GREY)
        axes.set_ylabel(feature_names[1], fontsize=8, color=GREY)
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return save(figure, path)
