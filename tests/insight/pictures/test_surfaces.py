"""Decision surfaces and unit surfaces of networks of two inputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from torso.insight.pictures import surfaces
from torso.insight.pictures.canvas import class_colour

Array = NDArray[Any]
RNG = np.random.default_rng(0)


def test_the_plane_reaches_around_its_points() -> None:
    plane = surfaces.plane_around(np.array([[0.0, -1.0], [2.0, 3.0], [1.0, 1.0]]), margin=0.5)
    assert plane.extent == (-1.0, 3.0, -3.0, 5.0)
    assert plane.points.dtype == np.float32
    sheet = plane.sheet(plane.points)
    assert sheet[0, 0].tolist() == [-1.0, -3.0]  # from below
    assert sheet[-1, -1].tolist() == [3.0, 5.0]
    assert sheet[0, -1].tolist() == [3.0, -3.0]
    same = surfaces.plane_around(np.array([[1.0, 5.0], [1.0, 5.0]]))
    assert same.extent[0] < 1.0 < same.extent[1]


def surface(path: Path, boundary: float, num_classes: int = 2, hidden: Array | None = None, axis: int = 0) -> Path:
    """Draw class 1 on the right of ``boundary`` (or above it, on axis 1), in the plane [0, 1] squared."""
    inputs = RNG.random((40, 2))
    inputs[:2] = [[0, 0], [1, 1]]
    plane = surfaces.plane_around(inputs, margin=0.0)
    right = np.clip(0.5 + 50 * (plane.points[:, axis] - boundary), 0, 1)
    probabilities = np.zeros((len(right), num_classes))
    probabilities[:, 0], probabilities[:, 1] = 1 - right, right
    labels = (inputs[:, axis] > 0.5).astype(np.int64)
    names = [str(index) for index in range(num_classes)]
    test = surfaces.LabelledPoints(inputs, labels, (inputs[:, axis] > boundary).astype(np.int64))
    return surfaces.draw_decision_surface(
        path, "t", plane, probabilities, probabilities, test, names, ["x", "y"], hidden
    )


def pale(index: int) -> str:
    """Return a class' colour where its probability is 1."""
    red, green, blue = (0.45 + 0.55 * part for part in to_rgb(class_colour(index)))
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


@pytest.mark.parametrize("num_classes", [2, 4])
def test_a_surface_has_the_colours_of_its_classes(
    tmp_path: Path, num_classes: int, pixels: Callable[[Path], Array], share_of: Callable[..., float]
) -> None:
    few, many = (pixels(surface(tmp_path / f"{x}.png", x, num_classes)) for x in (0.8, 0.2))
    assert share_of(few, pale(0)) > 2 * share_of(few, pale(1)) > 0.05
    assert share_of(many, pale(1)) > 2 * share_of(many, pale(0)) > 0.05
    left = few[:, : few.shape[1] // 2]
    assert share_of(left, pale(1)) == 0


def test_up_is_up(tmp_path: Path, pixels: Callable[[Path], Array], share_of: Callable[..., float]) -> None:
    picture = pixels(surface(tmp_path / "up.png", 0.5, axis=1))
    top, bottom = np.split(picture[: picture.shape[0] // 2 * 2], 2)
    assert share_of(top, pale(1)) > 0.3 > 0.15 > share_of(top, pale(0))
    assert share_of(bottom, pale(0)) > 0.3 > 0.15 > share_of(bottom, pale(1))


def test_hidden_units_are_lines(
    tmp_path: Path, pixels: Callable[[Path], Array], share_of: Callable[..., float]
) -> None:
    plane_points = 240 * 240
    crossing = np.linspace(-1, 1, plane_points)[:, np.newaxis]  # 0 half way up
    without = pixels(surface(tmp_path / "a.png", 0.5))
    silent = pixels(surface(tmp_path / "b.png", 0.5, hidden=np.ones((plane_points, 3))))
    lined = pixels(surface(tmp_path / "c.png", 0.5, hidden=crossing))
    assert without.shape == silent.shape == lined.shape
    assert share_of(lined, "#6b7280", 0.2) > share_of(silent, "#6b7280", 0.2)


def test_units_are_drawn_over_the_plane(tmp_path: Path, pixels: Callable[[Path], Array]) -> None:
    plane = surfaces.plane_around(np.array([[0.0, 0.0], [1.0, 1.0]]))
    drives = np.stack([plane.points[:, 0] - 0.5, np.zeros(len(plane.points))], axis=1)
    path = surfaces.draw_unit_surfaces(
        tmp_path / "u.png",
        "t",
        plane,
        drives,
        ["unit 0", "unit 1"],
        [RNG.random((8, 2))] * 2,
        RNG.random((2, 2)),
        ["x", "y"],
    )
    assert len(np.unique(pixels(path).reshape(-1, 3), axis=0)) > 100
