"""Reliability diagrams and calibration errors (ECE, Brier score) of a classifier's probabilities."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike

from torso.errors import ConfigError, InputError
from torso.insight.metrics.classification import as_indices, as_probabilities
from torso.insight.pictures.canvas import BLUE, GREEN, GREY, INK, ORANGE, light_axes, new_figure, save

_PALE_ORANGE, _PALE_GREEN = "#f6dccb", "#cfe6d4"


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Calibration of a classifier: its confidence, the probability of its label, against that label's accuracy, by bin.

    ``edges`` bound the bins of confidence, of equal width over [0, 1]; a bin holds its upper edge. ``confidence`` and
    ``accuracy`` are each bin's means, None for a bin without examples. ``ece`` is the expected calibration error: the
    bins' distances between the two, weighted by their ``counts`` (Guo et al. 2017, eq. 3). ``brier`` is the mean over
    examples of the squared error summed over all classes (Brier 1950), from 0 to 2.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    confidence: tuple[float | None, ...]
    accuracy: tuple[float | None, ...]
    ece: float
    brier: float

    def to_json(self) -> dict[str, Any]:
        """Return all figures as JSON-serialisable data, finite numbers or None."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def reliability(probabilities: ArrayLike, labels: ArrayLike, bins: int = 15) -> Reliability:
    """Compare a classifier's confidence with its accuracy, bin by bin.

    probabilities: [N, K], rows sum to 1. labels: int [N] in [0, K). bins: of equal width (Guo et al. 2017 take 15).

    Raises:
        InputError: arrays that do not fit one another, or no examples.
        ConfigError: fewer than 1 bin.
    """
    if not isinstance(bins, int) or isinstance(bins, bool) or bins < 1:
        raise ConfigError(f"bins must be a whole number of at least 1, got {bins!r}")
    truth = as_indices("labels", labels)
    probs = as_probabilities(probabilities, len(truth))
    num_examples, num_classes = probs.shape
    if truth.max() >= num_classes:
        raise InputError("labels", expected=f"classes below {num_classes}", got=str(truth.max()))
    predictions = probs.argmax(axis=1)
    confidence = probs[np.arange(num_examples), predictions]
    edges = np.linspace(0, 1, bins + 1)
    bin_index = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)  # [N]
    counts = np.bincount(bin_index, minlength=bins)
    sum_confidence = np.bincount(bin_index, weights=confidence, minlength=bins)
    sum_right = np.bincount(bin_index, weights=predictions == truth, minlength=bins)
    one_hot = np.eye(num_classes)[truth]
    return Reliability(
        edges=tuple(edges.tolist()),
        counts=tuple(counts.tolist()),
        confidence=tuple(total / n if n else None for total, n in zip(sum_confidence.tolist(), counts, strict=True)),
        accuracy=tuple(total / n if n else None for total, n in zip(sum_right.tolist(), counts, strict=True)),
        ece=float(np.abs(sum_right - sum_confidence).sum() / num_examples),
        brier=float(((probs - one_hot) ** 2).sum(axis=1).mean()),
    )


def plot_reliability(path: str | os.PathLike[str], found: Mapping[str, Reliability]) -> Path:
    """Draw reliability diagrams side by side, each above its histogram of confidences; return the path.

    Raises:
        ConfigError: nothing to draw.
    """
    if not found:
        raise ConfigError("found must hold at least one Reliability, got none")
    figure = new_figure(None, max(4.2 * len(found), 5.0), 5.2)
    grid = figure.add_gridspec(2, len(found), height_ratios=(3, 1))
    most = max(count / sum(each.counts) for each in found.values() for count in each.counts)
    for column, (name, each) in enumerate(found.items()):
        diagram = figure.add_subplot(grid[0, column])
        histogram = figure.add_subplot(grid[1, column], sharex=diagram)
        _draw_diagram(diagram, each)
        diagram.set_title(f"{name}: ECE {each.ece:.2%}", fontsize=11, color=GREY)
        _draw_histogram(histogram, each, most)
        if column == 0:
            diagram.set_ylabel("accuracy")
            histogram.set_ylabel("examples")
    handles = [
        *diagram.get_lines(),
        Patch(facecolor=BLUE, label="accuracy"),
        Patch(facecolor=_PALE_ORANGE, edgecolor=ORANGE, label="gap: too sure"),
        Patch(facecolor=_PALE_GREEN, edgecolor=GREEN, label="gap: not sure enough"),
    ]
    columns = 4 if len(found) > 1 else 2
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    return save(figure, Path(path))


def _draw_diagram(axes: Axes, found: Reliability) -> None:
    """Draw each bin's accuracy as a bar, and its distance from the mean confidence as a second one at the bar's end."""
    filled = [index for index, count in enumerate(found.counts) if count]
    left = np.array([found.edges[index] for index in filled])
    accuracy = np.array([found.accuracy[index] for index in filled], dtype=np.float64)
    confidence = np.array([found.confidence[index] for index in filled], dtype=np.float64)
    style: dict[str, Any] = {"width": found.edges[1], "align": "edge", "linewidth": 0.8}
    axes.bar(left, accuracy, color=BLUE, edgecolor="white", **style)
    overconfident = confidence > accuracy
    for bins, face, edge in ((overconfident, _PALE_ORANGE, ORANGE), (~overconfident, _PALE_GREEN, GREEN)):
        gap = (confidence - accuracy)[bins]
        axes.bar(left[bins], gap, bottom=accuracy[bins], color=face, edgecolor=edge, **style)
    axes.plot([0, 1], [0, 1], "--", color=INK, linewidth=1, label="calibrated")
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.tick_params(labelbottom=False)
    light_axes(axes)


def _draw_histogram(axes: Axes, found: Reliability, most: float) -> None:
    counts = np.array(found.counts)
    shares = counts / counts.sum()
    style: dict[str, Any] = {"width": found.edges[1], "align": "edge", "linewidth": 0.8}
    axes.bar(found.edges[:-1], shares, color=GREY, edgecolor="white", **style)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, most * 1.05)
    axes.set_xlabel("confidence")
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=3))
    light_axes(axes)
