"""Canvas of the pictures: montages, titles and class colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text

from torso.insight.pictures import canvas
from torso.insight.pictures.canvas import (
    class_colour,
    log_scale_y,
    montage,
    new_figure,
    new_panels,
    save_with_legends,
    short_names,
    title_width_in,
    whole_number_ticks,
)


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


def test_a_long_title_is_wrapped_to_its_figure() -> None:
    figure = new_figure("truly " + "a very long name " * 6, 5.5, 3)
    figure.draw_without_rendering()
    (title,) = figure.texts
    extent = title.get_window_extent()
    assert extent.x0 >= 0
    assert extent.x1 <= figure.bbox.width


def test_long_names_are_shortened_and_stay_different() -> None:
    assert short_names(["cat", 7, "a name of 24 characters."]) == ["cat", "7", "a name of 24 characters."]
    long = short_names(["the length of something in centimetres", "the width of another thing"])
    assert all(len(name) == 24 for name in long)
    assert long[0].startswith("the length")
    assert long[0].endswith("timetres")
    alike = short_names([f"a very long class name number {index} with words" for index in range(3)])
    assert len(set(alike)) == 3
    assert alike[1].startswith("1: a very long")


@pytest.mark.parametrize("panels", [1, 2])
def test_legends_stand_off_the_curves(tmp_path: Path, panels: int) -> None:
    figure, all_axes = new_panels("title", panels=panels)
    for axes in all_axes:
        for index in range(2):
            axes.plot([0, 1], [index, 1 - index], label=f"a curve with a name {index}")
    save_with_legends(figure, tmp_path / "legends.png")
    for axes in all_axes:
        legend = axes.get_legend()
        assert legend is not None
        extent = legend.get_window_extent()
        assert extent.y0 >= axes.bbox.y1
        assert extent.y1 <= figure.bbox.height
        assert extent.x1 <= figure.bbox.width


@pytest.mark.parametrize(("low", "high"), [(1.83, 2.06), (0.2, 1.7), (0.01, 3.0), (1e-6, 1.0), (0.9, 33.0)])
def test_a_logarithmic_axis_has_plain_numbers(low: float, high: float) -> None:
    figure, (axes,) = new_panels("title", panels=1)
    axes.plot([1, 2], [low, high])
    log_scale_y(axes)
    figure.draw_without_rendering()
    assert axes.get_yscale() == "log"
    bottom, top = axes.get_ylim()
    seen = [
        text for value, text in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True) if bottom <= value <= top
    ]
    assert len(seen) >= 2
    assert all(float(text.get_text()) > 0 for text in seen)


def test_one_step_has_one_tick() -> None:
    _, (axes,) = new_panels("title", panels=1)
    axes.plot([3], [0.5], "o")
    whole_number_ticks(axes, [3])
    assert axes.get_xticks().tolist() == [3]
    _, (axes,) = new_panels("title", panels=1)
    axes.plot([1, 2, 3], [0.5, 0.6, 0.7])
    whole_number_ticks(axes, [1, 2, 3])
    assert all(value == round(value) for value in axes.get_xticks())


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
