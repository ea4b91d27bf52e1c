"""Points of the plane and settings: ready sets, messages, choices, and what is refused."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plane_trainers import trainer_of

from torso.agents.optim.optimizers import OPTIMIZERS
from torso.envs.datasets.toys import load_toy
from torso.errors import ConfigError
from torso.nets.specs.torsos import ACTIVATIONS
from torso.playground.plane.plane_settings import PLANE_OPTIMIZERS, REGULARISATIONS, PlaneSettings
from torso.playground.plane.plane_tab import SPEEDS
from torso.playground.plane.points import (
    EXTENT,
    MOST_POINTS,
    READY_POINTS,
    READY_SETS,
    parse_points,
    ready_set,
)

PAGE = Path(__file__).parents[2] / "playground" / "static" / "index.html"


@pytest.mark.parametrize("name", READY_SETS)
def test_a_ready_set_fills_the_plane(name: str) -> None:
    points = ready_set(name)
    assert len(points) == READY_POINTS
    assert 0.8 * EXTENT < np.abs(points.inputs).max() < EXTENT
    counts = np.bincount(points.labels)
    assert len(counts) == points.num_classes
    assert counts.min() > 0.8 * counts.max()
    again = parse_points(points.packed())
    np.testing.assert_array_equal(again.inputs, points.inputs)
    np.testing.assert_array_equal(again.labels, points.labels)


def test_the_toys_are_torso_s_own() -> None:
    toy = load_toy("spirals")
    points = ready_set("spirals")
    np.testing.assert_allclose(points.inputs, 1.8 * np.asarray(toy.inputs)[:READY_POINTS], atol=1e-4)
    np.testing.assert_array_equal(points.labels, np.asarray(toy.labels)[:READY_POINTS])


COORDINATE = st.floats(-EXTENT, EXTENT, width=32)


@given(st.lists(st.tuples(COORDINATE, COORDINATE, st.integers(0, 2)), max_size=20))
def test_points_survive_a_message(rows: list[tuple[float, float, int]]) -> None:
    points = parse_points(struct.pack(f"<{3 * len(rows)}f", *(value for row in rows for value in row)), 3)
    assert [(float(x), float(y), int(k)) for (x, y), k in zip(points.inputs, points.labels, strict=True)] == rows
    assert parse_points(points.packed()).packed() == points.packed()


@given(st.binary(max_size=60).filter(lambda body: any(body)))
def test_any_other_bytes_are_refused(body: bytes) -> None:
    values = np.frombuffer(body[: len(body) // 12 * 12], "<f4").reshape(-1, 3)
    if len(body) % 12 == 0 and (np.abs(values[:, :2]) <= EXTENT).all() and np.isin(values[:, 2], (0, 1, 2)).all():
        return
    with pytest.raises(ConfigError, match=" must "):
        parse_points(body, 3)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([2.1, 0, 0], r"from -2 to 2 on both axes, got \(2.1, 0\)"),
        ([0, float("nan"), 0], r"got \(0, nan\)"),
        ([0, 0, 4], "class must be one of 0 to 3, got 4"),
        ([0, 0, 0.5], "got 0.5"),
        ([0, 0], "three float32 each"),
        ([0, 0, 0] * (MOST_POINTS + 1), "at most 2000, got 2001"),
    ],
)
def test_bad_points_are_told_in_words(values: list[float], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        parse_points(struct.pack(f"<{len(values)}f", *values))


def test_the_page_offers_what_torso_has() -> None:
    page = PAGE.read_text(encoding="utf-8")

    def options(select: str) -> list[str]:
        inside = page.partition(f'id="{select}"')[2].partition("</select>")[0]
        return re.findall(r'<option value="([^"]+)"', inside)

    assert tuple(options("plane-optimizer")) == PLANE_OPTIMIZERS == OPTIMIZERS
    assert tuple(options("plane-activation")) == ACTIVATIONS
    assert tuple(options("plane-regularisation")) == REGULARISATIONS
    assert tuple(options("plane-speed")) == tuple(SPEEDS)
    assert tuple(re.findall(r'data-set="([^"]+)"', page)) == READY_SETS


@pytest.mark.parametrize("optimizer", PLANE_OPTIMIZERS)
@pytest.mark.parametrize("regularisation", REGULARISATIONS)
def test_every_choice_learns_or_is_refused(optimizer: str, regularisation: str) -> None:
    settings = {"optimizer": optimizer, "regularisation": regularisation, "strength": 0.001, "hidden": (4,)}
    if regularisation == "weight_decay" and optimizer != "adamw":
        with pytest.raises(ConfigError, match="weight decay must go with adamw"):
            PlaneSettings.parse(settings)
        return
    trainer = trainer_of("clouds", **settings)
    before = trainer.snapshot().loss
    assert trainer.advance(60) == 60
    after = trainer.snapshot().loss
    assert after is not None
    assert before is not None
    assert after < before


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"hidden": [33]}, "at most 32"),
        ({"hidden": [1] * 5}, "at most 4 layers, got 5"),
        ({"hidden": [0]}, "at least 1"),
        ({"hidden": 3}, "tuple"),
        ({"activation": "sine"}, "activation must be one of"),
        ({"optimizer": "newton"}, "optimizer must be one of"),
        ({"learning_rate": 0}, "learning_rate must be positive"),
        ({"learning_rate": "0.1"}, "learning_rate must be a finite number"),
        ({"regularisation": "l3"}, "regularisation must be one of"),
        ({"regularisation": "l2", "strength": -1}, "strength must be at least 0"),
        ({"regularisation": "dropout", "strength": 1}, r"lie in \[0, 1\)"),
        ({"regularisation": "dropout", "strength": 0.5, "hidden": []}, "a hidden layer"),
        ({"num_classes": 5}, "at most 4"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
    ],
)
def test_bad_settings_are_told_in_words(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        PlaneSettings.parse(settings)
