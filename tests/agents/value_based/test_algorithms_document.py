"""``docs/algorithms.md``: its table is the algorithm table, each row has a section, its files are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from torso.agents import DQNConfig, PQNConfig
from torso.agents.value_based.algorithms import algorithm_names, algorithm_row
from torso.agents.value_based.exploration import EXPLORATIONS
from torso.agents.value_based.families import all_algorithm_names
from torso.agents.value_based.next_policies import GREEDY_ONLINE, GREEDY_TARGET, SoftmaxPolicy

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
DOCUMENT = Path(__file__).parents[3] / "docs" / "algorithms.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")


def row_of(name: str) -> str:
    """A row of the algorithm table as the document writes it."""
    row = algorithm_row(name)
    head = [row.head.replace("-", " "), *(flag for flag in ("dueling", "noisy") if getattr(row, flag))]
    policies = {GREEDY_TARGET: "greedy, target", GREEDY_ONLINE: "greedy, online", SoftmaxPolicy(): "softmax"}
    explores = {"epsilon": "epsilon", "noisy": "noise"}[row.exploration]
    replay = "prioritized" if row.prioritized else "uniform"
    return f"| `{name}` | {', '.join(head)} | {policies[row.next_policy]} | {explores} | {replay} | {row.n_step} |"  # type: ignore[index]


def test_the_table_is_the_algorithm_table() -> None:
    rows = [line for line in TEXT.splitlines() if re.match(r"\| `[\w-]+` \|.*\| \d \|$", line)]
    assert rows == [row_of(name) for name in algorithm_names()]


def test_each_row_has_a_section_with_its_paper() -> None:
    sections = re.split(r"\n## ", TEXT)[1:]
    for name in algorithm_names():
        [section] = [each for each in sections if each.startswith(f"`{name}`")]
        for author in re.findall(r"[A-Z][a-z]+(?= et al\.)", algorithm_row(name).source):
            assert author in section, name
    [of_pqn] = [each for each in sections if each.startswith("`pqn`")]
    own = set(PQNConfig.__dataclass_fields__) - set(DQNConfig.__dataclass_fields__)
    assert {name for name in own if f"`{name}`" in of_pqn} == own


def test_each_exploration_is_there() -> None:
    assert set(re.findall(r"^\| `(\w+)` \| (?:a|the|an) ", TEXT, re.MULTILINE)) == set(EXPLORATIONS)


def test_the_files_it_names_are_there() -> None:
    paths = re.findall(r"\]\((\.\./[^)]+)\)", TEXT)
    assert len(paths) > 10
    for path in paths:
        assert (DOCUMENT.parent / path).exists(), path


def test_its_scores_are_those_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import learning_pages

    assert learning_pages.page_with(TEXT, learning_pages.read_results(BENCHMARKS / "results" / "learning")) == TEXT
    marks = re.findall(r"<!-- measured ([\w-]+) -->", TEXT)
    assert marks == [*all_algorithm_names(), "all"]
    assert all((DOCUMENT.parent / "images" / "algorithms" / f"{name}.png").is_file() for name in marks[:-1])
