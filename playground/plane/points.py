"""Points of the plane: their form in a message, and the ready sets.

The plane is the square from -2 to 2 on both axes. In a message a point is three float32, little-endian: x, y, class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from torso.checks import choice
from torso.errors import ConfigError

EXTENT = 2.0  # of the plane on either side of the origin
MOST_CLASSES = 4
MOST_POINTS = 2_000
READY_POINTS = 240
SHARE_FILLED = 0.97  # of the plane by a ready set; what a cloud throws beyond it is left out
_TOYS = {"xor": 1.15, "circles": 1.5, "moons": 1.15, "spirals": 1.8}  # and the factor that makes them fill the plane
_TRIPLE = np.dtype("<f4")


@dataclass(frozen=True, eq=False)
class PlanePoints:
    """Labelled points. ``inputs``: float32 [N, 2] within the plane; ``labels``: int64 [N]."""

    inputs: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """Smallest number of classes that a network of these points needs, at least 2."""
        return max(2, int(self.labels.max(initial=0)) + 1)

    def packed(self) -> bytes:
        """Pack the points as a message's body."""
        return np.concatenate([self.inputs, self.labels[:, np.newaxis]], axis=1).astype(_TRIPLE).tobytes()


def parse_points(body: bytes, num_classes: int = MOST_CLASSES) -> PlanePoints:
    """Read the points of a message's body.

    Raises:
        ConfigError: bytes that are no points, too many of them, one beyond the plane or of an unknown class.
    """
    if len(body) % (3 * _TRIPLE.itemsize):
        raise ConfigError(f"points must be three float32 each: x, y, class, got {len(body)} bytes")
    rows = np.frombuffer(body, _TRIPLE).reshape(-1, 3).astype(np.float64)  # [N, 3]
    if len(rows) > MOST_POINTS:
        raise ConfigError(f"points must be at most {MOST_POINTS}, got {len(rows)}; erase some")
    inputs, classes = rows[:, :2], rows[:, 2]
    outside = ~(np.abs(inputs) <= EXTENT).all(axis=1)  # not a number is outside, too
    if outside.any():
        x, y = inputs[outside][0]
        raise ConfigError(f"a point must lie from -{EXTENT:g} to {EXTENT:g} on both axes, got ({x:g}, {y:g})")
    unknown = ~np.isin(classes, np.arange(num_classes))
    if unknown.any():
        raise ConfigError(f"a point's class must be one of 0 to {num_classes - 1}, got {classes[unknown][0]:g}")
    return PlanePoints(inputs.astype(np.float32), classes.astype(np.int64))


def ready_set(name: str) -> PlanePoints:
    """Make the ready set of a name, the same on every machine. ConfigError for an unknown one."""
    choice("a ready set", name, READY_SETS)
    if name in _TOYS:
        from torso.envs.datasets.toys import load_toy

        toy = load_toy(name)
        inputs, labels = _TOYS[name] * np.asarray(toy.inputs, dtype=np.float64), np.asarray(toy.labels)
    else:
        inputs, labels = _MADE[name](np.random.RandomState(0))
    inside = (np.abs(inputs) <= SHARE_FILLED * EXTENT).all(axis=1)
    inputs, labels = inputs[inside][:READY_POINTS], labels[inside][:READY_POINTS]
    return PlanePoints(np.round(inputs, 4).astype(np.float32), labels.astype(np.int64))


def _arms(rng: np.random.RandomState) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Draw three arms of one turn each, as the toys' spirals are drawn."""
    labels = np.arange(READY_POINTS) % 3
    share = np.sqrt(rng.random_sample(READY_POINTS))[:, np.newaxis]
    angle = 2 * np.pi * (share[:, 0] + labels / 3)
    arms = share * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return 1.8 * arms + 0.05 * rng.standard_normal((READY_POINTS, 2)), labels


def _clouds(num_classes: int) -> Callable[[np.random.RandomState], tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """Draw a cloud a class, around the corners of a regular polygon."""

    def draw(rng: np.random.RandomState) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        labels = np.arange(2 * READY_POINTS) % num_classes
        angle = 2 * np.pi * labels / num_classes + np.pi / 4
        centres = 1.15 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return centres + 0.33 * rng.standard_normal((len(labels), 2)), labels

    return draw


_MADE = {"clouds": _clouds(2), "three-spirals": _arms, "four-clouds": _clouds(4)}
READY_SETS = ("clouds", *_TOYS, "three-spirals", "four-clouds")
