"""Pictures: one comes of everything that can be drawn, and shows what it was given. (How they look was looked at.)"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from numpy.typing import NDArray

from torso.errors import StorageError
from torso.insight.pictures import answer_pictures, layer_pictures, surfaces
from torso.insight.pictures.canvas import class_colour, montage, new_figure, title_width_in
from torso.insight.pictures.input_pictures import are_images, as_pictures
from torso.insight.units.bounds import Bounds, input_bounds
from torso.nets import ImageSpec, InputSpec

Array = NDArray[Any]
RNG = np.random.default_rng(0)


def pixels(path: Path) -> Array:
    found: Array = imread(path)[..., :3]
    assert min(found.shape[:2]) > 200
    return found


def share_of(picture: Array, colour: str, tolerance: float = 0.02) -> float:
    """The share of a picture's pixels that have a colour."""
    return float((np.abs(picture - np.array(to_rgb(colour))) < tolerance).all(axis=2).mean())


# -- inputs as pictures ------------------------------------------------------------------------------------------------


def test_images_of_every_layout_are_pictures() -> None:
    gray = InputSpec(shape=(4, 5), dtype="uint8", layout="hw")
    chw = InputSpec(shape=(3, 4, 5), dtype="uint8", layout="chw")
    hwc = InputSpec(shape=(4, 5, 3), dtype="uint8", layout="hwc")
    flat = InputSpec(shape=(60,), dtype="uint8", image=ImageSpec(channels=3, height=4, width=5))
    colours = RNG.integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)

    def drawn(inputs: Array, spec: InputSpec) -> Array:
        assert are_images(spec)
        low, high = torch.zeros(spec.shape), torch.full(spec.shape, 255.0)
        return as_pictures(inputs, spec, Bounds(low, high, low))

    np.testing.assert_allclose(drawn(colours, hwc), colours / 255)
    np.testing.assert_allclose(drawn(colours.transpose(0, 3, 1, 2), chw), colours / 255)
    np.testing.assert_allclose(drawn(colours.reshape(2, 60), flat), colours / 255)
    np.testing.assert_allclose(drawn(colours[..., 0], gray), colours[..., 0] / 255)
    frames = InputSpec(shape=(4, 4, 5), dtype="uint8", layout="chw")
    stacked = RNG.integers(0, 256, (2, 4, 4, 5), dtype=np.uint8)
    np.testing.assert_allclose(drawn(stacked, frames), stacked.mean(axis=1) / 255)
    assert not are_images(InputSpec(shape=(4,)))


def test_pictures_lie_in_the_range_of_the_input() -> None:
    spec = InputSpec(shape=(1, 3), layout="hw")
    bounds = input_bounds(spec, torch.tensor([[[-1.0, 0.0, 3.0]]]))
    np.testing.assert_allclose(as_pictures(np.array([[[-1.0, 1.0, 9.0]]]), spec, bounds), [[[0, 0.5, 1]]])
    constant = input_bounds(spec, torch.full((1, 1, 3), 7.0))
    assert np.isfinite(as_pictures(np.full((1, 1, 3), 7.0), spec, constant)).all()


# -- the canvas --------------------------------------------------------------------------------------------------------


def test_a_montage_holds_every_map_once() -> None:
    maps = np.arange(5 * 2 * 3, dtype=float).reshape(5, 2, 3)
    sheet = montage(maps)
    assert sorted(sheet[np.isfinite(sheet)].tolist()) == sorted(maps.ravel().tolist())
    np.testing.assert_array_equal(sheet[:2, :3], maps[0])
    assert sheet.shape[0] / sheet.shape[1] == pytest.approx(1, abs=0.75)
    assert montage(np.ones((7, 1, 1)), gap=0).shape == (3, 3)
    assert montage(np.ones((1, 4, 4))).shape == (4, 4)


