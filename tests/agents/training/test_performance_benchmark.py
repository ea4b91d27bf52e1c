"""``benchmarks/performance.py``: its cases run, its limit is that of the parts, and the page has what was measured."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]
CASE = {"emulator": 6_000.0, "acting": 3_000.0, "update": 2_000.0, "training": 750.0}


@pytest.fixture
def performance(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("performance")


def test_the_limit_is_that_of_its_parts_one_after_the_other(performance: ModuleType) -> None:
    assert performance.limit_of(CASE) == pytest.approx(1_000.0)
    table = performance.limits_table("CartPole-v1", {"limits, CartPole-v1, dqn": CASE})
    assert table.splitlines()[2] == "| `dqn` | 6,000 | 3,000 | 2,000 | 1,000 | 750 | 75% |"


def test_each_kind_of_case_can_be_measured(performance: ModuleType) -> None:
    cases = performance.cases(0.02)
    assert len(cases) > 60
    of_cartpole = (
        "limits, CartPole-v1, pqn",
        "profile, CartPole-v1, pqn",
        "envs, CartPole-v1, 2",
        "batch, CartPole-v1, 16",
        "width, CartPole-v1, 64",
    )
    for name in (*of_cartpole, "replay, uniform, 10000", "replay, prioritized, 10000"):
        assert max(cases[name]().values()) > 0, name


def test_shares_of_a_profile_are_told(performance: ModuleType) -> None:
    case = {"steps_per_s": 1_234.0, "env": 0.3, "act": 0.1, "store": 0.02, "sample": 0.0, "learn": 0.5, "rest": 0.08}
    table = performance.profile_table({"profile, CartPole-v1, dqn": case})
    assert table.splitlines()[2:] == ["| CartPole-v1 | `dqn` | 1,234 | 30% | 10% | 2% | 0% | 50% | 8% |"]


def test_the_picture_has_what_was_measured(performance: ModuleType) -> None:
    found = {
        "envs, CartPole-v1, 8": {"emulator": 2.0, "acting": 3.0},
        "envs, CartPole-v1, 1": {"emulator": 1.0, "acting": 1.5},
        "replay, uniform, 10000": {"sample": 0.1},
    }
    panels = {panel.title: panel for panel in performance.panels_of(found)}
    assert list(panels) == ["a step of all envs", "a minibatch of 32"]
    line = panels["a step of all envs"].lines[0]
    assert (line.x.tolist(), line.y.tolist()) == ([1.0, 8.0], [1.0, 2.0])


def test_the_page_has_the_committed_measurements(performance: ModuleType) -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "performance.json").read_text(encoding="utf-8"))["cases"]
    page = performance.PAGE.read_text(encoding="utf-8")
    assert performance.page_with(page, found) == page
    assert {f"limits, {env}, {name}" for env, (_, names) in performance.ENVS.items() for name in names} <= set(found)
