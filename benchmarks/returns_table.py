"""Tables of the results of ``returns.py``, of a suite in whatever state it is."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from report import Report
from returns_curves import curve_of, draw, figures_of, first_at, seeds_of
from suites import Row

from torso.agents import DQNConfig, preset
from torso.agents.runs.trackers import PROGRESS, read_jsonl

_SEEDS_TABLE_ROWS = 2  # suites of more rows have their seeds in the JSON file alone


def tell(report: Report, rows: Sequence[Row], suite: Path, episodes: int, threads: int) -> None:
    """Say everything about a suite, in whatever state it is, and draw its curves."""
    found = [[figures_of(seed) for seed in seeds_of(row, suite)] for row in rows]
    report.say(
        f"Greedy mean returns of {episodes} fresh episodes a seed by the best network of each training, which the "
        "evaluations during it chose on other seeds."
    )
    report.say()
    report.table(_header(rows), [_cells(row, figures, suite) for row, figures in zip(rows, found, strict=True)])
    _tell_envs(report, rows, found)
    if len(rows) <= _SEEDS_TABLE_ROWS:
        for row, figures in zip(rows, found, strict=True):
            _tell_seeds(report, row, figures, suite)
    for row, figures in zip(rows, found, strict=True):
        if row.counts_food:
            _tell_food(report, row, _finished(figures))
        _tell_more(report, row, _finished(figures))
    _tell_settings(report, rows, threads)
    _tell_unfinished(report, rows, found, suite)
    report.data["episodes"] = episodes
    report.data["rows"] = [
        {
            **row.to_json(),
            "steps": row.total_steps,
            "settings": asdict(row.config(threads)),
            "seeds_done": len(_finished(figures)),
            "results": [
                {"seed": seed.number, **_without_config(one), "evaluations": curve_of(seed)}
                for seed, one in zip(seeds_of(row, suite), figures, strict=True)
            ],
        }
        for row, figures in zip(rows, found, strict=True)
    ]
    picture = draw(rows, suite, report.picture)
    if picture is not None:
        report.say(f"![learning curves]({picture.name})")


def _without_config(figures: dict[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (figures or {}).items() if name != "config"}


def _finished(figures: Sequence[dict[str, Any] | None]) -> list[dict[str, Any]]:
    return [one for one in figures if one is not None]


def _header(rows: Sequence[Row]) -> list[str]:
    header = ["env", "algorithm", "steps", "seeds", "mean return ± deviation over seeds", "of each seed"]
    if any(row.threshold is not None for row in rows):
        header += ["threshold", "seeds at or above it", "first evaluation there, median step"]
    return [*header, "training s, median", "steps/s, median"]


def _cells(row: Row, figures: Sequence[dict[str, Any] | None], suite: Path) -> list[str]:
    """A line of the table; what is not known yet is a dash."""
    done = _finished(figures)
    means = [one["score"]["mean_return"] for one in done]
    cells = [row.env, row.label, f"{row.total_steps:,}", f"{len(done)} of {row.seeds}"]
    spread = f" ± {statistics.pstdev(means):,.1f}" if len(means) > 1 else ""
    cells.append(f"{statistics.fmean(means):,.1f}{spread}" if means else "-")
    cells.append(" ".join("-" if one is None else f"{one['score']['mean_return']:,.1f}" for one in figures))
    if row.threshold is not None:
        numbers = {one["seed"] for one in done}
        curves = [curve_of(seed) for seed in seeds_of(row, suite) if seed.number in numbers]
        steps = [step for step in (first_at(curve, row.threshold) for curve in curves) if step is not None]
        cells.append(f"{row.threshold:g}")
        cells.append(f"{sum(mean >= row.threshold for mean in means)} of {len(done)}" if done else "-")
        of_all = "" if len(steps) == len(done) else f" (of {len(steps)} of {len(done)} seeds)"
        cells.append(f"{statistics.median(steps):,.0f}{of_all}" if steps else "none" if done else "-")
    for name, form in (("training_s", ",.1f"), ("steps_per_s", ",.0f")):
        cells.append(format(statistics.median(one[name] for one in done), form) if done else "-")
    return cells


def _tell_envs(report: Report, rows: Sequence[Row], found: Sequence[Sequence[dict[str, Any] | None]]) -> None:
    """Count an env's rows that reach its threshold with all of their seeds."""
    for env in dict.fromkeys(row.env for row in rows):
        members = [(row, _finished(figures)) for row, figures in zip(rows, found, strict=True) if row.env == env]
        threshold = members[0][0].threshold
        if threshold is None or len(members) == 1:
            continue
        reached = [[one["score"]["mean_return"] >= threshold for one in done] for _, done in members]
        complete = [all(each) for (row, _), each in zip(members, reached, strict=True) if len(each) == row.seeds]
        report.say(
            f"- {env}: {sum(complete)} of {len(complete)} finished rows are at {threshold:g} or above with every seed "
            f"({sum(map(sum, reached))} of {sum(map(len, reached))} seeds; {len(members)} rows in all)"
        )
    if len(rows) > len({row.env for row in rows}):
        report.say()