def test_a_title_fits_its_figure() -> None:
    title = "a data set with a long name · perceptron: 12,345 mistakes in 60,000 test inputs (99.99% right)"
    figure = new_figure(title, title_width_in(title), 3, constrained=False)
    extent = figure.texts[0].get_window_extent()
    assert extent.x0 >= 0
    assert extent.x1 <= figure.bbox.width


def test_classes_have_colours_of_their_own_and_enough_of_them() -> None:
    assert len({class_colour(index) for index in range(10)}) == 10
    assert class_colour(10) == class_colour(0)


# -- every picture -----------------------------------------------------------------------------------------------------


def unit(picture: bool, k: int = 8, features: int = 6) -> layer_pictures.UnitPortrait:
    shape = (8, 8) if picture else (features,)
    return layer_pictures.UnitPortrait(
        name="unit 3",
        stimulus=RNG.random(shape),
        stimulus_drive=4.2,
        inputs=RNG.random((k, *shape)),
        drives=np.linspace(3, 1, k),
    )


def attack(colour: bool) -> answer_pictures.Attack:
    shape = (8, 12, 3) if colour else (8, 8)
    return answer_pictures.Attack(
        original=RNG.random(shape),
        perturbation=np.sign(RNG.normal(size=shape)),
        adversarial=RNG.random(shape),
        said_before="7 · 99%",
        said_after="1 · 80%",
    )


def mistake(picture: Array | None) -> answer_pictures.Mistake:
    return answer_pictures.Mistake(row=5, truth="a", said="b", confidence=0.9, picture=picture)


FEATURES = [f"feature {index}" for index in range(6)]
ACCURACY = {0.0: 0.95, 0.1: 0.5, 0.2: 0.1}
CONFUSION = np.array([[5, 1], [0, 7]])
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
        path, "t", layer_pictures.Shown(picture=RNG.random((8, 8))), LAYERS, {"a": 0.25, "b": 0.75}, output_title="o"
    ),
    "activations of a row": lambda path: layer_pictures.draw_activations(
        path,
        "t",
        layer_pictures.Shown(row=RNG.normal(size=6), feature_names=FEATURES),
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
    "attacks": lambda path: answer_pictures.draw_adversarial(path, "t", ACCURACY, 0.2, [attack(False)] * 4, 0.1),
    "attacks in colour": lambda path: answer_pictures.draw_adversarial(path, "t", ACCURACY, 0.2, [attack(True)], 0.1),
    "no attacks": lambda path: answer_pictures.draw_adversarial(path, "t", {0.0: 1.0}, 0.5, [], None),
    "a confusion matrix": lambda path: answer_pictures.draw_confusion(
        path, "t", CONFUSION, ["a", "b"], [mistake(RNG.random((8, 8)))] * 12
    ),
    "a confusion matrix of a table": lambda path: answer_pictures.draw_confusion(
        path, "t", CONFUSION, ["a long name", "b"], [mistake(None)]
    ),
    "no mistakes": lambda path: answer_pictures.draw_confusion(path, "t", np.eye(2, dtype=int), ["a", "b"], []),
    "a class that is not there": lambda path: answer_pictures.draw_confusion(
        path, "t", np.array([[3, 0], [0, 0]]), ["a", "b"], []
    ),
    "a hundred classes": lambda path: answer_pictures.draw_confusion(
        path, "t", np.ones((100, 100), dtype=int), [str(index) for index in range(100)], []
    ),
    "a scatter of one target": lambda path: answer_pictures.draw_scatter(
        path, "t", RNG.normal(size=(20, 1)), RNG.normal(size=(20, 1)), ["y"], [0.5]
    ),
    "a scatter of many targets": lambda path: answer_pictures.draw_scatter(
        path, "t", np.ones((20, 9)), np.ones((20, 9)), [str(x) for x in range(9)], [None] * 9
    ),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_picture_comes_of_everything(tmp_path: Path, name: str) -> None:
    path = DRAWINGS[name](tmp_path / "picture.png")
    assert path == tmp_path / "picture.png"
    found = pixels(path)
    assert len(np.unique(found.reshape(-1, 3), axis=0)) > 5
    assert max(found.shape) < 3000


def test_pictures_of_other_numbers_are_others(tmp_path: Path) -> None:
    def confusion(name: str, counts: Array) -> Array:
        return pixels(answer_pictures.draw_confusion(tmp_path / name, "t", counts, ["a", "b"], []))

    once, again = confusion("1.png", CONFUSION), confusion("2.png", CONFUSION)
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, confusion("3.png", np.array([[5, 1], [1, 7]])))


