"""Pictures of layers and units: weights, activations and unit portraits are drawn from any numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from torso.insight.pictures import layer_pictures

Array = NDArray[Any]
RNG = np.random.default_rng(0)


def unit(picture: bool, k: int = 8, features: int = 6) -> layer_pictures.UnitPortrait:
    shape = (8, 8) if picture else (features,)
    return layer_pictures.UnitPortrait(
        name="unit 3",
        stimulus=RNG.random(shape),
        stimulus_drive=4.2,
        inputs=RNG.random((k, *shape)),
        drives=np.linspace(3, 1, k),
    )


FEATURES = [f"feature {index}" for index in range(6)]
LAYERS = {
    "conv1": RNG.random((80, 6, 4)),
    "pool1": RNG.random((80, 3, 2)),
    "dense1": RNG.normal(size=30),
    "dense2": np.zeros(40),
    "dense3": np.zeros(3),
}

DRAWINGS: dict[str, Callable[[Path], Path]] = {
    "weights of many units": lambda path: layer_pictures.draw_weight_images(path, "t", RNG.normal(size=(90, 1, 5, 5))),
    "one filter": lambda path: layer_pictures.draw_weight_images(path, "t", RNG.normal(size=(1, 1, 3, 3))),
    "filters in colour": lambda path: layer_pictures.draw_weight_images(path, "t", RNG.normal(size=(7, 3, 3, 3))),
    "filters of four frames": lambda path: layer_pictures.draw_weight_images(path, "t", RNG.normal(size=(32, 4, 8, 8))),
    "weights that are all zero": lambda path: layer_pictures.draw_weight_images(path, "t", np.zeros((4, 1, 3, 3))),
    "weights of classes": lambda path: layer_pictures.draw_weight_images(
        path, "t", RNG.normal(size=(10, 1, 8, 8)), [str(digit) for digit in range(10)]
    ),
    "weights of a table": lambda path: layer_pictures.draw_weight_table(path, "t", RNG.normal(size=(20, 6)), FEATURES),
    "weights of a wide table": lambda path: layer_pictures.draw_weight_table(
        path, "t", np.zeros((200, 300)), [str(index) for index in range(300)]
    ),
    "weights of one output": lambda path: layer_pictures.draw_weight_table(path, "t", np.ones((1, 6)), FEATURES, ["b"]),
    "activations of an image": lambda path: layer_pictures.draw_activations(
        path,
        "t",
        layer_pictures.DisplayedInput(picture=RNG.random((8, 8))),
        LAYERS,
        {"a": 0.25, "b": 0.75},
        output_title="o",
    ),
    "activations of a row": lambda path: layer_pictures.draw_activations(
        path,
        "t",
        layer_pictures.DisplayedInput(row=RNG.normal(size=6), feature_names=FEATURES),
        {},
        {str(index): index - 20.0 for index in range(40)},
        output_title="o",
    ),
    "units of an image": lambda path: layer_pictures.draw_unit_images(path, "t", [unit(True), unit(True, k=3)]),
    "units of a table": lambda path: layer_pictures.draw_unit_tables(
        path, "t", [unit(False)] * 3, FEATURES, np.zeros(6), np.ones(6)
    ),
    "units of a wide table": lambda path: layer_pictures.draw_unit_tables(
        path, "t", [unit(False, features=50)] * 2, [str(x) for x in range(50)], np.zeros(50), np.ones(50)
    ),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_picture_comes_of_everything(tmp_path: Path, name: str, pixels: Callable[[Path], Array]) -> None:
    path = DRAWINGS[name](tmp_path / "picture.png")
    assert path == tmp_path / "picture.png"
    found = pixels(path)
    assert len(np.unique(found.reshape(-1, 3), axis=0)) > 5
    assert max(found.shape) < 3000


def test_the_largest_weights_come_first(
    tmp_path: Path, pixels: Callable[[Path], Array], share_of: Callable[..., float]
) -> None:
    weights = np.full((3, 1, 4, 4), 0.01)
    weights[2] = 1.0  # all red
    picture = pixels(layer_pictures.draw_weight_images(tmp_path / "w.png", "t", weights))
    half = picture.shape[1] // 3
    assert share_of(picture[:, :half], "#67001f") > 0.05  # the strongest red of the scale
    assert share_of(picture[:, half : 2 * half], "#67001f") == 0