def _tell_seeds(report: Report, row: Row, figures: Sequence[dict[str, Any] | None], suite: Path) -> None:
    done = {one["seed"]: one for one in _finished(figures)}
    lines: list[list[Any]] = []
    for seed in seeds_of(row, suite):
        one = done.get(seed.number)
        if one is None:
            continue
        score = one["score"]
        cells = [
            seed.number,
            f"{score['mean_return']:,.1f} ± {score['std_return']:,.1f}",
            f"{score['min_return']:,.1f} to {score['max_return']:,.1f}",
            f"{one['best_step']:,}",
            f"{one['training_s']:,.1f}",
        ]
        if row.threshold is not None:
            reached = first_at(curve_of(seed), row.threshold)
            cells.append("none" if reached is None else f"{reached:,}")
        lines.append(cells)
    if lines:
        report.say(f"{row.env}, {row.label}:")
        report.say()
        header = ["seed", "mean return ± deviation over episodes", "least and most", "best step", "training s"]
        first = [] if row.threshold is None else [f"first evaluation of {row.threshold:g} or more, step"]
        report.table([*header, *first], lines)


def _tell_more(report: Report, row: Row, done: list[dict[str, Any]]) -> None:
    """Columns that not every score has: the human-normalised score, and episodes that did not end."""
    human = [one["score"]["human_normalized_score"] for one in done if "human_normalized_score" in one["score"]]
    if human:
        report.say(f"{row.env}: human-normalised score {statistics.fmean(human):.2f} (0 is random play, 1 a human's).")
        report.say()
    cut, played = (sum(one["score"][name] for one in done) for name in ("num_cut", "episodes"))
    if cut:
        report.say(f"{row.env}, {row.label}: {cut} of {played} episodes were cut, since they did not end.")
        report.say()


def _tell_food(report: Report, row: Row, done: list[dict[str, Any]]) -> None:
    """Food and poison per 1,000 steps of the trained agent and of a random one, on the same episodes."""

    def figures(counted: dict[str, float]) -> list[float]:
        food, poison = counted["food_per_1000_steps"], counted["poison_per_1000_steps"]
        return [food, poison, food - poison]

    each = [(figures(one["foraged"]), figures(one["foraged_at_random"])) for one in done]
    if not each:
        return
    means = tuple([statistics.fmean(column) for column in zip(*side, strict=True)] for side in zip(*each, strict=True))
    lines = []
    for name, (agent, chance) in zip([*(one["seed"] for one in done), "mean"], [*each, means], strict=True):
        ratio = f"{agent[2] / chance[0]:.1f}" if chance[0] else "-"
        lines.append([name, *(f"{value:.2f}" for value in agent), *(f"{value:.2f}" for value in chance), ratio])
    report.say(f"{row.env}: food and poison per 1,000 steps, on the episodes of the score.")
    report.say()
    header = ["seed", "food", "poison", "food - poison", "random: food", "random: poison", "random: food - poison"]
    report.table([*header, "food - poison, times random's food"], lines)


def _tell_settings(report: Report, rows: Sequence[Row], threads: int) -> None:
    """Each env's preset, as far as it differs from the defaults."""
    defaults, told = asdict(DQNConfig()), set()
    for row in rows:
        if (row.algorithm, row.env) in told:
            continue
        told.add((row.algorithm, row.env))
        known = preset(row.algorithm, row.env)
        settings = {name: value for name, value in asdict(known.config).items() if value != defaults[name]}
        listed = ", ".join(f"{name} {_plain(value)}" for name, value in settings.items()) or "the defaults"
        kwargs = f"; env_kwargs {json.dumps(dict(known.env_kwargs))}" if known.env_kwargs else ""
        report.say(f"`preset({row.algorithm!r}, {row.env!r})` ({known.source}): {listed}{kwargs}.")
    if any(row.flags for row in rows):
        report.say(
            "The flags in the algorithm's column replace the preset's own, and are off where they are not named."
        )
    report.say(f"Every seed is a process with {threads} torch thread{'s' if threads > 1 else ''}.")
    report.say()


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _tell_unfinished(
    report: Report, rows: Sequence[Row], found: Sequence[Sequence[dict[str, Any] | None]], suite: Path
) -> None:
    """Notes on the accuracy of the seconds, and on what is missing."""
    done = [one for figures in found for one in _finished(figures)]
    at_once = max((one["at_once"] for one in done), default=1)
    seconds = "Training seconds are those of the run's own clock: evaluations and checkpoints count, the score does not"
    report.say(
        f"{seconds}; up to {at_once} processes ran at once, so they say little of one alone."
        if at_once > 1
        else f"{seconds}. One process ran at a time."
    )
    missing = [seed for row in rows for seed in seeds_of(row, suite) if not seed.figures.exists()]
    begun = [(seed, lines[-1]["step"]) for seed in missing if (lines := read_jsonl(seed.run / PROGRESS))]
    if missing:
        at = "; ".join(f"{seed} at step {step:,} of {seed.row.total_steps:,}" for seed, step in begun[:8])
        more = f" and {len(begun) - 8} more" if len(begun) > 8 else ""
        report.say(
            f"**Not complete**: {len(done)} of {len(done) + len(missing)} seeds. Begun: {at or 'none'}{more}. "
            f"Not begun: {len(missing) - len(begun)}."
        )
    report.say()
