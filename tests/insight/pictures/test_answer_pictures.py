"""Pictures of predictions: confusion matrices, adversarial examples and scatter plots are drawn from any numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from torso.errors import StorageError
from torso.insight.pictures import answer_pictures

Array = NDArray[Any]
RNG = np.random.default_rng(0)


def attack(colour: bool) -> answer_pictures.Attack:
    shape = (8, 12, 3) if colour else (8, 8)
    return answer_pictures.Attack(
        original=RNG.random(shape),
        perturbation=np.sign(RNG.normal(size=shape)),
        adversarial=RNG.random(shape),
        predicted_before="7 · 99%",
        predicted_after="1 · 80%",
    )


def mistake(picture: Array | None) -> answer_pictures.Mistake:
    return answer_pictures.Mistake(row=5, truth="a", predicted="b", confidence=0.9, picture=picture)


ACCURACY = {0.0: 0.95, 0.1: 0.5, 0.2: 0.1}
CONFUSION = np.array([[5, 1], [0, 7]])

DRAWINGS: dict[str, Callable[[Path], Path]] = {
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
def test_a_picture_comes_of_everything(tmp_path: Path, name: str, pixels: Callable[[Path], Array]) -> None:
    path = DRAWINGS[name](tmp_path / "picture.png")
    assert path == tmp_path / "picture.png"
    found = pixels(path)
    assert len(np.unique(found.reshape(-1, 3), axis=0)) > 5
    assert max(found.shape) < 3000


def test_pictures_of_other_numbers_are_others(tmp_path: Path, pixels: Callable[[Path], Array]) -> None:
    def confusion(name: str, counts: Array) -> Array:
        return pixels(answer_pictures.draw_confusion(tmp_path / name, "t", counts, ["a", "b"], []))

    once, again = confusion("1.png", CONFUSION), confusion("2.png", CONFUSION)
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, confusion("3.png", np.array([[5, 1], [1, 7]])))


def test_a_picture_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot write"):
        DRAWINGS["no mistakes"](tmp_path / "nowhere" / "picture.png")
