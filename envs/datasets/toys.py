"""Two-dimensional toy data sets that can be plotted, each hard for one kind of network.

xor: four clouds in the corners of a square, opposite ones of one class; no line divides them (Minsky and Papert 1969).
circles: a ring around another. moons: two interlocking half circles. spirals: two arms of one and three quarter turns
(Lang and Witbrock 1988, in another form).

Each has 1,000 points, half of either class, alternating. They are bit-identical on every machine: numpy guarantees the
stream of ``RandomState``, and rounding to four decimals hides differences between maths libraries.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from torso.envs.datasets.splits import Dataset

NUM_POINTS = 1_000
_DECIMALS = 4
_Floats = npt.NDArray[np.float64]


def _xor(rng: np.random.RandomState, label: npt.NDArray[np.int64]) -> _Floats:
    """Draw around corners (+-1, +-1), deviation 0.25: the signs of a point of class 1 differ."""
    ten = np.arange(len(label)) // 20  # of either class: whole tens in one corner, so that no split leaves a corner out
    first = np.where(ten % 2 == 0, 1.0, -1.0)
    second = np.where(label == 1, -first, first)
    return np.stack([first, second], axis=1) + 0.25 * rng.standard_normal((len(label), 2))


def _circles(rng: np.random.RandomState, label: npt.NDArray[np.int64]) -> _Floats:
    """Draw rings of radius 1 (class 0) and 0.5 (class 1), deviation 0.08."""
    angle = 2 * np.pi * rng.random_sample(len(label))
    radius = np.where(label == 0, 1.0, 0.5)[:, np.newaxis]
    points: _Floats = radius * _on_circle(angle) + 0.08 * rng.standard_normal((len(label), 2))
    return points


def _moons(rng: np.random.RandomState, label: npt.NDArray[np.int64]) -> _Floats:
    """Draw half circles of radius 1, one upside down and moved by (1, 0.5), deviation 0.1; about the origin."""
    arc = _on_circle(np.pi * rng.random_sample(len(label)))
    lower = np.array([1.0, 0.5]) - arc
    points: _Floats = np.where(label[:, np.newaxis] == 0, arc, lower) - np.array([0.5, 0.25])
    return points + 0.1 * rng.standard_normal((len(label), 2))


def _spirals(rng: np.random.RandomState, label: npt.NDArray[np.int64]) -> _Floats:
    """Draw arms from the origin to radius 1, one the other rotated by half a circle, deviation 0.02."""
    share = np.sqrt(rng.random_sample(len(label)))  # of the way out; as dense outside as inside
    angle = 2 * np.pi * 1.75 * share + np.pi * label
    return share[:, np.newaxis] * _on_circle(angle) + 0.02 * rng.standard_normal((len(label), 2))


_DRAW: dict[str, Callable[[np.random.RandomState, npt.NDArray[np.int64]], _Floats]] = {
    "xor": _xor,
    "circles": _circles,
    "moons": _moons,
    "spirals": _spirals,
}
TOY_NAMES = tuple(_DRAW)


def load_toy(name: str) -> Dataset:
    """Generate one of ``TOY_NAMES``: inputs float32 [1000, 2], classes 0 and 1."""
    label = np.arange(NUM_POINTS) % 2
    points = _DRAW[name](np.random.RandomState(0), label)
    return Dataset(
        name=name,
        inputs=np.round(points, _DECIMALS).astype(np.float32),
        labels=label,
        label_names=(0, 1),
        feature_names=("x1", "x2"),
    )


def _on_circle(angle: _Floats) -> _Floats:
    """Points of the unit circle at these angles, [N, 2]."""
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)
