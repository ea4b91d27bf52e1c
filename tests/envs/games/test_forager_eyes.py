from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torso.envs.games.forager_eyes import box_intervals, disc_distances

ANGLES = st.floats(0.01, 359.99).filter(lambda degrees: min(degrees % 90, 90 - degrees % 90) > 1e-3)


def _ray(degrees: float) -> tuple[np.ndarray, np.ndarray]:
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle)]]), np.array([[np.sin(angle)]])


def _to_disc(dx: float, dy: float, degrees: float, radius: float) -> float:
    return float(disc_distances(np.array([[dx]]), np.array([[dy]]), *_ray(degrees), radius)[0, 0, 0])


def _to_box(x: float, y: float, degrees: float, box: tuple[float, ...]) -> tuple[float, float]:
    cos, sin = _ray(degrees)
    begin, end = box_intervals(np.array([x]), np.array([y]), 1 / cos, 1 / sin, np.array([box]).T)
    return float(begin[0, 0, 0]), float(end[0, 0, 0])


@pytest.mark.parametrize("degrees", [0, 37, 90, 180, 251])
def test_a_disc_straight_ahead_is_its_radius_nearer_than_its_centre_and_one_behind_is_not_met(degrees: float):
    cos, sin = _ray(degrees)
    assert _to_disc(5 * cos.item(), 5 * sin.item(), degrees, 2.0) == pytest.approx(3.0, abs=1e-12)
    assert _to_disc(-5 * cos.item(), -5 * sin.item(), degrees, 2.0) == np.inf


def test_beside_the_ray_pythagoras_says_where_a_disc_begins():
    assert _to_disc(10.0, 3.0, 0.0, 5.0) == pytest.approx(10 - 4)  # 3, 4, 5
    assert _to_disc(10.0, -3.0, 0.0, 5.0) == pytest.approx(10 - 4)
    assert _to_disc(10.0, 4.999999, 0.0, 5.0) == pytest.approx(10, abs=0.01)
    assert _to_disc(10.0, 5.000001, 0.0, 5.0) == np.inf
    assert _to_disc(-10.0, 3.0, 0.0, 5.0) == np.inf


@given(dx=st.floats(-9, 9), dy=st.floats(-9, 9), degrees=ANGLES, radius=st.floats(0.1, 3))
def test_discs_begin_at_the_lesser_root_of_their_equation(dx: float, dy: float, degrees: float, radius: float):
    if dx * dx + dy * dy <= radius * radius + 1e-6:
        return  # the origin lies in the disc
    cos, sin = (each.item() for each in _ray(degrees))
    roots = np.roots([1.0, -2 * (cos * dx + sin * dy), dx * dx + dy * dy - radius * radius])
    if abs(roots[0] - roots[1]) < 1e-3:
        return  # a graze, which rounding may decide either way
    met = np.abs(roots.imag).max() == 0 and roots.real.min() > 0
    assert _to_disc(dx, dy, degrees, radius) == (pytest.approx(roots.real.min(), abs=1e-6) if met else np.inf)


@pytest.mark.parametrize("degrees", [0.001, 20, 45, 60, 90.001, 135, 200, 300])
def test_from_a_rooms_middle_its_walls_are_as_far_as_the_cosine_says(degrees: float):
    cos, sin = (each.item() for each in _ray(degrees))
    begin, end = _to_box(24.0, 24.0, degrees, (0.0, 0.0, 48.0, 48.0))
    assert end == pytest.approx(24 / max(abs(cos), abs(sin)))
    assert begin == pytest.approx(-end)


def test_a_box_ahead_beside_and_behind():
    box = (4.0, -1.0, 6.0, 1.0)
    nearly = 1e-9  # not along an axis
    assert _to_box(0, 0, nearly, box) == (pytest.approx(4), pytest.approx(6))
    begin, end = _to_box(0, 3, nearly, box)
    assert begin > end
    begin, end = _to_box(9, 0, nearly, box)
    assert begin < end < 0
    assert _to_box(0, 4 * np.tan(np.deg2rad(30)), -30, box)[0] == pytest.approx(4 / np.cos(np.deg2rad(30)))


@given(x=st.floats(-9, 9), y=st.floats(-9, 9), degrees=ANGLES)
def test_boxes_begin_and_end_where_the_ray_crosses_their_sides(x: float, y: float, degrees: float):
    x_low, y_low, x_high, y_high = box = (-2.0, -1.0, 3.0, 0.5)
    cos, sin = (each.item() for each in _ray(degrees))
    crossings = [(side - x) / cos for side in (x_low, x_high) if y_low <= y + (side - x) / cos * sin <= y_high]
    crossings += [(side - y) / sin for side in (y_low, y_high) if x_low <= x + (side - y) / sin * cos <= x_high]
    begin, end = _to_box(x, y, degrees, box)
    if abs(begin - end) < 1e-6:
        return  # through a corner, which rounding may decide either way
    assert (begin <= end) == bool(crossings)
    if crossings:
        assert (begin, end) == (pytest.approx(min(crossings), abs=1e-9), pytest.approx(max(crossings), abs=1e-9))
