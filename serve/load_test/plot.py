"""Plot latency percentiles and goodput against load."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from torso.errors import ConfigError, StorageError
from torso.serve.load_test.loads import LoadResult

# Light to dark, so that the order is visible without colours too.
COLOURS = {"p50": "#9dc3e6", "p90": "#5b97d1", "p99": "#2f6db3", "p99.9": "#1b3f66"}
ORANGE, GREY, PALE = "#d9722c", "#6b7280", "#e5e7eb"


def plot_load(results: Sequence[LoadResult], path: Path, title: str) -> Path:
    """Plot latency percentiles against load, as a PNG; for open loops also goodput.

    Closed and open loops have panels of their own. Raises StorageError where the file cannot be written.
    """
    closed = sorted((each for each in results if each.in_flight is not None), key=lambda each: each.in_flight or 0)
    opened = sorted((each for each in results if each.offered is not None), key=lambda each: each.offered or 0)
    if not closed and not opened:
        raise ConfigError("plot must have at least one load, got none")
    panels = (1 if closed else 0) + (2 if opened else 0)
    figure = Figure(figsize=(1.0 + 4.6 * panels, 4.2), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11, color=GREY)
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    if closed:
        _plot_closed_loop(axes.pop(0), closed)
    if opened:
        _plot_latency(axes[0], [each.offered or 0.0 for each in opened], opened)
        axes[0].set_title("open loop, from the intended send time", fontsize=10)
        axes[0].set_xlabel("requests/s offered")
        axes[0].axhline(opened[0].deadline_s * 1000, color=ORANGE, linewidth=1, linestyle="--", label="deadline")
        axes[0].legend(frameon=False, fontsize=9)
        _plot_goodput(axes[1], opened)
    _save_figure(figure, path)
    return path


def _plot_closed_loop(axes: Axes, results: Sequence[LoadResult]) -> None:
    """Plot latency against throughput: to the right while more in flight adds throughput, up where it adds waiting."""
    _plot_latency(axes, [each.throughput for each in results], results)
    for each in results:
        if each.latency_ms:
            axes.annotate(
                str(each.in_flight),
                (each.throughput, min(each.latency_ms[name] for name in COLOURS)),
                xytext=(0, -13),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=GREY,
            )
    axes.set_title("closed loop; the numbers are requests in flight", fontsize=10)
    axes.set_xlabel("requests/s answered")
    axes.legend(frameon=False, fontsize=9)


def _plot_latency(axes: Axes, loads: Sequence[float], results: Sequence[LoadResult]) -> None:
    for name, colour in COLOURS.items():
        points = [(load, each.latency_ms[name]) for load, each in zip(loads, results, strict=True) if each.latency_ms]
        axes.plot(*zip(*points, strict=True), "o-", color=colour, markersize=4, label=name) if points else None
    axes.set_yscale("log")
    axes.margins(y=0.1)
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("latency of the answers in ms")
    _style_axes(axes)


def _plot_goodput(axes: Axes, results: Sequence[LoadResult]) -> None:
    offered = [each.offered or 0.0 for each in results]
    axes.plot([0, max(offered)], [0, max(offered)], color=GREY, linewidth=1, linestyle=":", label="all that is asked")
    axes.plot(
        offered, [each.throughput for each in results], "o-", color=COLOURS["p90"], markersize=4, label="answered"
    )
    axes.plot(offered, [each.goodput for each in results], "o-", color=ORANGE, markersize=4, label="answered in time")
    axes.set_title(f"goodput within {results[0].deadline_s * 1000:g} ms", fontsize=10)
    axes.set_xlabel("requests/s offered")
    axes.set_ylabel("requests/s")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.legend(frameon=False, fontsize=9)
    _style_axes(axes)


def _style_axes(axes: Axes) -> None:
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _save_figure(figure: Figure, path: Path) -> None:
    """Write the PNG atomically: to a temporary file beside it, then rename."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(buffer.getvalue())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from error
