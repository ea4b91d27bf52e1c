"""Canvas of the pictures: montages, titles and class colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text

from torso.insight.pictures import canvas
from torso.insight.pictures.canvas import class_colour, montage, new_figure, title_width_in


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


@pytest.mark.parametrize("text", ["$0_to_$50k", "$\\frac{1}$", "100%", "a_b^c", r"\alpha$", "[red]", "日本"])
def test_text_is_no_markup(tmp_path: Path, text: str) -> None:
    figure, [axes] = canvas.new_panels(text, panels=1)
    axes.plot([1, 2], [1, 1000], label=text)
    axes.set_yscale("log")
    axes.set_xticks([1, 2], [text, text])
    axes.set_xlabel(text)
    axes.text(1, 1, text)
    assert canvas.save_with_legends(figure, tmp_path / "figure.png").stat().st_size > 0
    drawn = figure.findobj(Text)
    assert {each.get_parse_math() for each in drawn} == {False}
    assert not [each.get_text() for each in drawn if "mathdefault" in each.get_text()]


def test_names_for_pictures() -> None:
    assert canvas.display_name("_nolegend_") == " _nolegend_"
    assert canvas.display_name("two\nlines\tand\x00more") == "two lines and more"
    assert canvas.display_name("x" * 400) == "x" * 39 + "…"
    assert canvas.display_name(3) == "3"
