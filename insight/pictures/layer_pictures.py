"""Pictures of a network: its first weights, its layers' activations, the inputs that excite its units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from torso.arrays import Array
from torso.insight.pictures.canvas import (
    BLUE,
    DIVERGING,
    GREY,
    INK,
    SEQUENTIAL,
    Tiles,
    hide_axes,
    light_axes,
    montage,
    new_figure,
    save,
    tile_height_in,
    title_width_in,
)

_MAX_TILES = 64
_TILE_IN, _GAP_IN = 0.72, 0.09


# -- the first layer's weights -----------------------------------------------------------------------------------------


def draw_weight_images(path: Path, title: str, weights: Array, names: Sequence[str] | None = None) -> Path:
    """Draw the weights of each unit as an image, red where they are positive and blue where they are negative.

    weights: [units, C, h, w]. Units without names have their numbers, and are sorted by the size of their weights; the
    64 largest are shown. Three channels are colours about a medium gray; channels of any other number stand side by
    side.
    """
    order = np.arange(len(weights)) if names else np.argsort(-np.linalg.norm(weights.reshape(len(weights), -1), axis=1))
    shown = order[:_MAX_TILES]
    largest = float(np.abs(weights[shown]).max()) or 1.0
    tiles_of = [_weight_picture(weights[index] / largest) for index in shown]
    wide = tiles_of[0].shape[1] / tiles_of[0].shape[0]
    size = _TILE_IN * min(3.0, max(1.0, wide))
    columns = min(len(shown), max(1, round(8 * _TILE_IN / size)))
    if len(shown) == 10:
        columns = min(columns, 5)  # the ten digits
    rows = -(-len(shown) // columns)
    tile_in = tile_height_in(tiles_of[0], size)
    row_in = tile_in + 0.26
    height = 0.5 + rows * row_in + 0.4
    title += _selection(len(shown), len(weights))
    bar_in = 0.7 if tiles_of[0].ndim == 2 else 0.0  # the width of the colour bar
    width = max(
        title_width_in(title),
        0.3 + 0.055 * len(_weights_note(largest, colours=not bar_in)),
        columns * (size + _GAP_IN) + 0.3 + bar_in,
    )
    figure = new_figure(title, width, height, constrained=False)
    tiles = Tiles(figure)
    left = (width - bar_in - columns * (size + _GAP_IN)) / 2
    for place, picture in enumerate(tiles_of):
        row, column = divmod(place, columns)
        x, y = left + column * (size + _GAP_IN), 0.45 + row * row_in
        caption = names[shown[place]] if names else str(shown[place])
        tiles.show(picture, x, y, size, caption=caption, cmap=DIVERGING, low=-1, high=1)
    if bar_in:
        tall = min(height - 0.75, 2.4)
        axes = figure.add_axes((1 - 0.62 / width, 1 - (0.47 + tall) / height, 0.1 / width, tall / height))
        _colour_bar(axes, largest)
    tiles.write(_weights_note(largest, colours=not bar_in), 0.15, height - 0.25, colour=GREY, ha="left")
    return save(figure, path)


def _selection(num_shown: int, num_units: int) -> str:
    return "" if num_shown == num_units else f", the {num_shown} largest of {num_units} units"


def _weights_note(largest: float, *, colours: bool = False) -> str:
    """Say what weights are measured in, and what the picture leaves out."""
    about = f"; medium gray is 0, a colour's ends are ±{largest:.2g}" if colours else ""
    return f"weights of the scaled input; biases are left out{about}"


def _weight_picture(weights: Array) -> Array:
    """Convert weights [C, h, w] in [-1, 1] to [h, w * C], or to colours [h, w, 3]."""
    if len(weights) == 3:
        return 0.5 + weights.transpose(1, 2, 0) / 2
    gap = np.full((weights.shape[1], 1), np.nan)
    return np.hstack([part for channel in weights for part in (channel, gap)][:-1])


def _colour_bar(axes: Axes, largest: float) -> None:
    ramp = np.linspace(1, -1, 256)[:, np.newaxis]
    axes.imshow(ramp, cmap=DIVERGING, vmin=-1, vmax=1, aspect="auto", extent=(0, 1, -largest, largest))
    axes.yaxis.tick_right()
    axes.set_title("weight", fontsize=7.5, color=GREY)
    axes.set_xticks([])
    axes.set_yticks([-largest, 0, largest], [f"{-largest:.2g}", "0", f"{largest:.2g}"], fontsize=7.5, color=INK)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def draw_weight_table(
    path: Path, title: str, weights: Array, feature_names: Sequence[str], names: Sequence[str] | None = None
) -> Path:
    """Draw the weights of each unit for each feature of a table, red where positive and blue where negative.

    weights: [units, F]. Units without names have their numbers, and are sorted by the size of their weights.
    """
    order = np.arange(len(weights)) if names else np.argsort(-np.linalg.norm(weights, axis=1))
    shown = order[:_MAX_TILES]
    values = weights[shown].T  # [F, units]
    largest = float(np.abs(values).max()) or 1.0
    height = min(10.0, 1.3 + 0.24 * len(values))
    title += _selection(len(shown), len(weights))
    figure = new_figure(title, min(11.0, max(6.0, title_width_in(title), 2.6 + 0.2 * len(shown))), height + 0.3)
    figure.supxlabel(_weights_note(largest), fontsize=7.5, color=GREY)
    axes = hide_axes(figure.add_subplot())
    image = axes.imshow(values, cmap=DIVERGING, vmin=-largest, vmax=largest, aspect="auto", interpolation="nearest")
    if len(values) <= 60:
        axes.set_yticks(range(len(values)), list(feature_names), fontsize=8, color=INK)
    ticks = [names[index] for index in shown] if names else [str(index) for index in shown]
    upright = 0.2 * len(shown) < 0.1 * sum(map(len, ticks))
    axes.set_xticks(range(len(shown)), ticks, fontsize=7, rotation=90 if upright else 0, color=INK)
    axes.set_xlabel("class" if names else "unit", color=GREY)
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02)
    bar.set_label("weight", fontsize=7.5, color=GREY)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7.5, length=0)
    return save(figure, path)


# -- activations -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class DisplayedInput:
    """Input to display as a picture ([H, W] or [H, W, 3]), or as a table's row with the names of its features."""

    picture: Array | None = None
    row: Array | None = None
    feature_names: Sequence[str] = ()
    title: str = "input"