def test_the_largest_weights_come_first(tmp_path: Path) -> None:
    weights = np.full((3, 1, 4, 4), 0.01)
    weights[2] = 1.0  # all red
    picture = pixels(layer_pictures.draw_weight_images(tmp_path / "w.png", "t", weights))
    half = picture.shape[1] // 3
    assert share_of(picture[:, :half], "#67001f") > 0.05  # the strongest red of the scale
    assert share_of(picture[:, half : 2 * half], "#67001f") == 0


def test_a_picture_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot write"):
        DRAWINGS["no mistakes"](tmp_path / "nowhere" / "picture.png")


# -- the plane ---------------------------------------------------------------------------------------------------------


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


def surface(path: Path, boundary: float, num_classes: int = 2, hidden: Array | None = None, axis: int = 0) -> Array:
    """Class 1 on the right of ``boundary`` (or above it, on axis 1), in the plane [0, 1] squared."""
    inputs = RNG.random((40, 2))
    inputs[:2] = [[0, 0], [1, 1]]
    plane = surfaces.plane_around(inputs, margin=0.0)
    right = np.clip(0.5 + 50 * (plane.points[:, axis] - boundary), 0, 1)
    probabilities = np.zeros((len(right), num_classes))
    probabilities[:, 0], probabilities[:, 1] = 1 - right, right
    labels = (inputs[:, axis] > 0.5).astype(np.int64)
    names = [str(index) for index in range(num_classes)]
    test = surfaces.Labelled(inputs, labels, (inputs[:, axis] > boundary).astype(np.int64))
    return pixels(
        surfaces.draw_decision_surface(path, "t", plane, probabilities, probabilities, test, names, ["x", "y"], hidden)
    )


def pale(index: int) -> str:
    """A class' colour where it is certain."""
    red, green, blue = (0.45 + 0.55 * part for part in to_rgb(class_colour(index)))
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


@pytest.mark.parametrize("num_classes", [2, 4])
def test_a_surface_has_the_colours_of_its_classes(tmp_path: Path, num_classes: int) -> None:
    few, many = (surface(tmp_path / f"{x}.png", x, num_classes) for x in (0.8, 0.2))
    assert share_of(few, pale(0)) > 2 * share_of(few, pale(1)) > 0.05
    assert share_of(many, pale(1)) > 2 * share_of(many, pale(0)) > 0.05
    left = few[:, : few.shape[1] // 2]
    assert share_of(left, pale(1)) == 0


def test_up_is_up(tmp_path: Path) -> None:
    picture = surface(tmp_path / "up.png", 0.5, axis=1)
    top, bottom = np.split(picture[: picture.shape[0] // 2 * 2], 2)
    assert share_of(top, pale(1)) > 0.3 > 0.15 > share_of(top, pale(0))
    assert share_of(bottom, pale(0)) > 0.3 > 0.15 > share_of(bottom, pale(1))


def test_hidden_units_are_lines(tmp_path: Path) -> None:
    plane_points = 240 * 240
    crossing = np.linspace(-1, 1, plane_points)[:, np.newaxis]  # 0 half way up
    without = surface(tmp_path / "a.png", 0.5)
    silent = surface(tmp_path / "b.png", 0.5, hidden=np.ones((plane_points, 3)))
    lined = surface(tmp_path / "c.png", 0.5, hidden=crossing)
    assert without.shape == silent.shape == lined.shape
    assert share_of(lined, "#6b7280", 0.2) > share_of(silent, "#6b7280", 0.2)


def test_units_are_drawn_over_the_plane(tmp_path: Path) -> None:
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
