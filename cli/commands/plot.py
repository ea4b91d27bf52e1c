"""``torso plot``: plot the learning curves of several runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torso.cli.arguments.options import POSITIONAL
from torso.cli.terminal.output import print_result
from torso.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PlotOptions:
    """Plot the learning curves of training runs: the mean over seeds with its spread, a panel for each env.

    Runs that differ in nothing but the seed (and in how long they are) are one line; lines are named by the algorithm
    and by the settings in which they differ. The curves of a line are interpolated at the env steps that all of its
    runs have reached; nothing is extrapolated.
    """

    runs: tuple[Path, ...] = field(metadata={**POSITIONAL, "metavar": "RUN"})
    """Run directories of torso train, ended or not."""
    out: Path = field(default=Path("curves.png"), metadata={"metavar": "FILE"})
    """The .png file to write."""
    metric: str = "evaluation_return"
    """Figure to plot, by its name in the runs' progress.jsonl: evaluation_return; episode_return, of training episodes;
    loss; or another."""
    band: Literal["min-max", "std", "none"] = "min-max"
    """Band around the mean: min-max, from the least seed to the greatest; std, a standard deviation each way; none."""
    env: str | None = None
    """Gymnasium id of the env that all runs must be of; None: any."""
    json: bool = False
    """Print one JSON object, with what is plotted."""

    def __post_init__(self) -> None:
        if self.out.suffix.lower() != ".png":
            raise ConfigError(f"--out must be a file name that ends in .png, got {self.out}")


def run(options: PlotOptions) -> int:
    """Plot the runs, and print the path of the picture."""
    from torso.agents.training.run_records import read_record
    from torso.insight.comparison.curves import plot_curves
    from torso.insight.comparison.run_records import group_runs, require_env

    records = [read_record(path) for path in options.runs]
    if options.env is not None:
        require_env(records, options.env)
    groups = group_runs(records, any_length=True)
    drawn = plot_curves(groups, options.out, metric=options.metric, band=options.band)
    lines = [_line_text(each) for each in drawn]
    figures = {"plot": str(options.out), "metric": options.metric, "band": options.band, "lines": drawn}
    print_result(figures, "\n".join([*lines, f"plot: {options.out}"]), as_json=options.json)
    return 0


def _line_text(line: dict[str, Any]) -> str:
    """Describe a line of the plot: env, label, number of seeds, and the mean at its last step."""
    count = len(line["seeds"])
    seeds = f"{count} seed{'' if count == 1 else 's'}"
    return f"{line['env']}, {line['label']}: {seeds}, {line['mean'][-1]:,.4g} at step {line['steps'][-1]:,.0f}"
