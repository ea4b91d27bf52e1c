"""``torso report``: report the scores of several runs over seeds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torso.cli.arguments.options import POSITIONAL
from torso.cli.terminal.output import print_result
from torso.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Report the scores of training runs over seeds: report.md with its pictures, profiles.png and curves.png.

    A row for each algorithm and env: the scores of the best and of the last networks with their spread, interquartile
    means with 95% stratified bootstrap intervals, probabilities of improvement, performance profiles, and
    human-normalised scores of Atari games (Agarwal et al. 2021). Runs that differ in nothing but the seed are one row.
    """

    runs: tuple[Path, ...] = field(metadata={**POSITIONAL, "metavar": "RUN"})
    """Run directories of torso train, that have ended."""
    out: Path = Path("report")
    """Directory to write into."""
    seed: int = 0
    """Seed of the bootstrap."""
    json: bool = False
    """Print one JSON object, with the report's figures."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"--seed must not be negative, got {self.seed}")


def run(options: ReportOptions) -> int:
    """Write the report, and print the paths of its files."""
    from torso.agents.training.run_records import read_record
    from torso.insight.comparison.report import write_report

    found = write_report([read_record(path) for path in options.runs], options.out, seed=options.seed)
    text = "\n".join(f"{name}: {path}" for name, path in found["files"].items())
    print_result(found, text, as_json=options.json)
    return 0
