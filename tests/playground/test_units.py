"""Units: their weights, the images that excite them most, their optimal stimulus."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from torso.envs import load_dataset
from torso.errors import ConfigError, InputError
from torso.insight.units.layers import layers, top_inputs, unit_drives, unit_weights
from torso.nets import (
    InputSpec,
    LogitsHeadSpec,
    MLPSpec,
    NetworkSpec,
    build_network,
    load_model,
)
from torso.playground.config import DIGITS
from torso.playground.draw.drawing import UnitQuestion, parse_question
from torso.playground.draw.network_views import NetworkViews
from torso.playground.draw.unit_views import MOST_IMAGES, NUM_TOP, UnitViews
from torso.playground.messages import TabMessage


@pytest.fixture(scope="module")
def units() -> UnitViews:
    return UnitViews(NetworkViews({"digits": DIGITS}))


@pytest.mark.parametrize(("layer", "unit"), [("conv1", 3), ("pool1", 3), ("conv2", 31), ("dense1", 0), ("output", 7)])
def test_a_unit_is_shown(units: UnitViews, layer: str, unit: int) -> None:
    view = units.look("digits", layer, unit)
    _, network = load_model(DIGITS)
    inputs = torch.from_numpy(np.array(load_dataset("mnist").test.inputs[:MOST_IMAGES]))
    expected = top_inputs(network, inputs, layer, unit, NUM_TOP)
    weights, stimulus, *images = view.plates
    assert (view.layer, view.unit, view.note) == (layer, unit, "")
    np.testing.assert_allclose(view.drives[1:], expected.drives, rtol=1e-5)
    for plate, row in zip(images, expected.rows, strict=True):
        np.testing.assert_array_equal(plate.pixels[0], inputs[row])
    found = unit_weights(network, layer, unit)
    assert found is not None
    read = weights.low + weights.pixels.reshape(found.shape) / 255 * (weights.high - weights.low)
    np.testing.assert_allclose(read, found, atol=weights.high / 200)
    shown = torch.from_numpy(stimulus.pixels.copy())
    drive = float(unit_drives(network, shown, layer)[0, unit].detach())
    assert drive == pytest.approx(view.drives[0], rel=0.05, abs=0.05)  # its pixels are rounded
    assert view.drives[0] >= view.drives[1]


def test_without_its_data_a_unit_has_its_stimulus_and_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORSO_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    view = UnitViews(NetworkViews({"digits": DIGITS})).look("digits", "conv1", 0)
    assert [plate.name for plate in view.plates] == ["weights", "stimulus"]
    assert "not at hand" in view.note
    assert "mnist" in view.note.lower()


@pytest.mark.parametrize(("layer", "unit"), [("conv9", 0), ("conv1", 16), ("conv1", -1)])
def test_what_does_not_exist_is_refused(units: UnitViews, layer: str, unit: int) -> None:
    with pytest.raises(InputError, match="conv1 \\(units 0 to 15\\)"):
        units.look("digits", layer, unit)


def test_weights_have_the_shape_of_what_the_unit_sees() -> None:
    _, network = load_model(DIGITS)
    shapes = {layer.name: layer.shape for layer in layers(network)}
    before = list(shapes.values())[list(shapes).index("dense1") - 1]
    dense = unit_weights(network, "dense1", 5)
    assert dense is not None
    assert dense.shape == before
    output = unit_weights(network, "output", 2)
    assert output is not None
    assert output.shape == shapes["dense1"]
    image = NetworkSpec(
        input=InputSpec(shape=(8, 8), layout="hw"), torso=MLPSpec(hidden=(4,)), head=LogitsHeadSpec(num_classes=2)
    )
    first = unit_weights(build_network(image), "dense1", 0)
    assert first is not None
    assert first.shape == (1, 8, 8)
    table = NetworkSpec(input=InputSpec(shape=(3,)), torso=MLPSpec(hidden=(4,)), head=LogitsHeadSpec(num_classes=2))
    row = unit_weights(build_network(table), "dense1", 0)
    assert row is not None
    assert math.prod(row.shape) == 3


def test_a_question_is_parsed() -> None:
    asked = {"model": "m", "layer": "conv1", "unit": 2}
    assert parse_question(TabMessage("draw", "unit", asked)) == UnitQuestion("m", "conv1", 2)
    for fields in ({}, {**asked, "unit": "x"}):
        with pytest.raises(ConfigError, match="a question must have"):
            parse_question(TabMessage("draw", "unit", fields))
