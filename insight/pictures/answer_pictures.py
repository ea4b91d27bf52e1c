"""Pictures of a model's predictions: confusion matrix with mistakes, adversarial examples, scatter plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from torso.arrays import Array
from torso.insight.pictures.canvas import (
    BLUE,
    DIVERGING,
    GREY,
    INK,
    ORANGE,
    RED,
    Tiles,
    hide_axes,
    legend_above,
    light_axes,
    new_figure,
    save,
    tile_height_in,
    title_width_in,
)

_MAX_CLASSES_WITH_COUNTS = 15  # classes up to which a confusion matrix has its counts written in


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """Misclassified test input. ``picture``: [H, W] or [H, W, 3], or None; ``confidence``: in the predicted label."""

    row: int
    truth: str
    predicted: str
    confidence: float | None
    picture: Array | None

    def __str__(self) -> str:
        return f"{self.truth}, said {self.predicted}" + ("" if self.confidence is None else f" · {self.confidence:.0%}")


def draw_confusion(
    path: Path, title: str, confusion: Array, label_names: Sequence[str], mistakes: Sequence[Mistake]
) -> Path:
    """Draw the confusion matrix, and beside it the mistakes, those of the highest confidence first.

    confusion: int [K, K], how often inputs of the class of a row were labelled as the class of a column.
    """
    num_classes = len(label_names)
    side = min(6.5, max(3.2, 1.4 + 0.36 * num_classes))
    pictured = bool(mistakes) and mistakes[0].picture is not None
    columns, tile = 4, 1.05
    text_in = max((0.085 * len(f"row {mistake.row}: {mistake}") for mistake in mistakes), default=0.0)
    beside = columns * (tile + 0.12) if pictured else max(text_in, 1.6 if mistakes else 0.0)
    rows = -(-len(mistakes) // columns) if pictured else 0
    row_in = 0.36 + (tile if not mistakes or mistakes[0].picture is None else tile_height_in(mistakes[0].picture, tile))
    height = max(side + 0.75, 0.85 + rows * row_in + 0.1)
    width = side + 0.5 + beside + (0.3 if beside else 0)
    width = max(width, title_width_in(title))
    figure = new_figure(title, width, height, constrained=False)
    tiles = Tiles(figure)
    left = _label_margin(label_names)
    inner = side - left + 0.35
    if not mistakes:
        left = (width + left - inner - 0.3) / 2
    axes = figure.add_axes((left / width, (height - 0.5 - inner) / height, inner / width, inner / height))
    _draw_matrix(axes, confusion, label_names)
    x = left + inner + 0.45
    if mistakes:
        tiles.write("the surest mistakes", x, 0.46, colour=GREY, size=9.5, ha="left")
    for place, mistake in enumerate(mistakes):
        if mistake.picture is not None:
            row, column = divmod(place, columns)
            tiles.show(
                mistake.picture,
                x + column * (tile + 0.12),
                0.74 + row * row_in,
                tile,
                caption=str(mistake),
                colour=RED,
            )
        else:
            tiles.write(f"row {mistake.row}: {mistake}", x, 0.76 + 0.2 * place, colour=RED, size=8.5, ha="left")
    return save(figure, path)


def _label_margin(label_names: Sequence[str]) -> float:
    return min(2.0, 0.62 + 0.07 * max(len(name) for name in label_names))


def _draw_matrix(axes: Axes, confusion: Array, label_names: Sequence[str]) -> None:
    """Draw the matrix: errors in red by their share of the row, right predictions in blue."""
    num_classes = len(label_names)
    share = confusion / np.maximum(1, confusion.sum(axis=1, keepdims=True))
    right = np.eye(num_classes, dtype=bool)
    errors = np.where(right, np.nan, share)
    worst = float(np.nanmax(errors)) if num_classes > 1 else 0.0
    hide_axes(axes).imshow(np.where(right, share, np.nan), cmap="Blues", vmin=0, vmax=1.6)
    axes.imshow(np.where(errors > 0, errors, np.nan), cmap="Reds", vmin=0, vmax=max(0.1, 1.8 * worst))
    if num_classes <= _MAX_CLASSES_WITH_COUNTS:
        for (row, column), count in np.ndenumerate(confusion):
            if count:
                axes.text(column, row, f"{count}", ha="center", va="center", fontsize=8, color=INK)
    long = max(len(name) for name in label_names) > 3
    ticks = range(num_classes)
    if num_classes <= 40:
        axes.set_xticks(
            ticks,
            list(label_names),
            fontsize=8,
            rotation=35 if long else 0,
            ha="right" if long else "center",
            rotation_mode="anchor" if long else "default",
        )
        axes.set_yticks(ticks, list(label_names), fontsize=8)
    axes.set_xticks(np.arange(num_classes + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(num_classes + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#eef0f3", linewidth=0.7)
    axes.tick_params(which="both", length=0)
    axes.set_xlabel("said", color=GREY)
    axes.set_ylabel("truth", color=GREY)


# -- attacks -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Attack:
    """Adversarial example: input, perturbation (in widths of the input's range) and their sum, with the predictions."""

    original: Array
    perturbation: Array
    adversarial: Array
    predicted_before: str
    predicted_after: str


def draw_adversarial(
    path: Path,
    title: str,
    accuracy: Mapping[float, float],
    majority_share: float,
    attacks: Sequence[Attack],
    shown_epsilon: float | None,
) -> Path:
    """Draw the accuracy by the size of the perturbation, and some inputs before and after.

    accuracy: by epsilon. majority_share: the share of the most frequent class.
    """
    tile, rows = 1.05, len(attacks)
    curve_in = 4.6
    row_in = 0.3 + (tile_height_in(attacks[0].original, tile) if attacks else 0.0)
    height = max(3.6, 1.0 + rows * row_in)
    width = curve_in + 0.55 + 3 * tile + 2 * 0.42 if attacks else max(curve_in + 0.2, title_width_in(title))
    figure = new_figure(title, width, height, constrained=False)
    tiles = Tiles(figure)
    axes = light_axes(figure.add_axes((0.8 / width, 0.62 / height, (curve_in - 0.95) / width, (height - 1.2) / height)))
    epsilons = list(accuracy)
    axes.plot(epsilons, list(accuracy.values()), "o-", color=BLUE, markersize=4, clip_on=False, zorder=3)
    axes.axhline(majority_share, color=GREY, linestyle=":", linewidth=1.2, label="always the commonest class")
    if shown_epsilon is not None:
        axes.plot(
            [shown_epsilon],
            [accuracy[shown_epsilon]],
            "o",
            color=ORANGE,
            markersize=7,
            label="shown here",
            clip_on=False,
            zorder=4,
        )
    axes.set_ylim(0, 1)
    axes.set_xlim(0, max(epsilons) or 1)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("epsilon, as a share of the input's range")
    axes.set_ylabel("test accuracy")
    legend_above(axes)
    _draw_attacks(tiles, attacks, curve_in + 0.35, tile, shown_epsilon)
    return save(figure, path)


def _draw_attacks(tiles: Tiles, attacks: Sequence[Attack], left: float, tile: float, epsilon: float | None) -> None:
    if not attacks:
        return
    step, tall = tile + 0.42, tile_height_in(attacks[0].original, tile)
    for column, name in enumerate(("original", f"perturbation {epsilon:g}", "adversarial")):
        tiles.write(name, left + column * step + tile / 2, 0.66, colour=GREY, size=8.5, va="baseline")
    for row, attack in enumerate(attacks):
        y = 0.72 + row * (tall + 0.3)
        tiles.show(attack.original, left, y, tile, caption=attack.predicted_before, colour=BLUE)
        signed = attack.perturbation.ndim == 2
        tiles.show(
            attack.perturbation if signed else 0.5 + attack.perturbation / 2,
            left + step,
            y,
            tile,
            cmap=DIVERGING,
            low=-1.6,
            high=1.6,
        )
        tiles.show(attack.adversarial, left + 2 * step, y, tile, caption=attack.predicted_after, colour=RED)
        for sign, x in (("+", left + step - 0.21), ("=", left + 2 * step - 0.21)):
            tiles.write(sign, x, y + tall / 2, size=12, colour=GREY, va="center")


# -- regression --------------------------------------------------------------------------------------------------------


def draw_scatter(
    path: Path,
    title: str,
    predicted: Array,
    targets: Array,
    names: Sequence[str],
    r2: Sequence[float | None],
) -> Path:
    """Draw predictions against the truth, one panel per target, with the diagonal. predicted, targets: [N, K]."""
    count = min(6, len(names))
    columns = min(3, count)
    rows = -(-count // columns)
    figure = new_figure(title, max(4.4, 3.7 * columns), 3.6 * rows + 0.4)
    for place in range(count):
        axes = light_axes(figure.add_subplot(rows, columns, place + 1))
        truth, prediction = targets[:, place], predicted[:, place]
        ends = [float(min(truth.min(), prediction.min())), float(max(truth.max(), prediction.max()))]
        axes.plot(ends, ends, "--", color=GREY, linewidth=1)
        axes.scatter(truth, prediction, s=14, color=BLUE, alpha=0.6, linewidths=0)
        share = r2[place]
        axes.set_title(names[place] + ("" if share is None else f" · R² {share:.3f}"), fontsize=9.5, color=INK)
        axes.set_xlabel("truth", color=GREY)
        axes.set_ylabel("predicted", color=GREY)
        axes.set_aspect("equal", adjustable="datalim")
    return save(figure, path)