def draw_activations(
    path: Path,
    title: str,
    shown: DisplayedInput,
    layers: Mapping[str, Array],
    outputs: Mapping[str, float],
    *,
    output_title: str,
) -> Path:
    """Draw one input, and every layer's activations for it, one panel each.

    layers: by name [F] or [C, H, W]. outputs: the output's values by name, drawn as bars.
    """
    panels = 2 + len(layers)
    columns = min(4, panels)
    rows = -(-panels // columns)
    figure = new_figure(title, 2.75 * columns, 2.75 * rows + 0.35)
    figure.get_layout_engine().set(w_pad=0.09, h_pad=0.09)  # type: ignore[union-attr, call-arg]
    places = iter([figure.add_subplot(rows, columns, place + 1) for place in range(panels)])
    _draw_input(next(places), shown)
    for name, values in layers.items():
        _draw_layer(next(places), name, values)
    _draw_bars(next(places), output_title, outputs)
    return save(figure, path)


def _draw_input(axes: Axes, shown: DisplayedInput) -> None:
    if shown.picture is not None:
        hide_axes(axes).imshow(shown.picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(shown.title, fontsize=9, color=INK)
    elif shown.row is not None:
        _draw_bars(axes, shown.title, dict(zip(shown.feature_names, shown.row.tolist(), strict=True)))


def _draw_layer(axes: Axes, name: str, values: Array) -> None:
    shape = " × ".join(map(str, values.shape))
    if values.size <= 16:
        _draw_bars(axes, f"{name}  {shape}", {str(unit): float(value) for unit, value in enumerate(values.ravel())})
        return
    maps = values if values.ndim == 3 else values.reshape(-1, 1, 1)
    sheet = montage(maps[:_MAX_TILES] if values.ndim == 3 else maps, gap=1 if values.ndim == 3 else 0)
    finite = sheet[np.isfinite(sheet)]
    low, high = float(finite.min()), float(finite.max())
    if low < 0:
        high = max(-low, high) or 1.0
        low = -high
    more = f", {_MAX_TILES} shown" if values.ndim == 3 and len(values) > _MAX_TILES else ""
    hide_axes(axes).imshow(
        sheet, cmap=DIVERGING if low < 0 else SEQUENTIAL, vmin=min(low, 0.0), vmax=high or 1.0, interpolation="nearest"
    )
    axes.set_title(f"{name}  {shape}{more}", fontsize=9, color=INK)
    axes.set_xlabel(f"from {finite.min():.2g} to {finite.max():.2g}", fontsize=7.5, color=GREY)


def _draw_bars(axes: Axes, title: str, values: Mapping[str, float], *, most: int = 16) -> None:
    names = sorted(values, key=lambda name: -abs(values[name]))[:most] if len(values) > most else list(values)
    names = [name for name in values if name in names]
    heights = [values[name] for name in names]
    best = max(names, key=lambda name: values[name], default=None)
    light_axes(axes, grid=False).barh(
        range(len(names)), heights, color=[BLUE if name == best else "#9db8d6" for name in names], height=0.72
    )
    axes.set_yticks(range(len(names)), names, fontsize=8, color=INK)
    axes.set_ylim(max(len(names), 4) - 0.5, -0.5)  # a single bar need not fill the panel
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7.5)
    if any(height < 0 for height in heights):
        axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_title(title if len(names) == len(values) else f"{title}, the largest", fontsize=9, color=INK)


# -- units -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class UnitPortrait:
    """Portrait of a unit: its optimal stimulus and the inputs that excite it most, best first, each with its drive."""

    name: str
    stimulus: Array
    stimulus_drive: float
    inputs: Array
    drives: Array


def draw_unit_images(path: Path, title: str, units: Sequence[UnitPortrait]) -> Path:
    """Draw a row for each unit: its optimal stimulus, then the test images that excite it most; below each its drive.

    stimulus: [H, W] or [H, W, 3] in [0, 1]; inputs: [k, H, W] or [k, H, W, 3].
    """
    k = max(len(unit.inputs) for unit in units)
    size, step = 0.78, 0.78 + _GAP_IN
    name_in = 0.35 + 0.068 * max(len(unit.name) for unit in units)
    first = name_in + step + 0.3
    tile_in = tile_height_in(units[0].stimulus, size)
    row_in = tile_in + 0.26
    width, height = max(first + k * step + 0.15, title_width_in(title)), 0.78 + len(units) * row_in + 0.1
    figure = new_figure(title, width, height, constrained=False)
    tiles = Tiles(figure)
    tiles.write("optimal\nstimulus", name_in + size / 2, 0.74, colour=GREY, va="bottom")
    tiles.write(f"the {k} test inputs that excite it most", first, 0.74, colour=GREY, ha="left", va="bottom")
    for index, unit in enumerate(units):
        y = 0.8 + index * row_in
        tiles.write(unit.name, name_in - 0.12, y + tile_in / 2, ha="right", va="center", size=9)
        tiles.show(unit.stimulus, name_in, y, size, caption=f"{unit.stimulus_drive:.3g}", colour=BLUE)
        for place, (picture, drive) in enumerate(zip(unit.inputs, unit.drives, strict=True)):
            tiles.show(picture, first + place * step, y, size, caption=f"{drive:.3g}")
    return save(figure, path)


def draw_unit_tables(
    path: Path, title: str, units: Sequence[UnitPortrait], feature_names: Sequence[str], mean: Array, std: Array
) -> Path:
    """Draw a panel for each unit: its optimal stimulus and the rows of the table that excite it most, by feature.

    Colours show how many deviations a value is from its feature's mean; numbers are in the table's own units. mean,
    std: [F].
    """
    num_features = len(feature_names)
    columns = 1 if num_features > 12 or len(units) == 1 else 3 if len(units) % 3 == 0 and num_features <= 6 else 2
    rows = -(-len(units) // columns)
    k = max(len(unit.inputs) for unit in units)
    width = columns * min(9.0, 1.5 + 0.52 * num_features)
    figure = new_figure(title, max(5.0, width), rows * (0.85 + 0.2 * (k + 1)) + (0.9 if num_features > 1 else 0.5))
    image = None
    for place, unit in enumerate(units):
        axes = hide_axes(figure.add_subplot(rows, columns, place + 1))
        values = np.vstack([unit.stimulus[np.newaxis], unit.inputs])  # [k + 1, F]
        deviations = (values - mean) / std
        image = axes.imshow(deviations, cmap=DIVERGING, vmin=-3, vmax=3, aspect="auto")
        axes.axhline(0.5, color="white", linewidth=3)
        drives = [unit.stimulus_drive, *unit.drives.tolist()]
        axes.set_yticks(
            range(len(values)), [f"stimulus {drives[0]:.3g}"] + [f"{drive:.3g}" for drive in drives[1:]], fontsize=7.5
        )
        if num_features <= 8:
            for (row, column), value in np.ndenumerate(values):
                colour = "white" if abs(deviations[row, column]) > 1.7 else INK
                axes.text(column, row, f"{value:.3g}", ha="center", va="center", fontsize=7, color=colour)
        if place >= len(units) - columns and num_features <= 40:
            steep = num_features > 12
            angle, align = (90, "center") if steep else (30, "right")
            axes.set_xticks(range(num_features), list(feature_names), rotation=angle, ha=align, fontsize=8)
        axes.tick_params(length=0)
        axes.set_title(unit.name, fontsize=9, color=INK)
    if image is not None:
        bar = figure.colorbar(image, ax=figure.axes, fraction=0.025, pad=0.01)
        bar.set_label("deviations from the mean", fontsize=8, color=GREY)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=7.5, length=0)
    return save(figure, path)
