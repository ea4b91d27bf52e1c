"""Panels of lines: colours, bands, a legend that hides nothing, and odd contents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from torso.insight.pictures import line_panels
from torso.insight.pictures.line_panels import Panel, Series, draw_panels, named_steps

X = np.array([0.0, 50_000.0, 100_000.0])


def line(label: str = "dqn", *, band: bool = True, height: float = 1.0, **others: Any) -> Series:
    y = height * np.array([0.0, 1.0, 1.5])
    return Series(label=label, x=X, y=y, band=(y - 0.3, y + 0.3) if band else None, **others)


def panel(**fields: Any) -> Panel:
    return Panel(x_label="env steps", **fields)


def draw(path: Path, *panels: Panel) -> Path:
    return draw_panels(panels, path, title="mean over seeds", y_label="return", x=named_steps)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are drawn, as they are saved."""
    drawn: list[Figure] = []
    save = line_panels.save

    def keep(figure: Figure, path: Path) -> Path:
        drawn.append(figure)
        return save(figure, path)

    monkeypatch.setattr(line_panels, "save", keep)
    return drawn


def test_lines_have_colours_of_their_own_and_bands(
    tmp_path: Path, pixels: Callable[[Path], Any], share_of: Callable[..., float]
) -> None:
    path = draw(tmp_path / "one.png", panel(title="CartPole-v1", lines=(line("dqn"), line("c51", height=3))))
    picture = pixels(path)
    assert share_of(picture, "#0072B2") > 0.0005
    assert share_of(picture, "#D55E00") > 0.0005
    bare = pixels(draw(path, panel(title="CartPole-v1", lines=(line("dqn", band=False), line("c51", height=3)))))
    assert share_of(picture, "#d9e9f3") > share_of(bare, "#d9e9f3") + 0.01  # blue at 15% on white


def test_no_legend_covers_a_panel(tmp_path: Path, figures: list[Figure]) -> None:
    labels = [f"dqn, learning_rate 0.000{index}, target_update_period 1000" for index in range(12)]
    panels = [panel(title=f"env {index}", lines=tuple(map(line, labels))) for index in range(5)]
    draw(tmp_path / "many.png", *panels)
    [figure] = figures
    [legend] = figure.legends
    renderer = figure.canvas.get_renderer()
    box = legend.get_window_extent(renderer)
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width
    for axes in figure.axes:
        assert not box.overlaps(axes.get_tightbbox(renderer))


def test_lines_of_no_seeds_and_ticks_of_ones_own(tmp_path: Path, figures: list[Figure]) -> None:
    def logarithmic(axes: Axes) -> None:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} ms")

    lines = (line("emulator", num_seeds=None),)
    draw_panels([panel(title="env", lines=lines)], tmp_path / "a.png", title="t", y_label="ms", y=logarithmic)
    [figure] = figures
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["emulator"]
    assert any(label.get_text().endswith(" ms") for label in figure.axes[0].get_yticklabels())


def test_more_lines_than_colours_have_other_dashes(tmp_path: Path, figures: list[Figure]) -> None:
    draw(tmp_path / "many.png", panel(title="env", lines=tuple(line(f"row {index}") for index in range(20))))
    lines = figures[0].axes[0].get_lines()
    assert len({(each.get_color(), each.get_linestyle()) for each in lines}) == 20


def test_a_label_has_one_colour_in_all_panels(tmp_path: Path, figures: list[Figure]) -> None:
    one, other = panel(title="a", lines=(line("x"), line("y"))), panel(title="b", lines=(line("y", num_seeds=3),))
    draw(tmp_path / "two.png", one, other)
    first, second = figures[0].axes
    assert second.get_lines()[0].get_color() == first.get_lines()[1].get_color()
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["x (1 seed)", "y (1 to 3 seeds)"]
    assert (first.get_xlabel(), first.get_ylabel()) == ("env steps", "return")


@pytest.mark.parametrize("label", ["_hidden", "$x^$", "a" * 300, "two\nlines"])
def test_odd_labels_are_drawn(tmp_path: Path, label: str, figures: list[Figure]) -> None:
    single = Series(label=label, x=X[:1], y=X[:1])
    draw(tmp_path / "odd.png", panel(title=label, lines=(single,)))
    [text] = figures[0].legends[0].get_texts()
    assert text.get_text().endswith(" (1 seed)")
