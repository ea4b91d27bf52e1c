"""Scores and curves of docs/algorithms.md: ``python benchmarks/learning_pages.py [--results FOLDER]``.

Writes, from the results of ``learning.py``, the table and the picture of each algorithm's section, and a table of all.
A score is the mean return of a network's fresh greedy episodes, a mean over the seeds with the least and the greatest.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from report import RESULTS

from torso.agents.value_based.families import all_algorithm_names
from torso.insight.comparison.curves import plot_curves
from torso.insight.comparison.run_records import RunRecord, group_runs

ROOT = Path(__file__).parents[1]
PAGE, PICTURES = ROOT / "docs" / "algorithms.md", ROOT / "docs" / "images" / "algorithms"
SECTIONS = {  # those whose runs are of single algorithms, by what a table calls them
    "cartpole": "CartPole-v1",
    "acrobot": "Acrobot-v1",
    "breakout": "MinAtar/Breakout-v1",
    "more-breakout": "MinAtar/Breakout-v1",
    "full-breakout": "MinAtar/Breakout-v1",
    "invaders": "MinAtar/SpaceInvaders-v1",
    "pong": "ALE/Pong-v5, sticky actions 0.25",
    "pqn-cartpole": "CartPole-v1",
    "pqn-acrobot": "Acrobot-v1",
    "pqn-lunarlander": "LunarLander-v3",
    "pqn-forager": "torso/Forager-v0",
    "pqn-breakout": "MinAtar/Breakout-v1",
    "pqn-asterix": "MinAtar/Asterix-v1",
    "pqn-freeway": "MinAtar/Freeway-v1",
    "pqn-seaquest": "MinAtar/Seaquest-v1",
    "pqn-invaders": "MinAtar/SpaceInvaders-v1",
    "pqn-pong": "ALE/Pong-v5, no sticky actions",
    "pqn-atari-breakout": "ALE/Breakout-v5, no sticky actions",
}
_BASE = "dqn"  # drawn beside each
Result = Mapping[str, Any]


def read_results(folder: Path) -> list[Result]:
    """Read the results of the sections, in the order of sections, algorithms and seeds."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    found = [(section_of(each), each) for each in results]
    sections, names = list(SECTIONS), all_algorithm_names()
    known = [(sections.index(section), each) for section, each in found if section in SECTIONS]
    known.sort(key=lambda item: (item[0], names.index(item[1]["algorithm"]), item[1]["seed"]))
    return [each for _, each in known]


def section_of(result: Result) -> str:
    """Section of the plan that a result is of: its name without label and seed."""
    return str(result["name"]).removesuffix(f"-{result['label']}-{result['seed']}")


def record_of(result: Result) -> RunRecord:
    """Make the record of a run from its result."""
    return RunRecord(
        path=Path(result["name"]),
        env_id=result["env"],
        env_kwargs=result["env_kwargs"],
        algorithm=result["algorithm"],
        settings={**result["settings"], "total_steps": result["steps"]},
        seed=result["seed"],
        lines=[{"step": step, "evaluation_return": mean} for step, mean, *_ in result["evaluations"]],
        summary={"total_steps": result["total_steps"], "score": result["best"], "best_step": result["best"]["step"]},
        versions=result["versions"],
    )


def spread(scores: Sequence[float]) -> str:
    """Format a mean over seeds, with the least and the greatest where there are several."""
    mean = f"{sum(scores) / len(scores):,.1f}"
    return mean if len(scores) == 1 else f"{mean} ({min(scores):,.1f} to {max(scores):,.1f})"


def score_lines(results: Sequence[Result], *, with_algorithm: bool) -> list[str]:
    """Lines of a table, one for each env, number of steps and algorithm."""
    groups: dict[tuple[str, int, str], list[Result]] = {}
    for each in results:
        groups.setdefault((SECTIONS[section_of(each)], each["steps"], each["label"]), []).append(each)
    lines = []
    for (env, steps, label), members in groups.items():
        goal = members[0]["goal"]
        reached = sum(each["is_goal_reached"] for each in members) if goal is not None else None
        cells = [
            env,
            *([f"`{label}`"] if with_algorithm else []),
            f"{steps:,}",
            str(len(members)),
            spread([each["best"]["mean_return"] for each in members]),
            spread([each["last"]["mean_return"] for each in members]),
            "" if reached is None else f"{goal:g}: {reached} of {len(members)}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def score_table(results: Sequence[Result], *, with_algorithm: bool) -> str:
    """Format a Markdown table of scores."""
    names = [
        "env",
        *(["row"] if with_algorithm else []),
        "steps",
        "seeds",
        "best network",
        "last network",
        "goal reached",
    ]
    head = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    return "\n".join([*head, *score_lines(results, with_algorithm=with_algorithm)])


def block(name: str, results: Sequence[Result]) -> str:
    """Picture, caption and score table of an algorithm, as Markdown."""
    own = [each for each in results if each["label"] == name]
    beside = f", and `{_BASE}`'s" if _beside(name, results) else ""
    picture = f"![Evaluation returns of {name} by env step](images/algorithms/{name}.png)"
    caption = f"*Evaluations of `{name}`{beside}: the mean over seeds, with a band from the least to the greatest.*"
    return "\n\n".join([picture, caption, score_table(own, with_algorithm=False)])


def page_with(text: str, results: Sequence[Result]) -> str:
    """Replace what stands between the page's marks, ``<!-- measured NAME -->`` and ``<!-- end -->``."""

    def replaced(found: re.Match[str]) -> str:
        name = found[1]
        inner = score_table(results, with_algorithm=True) if name == "all" else block(name, results)
        return f"<!-- measured {name} -->\n{inner}\n<!-- end -->"

    return re.sub(r"<!-- measured ([\w-]+) -->\n.*?<!-- end -->", replaced, text, flags=re.DOTALL)


def draw(name: str, results: Sequence[Result], folder: Path) -> None:
    """Draw the curves of an algorithm, with DQN's beside them in the same envs at the same number of steps."""
    own = [each for each in results if each["label"] == name]
    plot_curves(group_runs([record_of(each) for each in [*own, *_beside(name, results)]]), folder / f"{name}.png")


def _beside(name: str, results: Sequence[Result]) -> list[Result]:
    """DQN's results in the envs of another algorithm's, over as many steps."""
    places = {(each["env"], each["steps"]) for each in results if each["label"] == name}
    return [each for each in results if each["label"] == _BASE != name and (each["env"], each["steps"]) in places]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and its pictures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS / "learning", help="where the results are")
    options = parser.parse_args(arguments)
    results = read_results(options.results)
    text = PAGE.read_text(encoding="utf-8")
    for name in re.findall(r"<!-- measured ([\w-]+) -->", text):
        if name != "all":
            draw(name, results, PICTURES)
    PAGE.write_text(page_with(text, results), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {len(results)} runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
