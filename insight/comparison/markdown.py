"""Markdown of a report of training runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from torso.envs.games.atari_scores import incomparable_score_note, protocol_text
from torso.insight.comparison.run_records import RunGroup
from torso.insight.comparison.scores import Estimate, GamesAggregate, GroupScores, Improvement, SeedScores

_PROFILES = "The share of runs whose score is above each threshold τ. A line to the right of another is better."
_CURVES = (
    "The interquartile mean over seeds of the evaluations during the training, by env steps. A line ends where its "
    "shortest run ends."
)
_FEW_SEEDS = (
    "Intervals of few seeds say little**: a bootstrap resamples the seeds that there are, so of a handful its interval "
    "is likelier too narrow than too wide, and of one seed there is none."
)
_BEST = (
    "- Best network: the one that did best in the evaluations during its training; its score is the mean return of {} "
    "fresh greedy episodes, with seeds that selected nothing."
)
_LAST = (
    "- Last network: the one at the end of the training; its score is the mean return of the {} greedy episodes of the "
    "last evaluation."
)
_TERMS = (
    "- Returns are undiscounted sums of the env's own rewards. Env steps are decisions of the agent, in all envs of a "
    "run together. The deviation is over seeds, with n in the denominator.\n"
    "- IQM: interquartile mean, that of the middle half of the scores; intervals are stratified bootstrap percentile "
    "intervals of 95% (Agarwal et al. 2021, arXiv 2108.13264)."
)
_HUMAN = (
    "Mean over seeds; 0 is the published score of random play, 1 that of a human (Mnih et al. 2015; Wang et al. 2016)."
)
_OVER_GAMES = (
    "Over {} games, for the algorithms that played all of them; the optimality gap is the mean amount by which runs "
    "fall short of a human:"
)
_IMPROVEMENT = (
    "The probability that a run of the first algorithm scores more than one of the second, ties counting one half "
    "(Mann-Whitney). An interval that holds 0.5 does not tell them apart. Where every run of one beats every run of "
    "the other, no resample differs, however few seeds there are: [0, 0] and [1, 1] are no certainty."
)


def report_text(
    rows: Sequence[GroupScores],
    compared: Sequence[Improvement],
    over_games: Sequence[GamesAggregate],
    versions: Mapping[str, Counter[str]],
    apart: Sequence[RunGroup],
    *,
    profiles: str,
    curves: str,
) -> str:
    """Format a report.

    apart: groups without a curve, since their runs share no steps. profiles, curves: file names of the pictures.
    """
    parts = [
        _intro(rows),
        "## Scores",
        _scores(rows),
        _notes(rows),
        *_atari(rows, over_games),
        *_improvements(compared),
        "## Performance profiles",
        _PROFILES,
        f"![performance profiles]({profiles})",
        "## Learning curves",
        *([_CURVES, f"![learning curves]({curves})"] if len(apart) < len(rows) else []),
        *(
            f"Without a curve: {each.env}, {each.label}. Its runs were never evaluated at a common step."
            for each in apart
        ),
        "## Runs",
        _runs(rows),
        "## Versions",
        _versions(versions),
    ]
    return "\n\n".join(parts) + "\n"


def _intro(rows: Sequence[GroupScores]) -> str:
    counts = [len(row.group.runs) for row in rows]
    runs, few, many = sum(counts), min(counts), max(counts)
    seeds = f"{few}" if few == many else f"{few} to {many}"
    return f"# {_number(runs, 'training run')}\n\n**{seeds} seed{'' if many == 1 else 's'} a row. {_FEW_SEEDS}"


def _scores(rows: Sequence[GroupScores]) -> str:
    header = ["env", "algorithm", "seeds", "env steps"]
    for network in ("best", "last"):
        header += [f"{network} network: mean ± deviation", f"{network} network: IQM [95% interval]"]
    lines = []
    for row in rows:
        cells = [row.group.env, row.group.label, str(len(row.group.runs)), row.steps_text]
        for scores in (row.best, row.last):
            spread = f" ± {scores.std:,.3g}" if len(scores.scores) > 1 else ""
            cells += [f"{scores.mean:,.4g}{spread}", _interval(scores.iqm)]
        lines.append(cells)
    return _table(header, lines)


def _notes(rows: Sequence[GroupScores]) -> str:
    runs = [run for row in rows for run in row.group.runs]
    fresh = sorted({int(run.score["episodes"]) for run in runs})
    during = sorted({int(run.settings["evaluation_episodes"]) for run in runs if "evaluation_episodes" in run.settings})
    cut = sum(int(run.score.get("num_cut", 0)) for run in runs)
    lines = [_BEST.format(_listed(fresh)), _LAST.format(_listed(during)), _TERMS]
    if cut:
        lines.append(f"- {_number(cut, 'episode')} of the best networks' scores did not end, and were truncated.")
    return "\n".join(lines)


def _atari(rows: Sequence[GroupScores], over_games: Sequence[GamesAggregate]) -> list[str]:
    games = [row for row in rows if row.best.human_normalized_mean is not None]
    if not games:
        return []
    header = ["game", "algorithm", "seeds", "env steps", "best network", "last network", "protocol", "comparable"]
    lines = []
    for row in games:
        run = row.group.runs[0]
        note = incomparable_score_note(run.env_id, run.env_kwargs)
        lines.append(
            [
                run.env_id,
                row.group.label,
                str(len(row.group.runs)),
                row.steps_text,
                _human(row.best),
                _human(row.last),
                protocol_text(run.env_id, run.env_kwargs) or "-",
                "with published scores" if note is None else note,
            ]
        )
    parts = [
        "## Atari: human-normalised scores",
        _HUMAN,
        _table(header, lines),
    ]
    if over_games:
        parts += [
            _OVER_GAMES.format(over_games[0].num_games),
            _table(
                ["algorithm", "network", "IQM [95% interval]", "median", "mean", "optimality gap"],
                [
                    [
                        each.label,
                        each.network,
                        *map(_interval, (each.iqm, each.median, each.mean, each.optimality_gap)),
                    ]
                    for each in over_games
                ],
            ),
        ]
    return parts


def _human(scores: SeedScores) -> str:
    return "-" if scores.human_normalized_mean is None else f"{scores.human_normalized_mean:.2f}"


def _improvements(compared: Sequence[Improvement]) -> list[str]:
    title = "## Probability of improvement"
    if not compared:
        return [title, "It needs two algorithms in one env with at least 2 seeds each; here there are none."]
    lines = [
        [
            each.envs[0] if len(each.envs) == 1 else f"mean over {len(each.envs)} envs",
            each.first,
            each.second,
            _interval(each.best),
            _interval(each.last),
        ]
        for each in compared
    ]
    return [
        title,
        _IMPROVEMENT,
        _table(["env", "first", "second", "best networks [95% interval]", "last networks [95% interval]"], lines),
    ]


def _runs(rows: Sequence[GroupScores]) -> str:
    lines = []
    for row in rows:
        for run, best, last in zip(row.group.runs, row.best.scores, row.last.scores, strict=True):
            cells = [str(run.path), row.group.env, row.group.label, str(run.seed), f"{run.total_steps:,}"]
            cells += ["-" if run.best_step is None else f"{run.best_step:,}", f"{best:,.4g}", f"{last:,.4g}"]
            lines.append(cells)
    header = ["run", "env", "algorithm", "seed", "env steps", "best network's step", "best network", "last network"]
    return _table(header, lines)


def _versions(versions: Mapping[str, Counter[str]]) -> str:
    lines = []
    for name, counts in versions.items():
        several = len(counts) > 1
        texts = [f"{version} ({_number(n, 'run')})" if several else version for version, n in counts.items()]
        lines.append([name, ", ".join(texts)])
    return _table(["package", "version"], lines) if lines else "The runs record none."


def _interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:,.4g}"
    return f"{estimate.value:,.4g} [{estimate.low:,.4g}, {estimate.high:,.4g}]"


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _listed(numbers: Iterable[int]) -> str:
    return " or ".join(f"{number:,}" for number in numbers) or "?"


def _table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in rows)


def _cell(text: str) -> str:
    """Escape a text for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
