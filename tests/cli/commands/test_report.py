"""Tests of ``torso report``: its files, its figures, real runs, and one-line errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recorded_runs import record_run

Run = Callable[..., Any]

QUICKLY = (
    *("--steps", 200, "--hidden", 8, "--batch-size", 8, "--min-replay-size", 32, "--epsilon-decay-steps", 100),
    *("--evaluation-period", 100, "--evaluation-episodes", 2, "--log-period", 50),
)


def test_trained_runs_are_reported(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scores = {}
    for algorithm in ("dqn", "qr-dqn"):
        for seed in (0, 1):
            train = ("train", algorithm, "--env", "torso/Identity-v0", "--seed", seed, *QUICKLY, "--json")
            summary = json.loads(run(*train, "--out", f"{algorithm}-{seed}").out)
            scores[algorithm, seed] = summary["score"]["mean_return"]
    found = run("report", "dqn-0", "qr-dqn-1", "qr-dqn-0", "dqn-1")
    assert (found.code, found.err) == (0, "")
    assert found.out.splitlines() == [
        "report: report/report.md",
        "profiles: report/profiles.png",
        "curves: report/curves.png",
    ]
    figures = json.loads(run("report", "dqn-0", "qr-dqn-1", "qr-dqn-0", "dqn-1", "--out", "again", "--json").out)
    assert [(row["label"], row["seeds"], row["total_steps"]) for row in figures["rows"]] == [
        ("dqn", [0, 1], [200, 200]),
        ("qr-dqn", [0, 1], [200, 200]),
    ]
    for row in figures["rows"]:
        assert row["best"]["scores"] == [scores[row["label"], seed] for seed in (0, 1)]
        logs = [Path(each, "progress.jsonl").read_text().splitlines() for each in row["runs"]]
        last = [
            [json.loads(line)["evaluation_return"] for line in log if "evaluation_return" in line][-1] for log in logs
        ]
        assert row["last"]["scores"] == last
    [improvement] = figures["improvements"]
    assert (improvement["first"], improvement["second"]) == ("dqn", "qr-dqn")
    text = Path("report/report.md").read_text()
    assert text == Path("again/report.md").read_text()
    assert "| torso/Identity-v0 | dqn | 2 | 200 | " in text
    assert f"| torso | {figures['versions']['torso'].popitem()[0]} |" in text


def test_mistakes_end_in_a_line_and_write_nothing(run: Run, tmp_path: Path) -> None:
    done = record_run(tmp_path / "done", {100: 10.0})
    going = record_run(tmp_path / "going", {100: 10.0}, seed=1, ended=False)
    blind = record_run(tmp_path / "blind", {}, seed=2, losses={100: 1.0}, evaluation_period=None)
    file = tmp_path / "file"
    file.write_text("")
    out = tmp_path / "report"
    for arguments, message in (
        ([], "missing from torso report: RUN"),
        ([done, tmp_path / "nowhere"], "must be the run directory of a training, got nothing there"),
        ([done, going], f"{going} must have ended, got a run without summary.json"),
        ([done, blind], f"{blind} must have evaluations, got a run without any"),
        ([done, done], "must have different seeds, got seed 0"),
        ([done, "--seed", -1], "--seed must not be negative, got -1"),
        ([done, "--out", file], f"cannot create the directory {file}"),
    ):
        options = [] if "--out" in arguments else ["--out", out]
        assert message in run("report", *arguments, *options).error
        assert not out.exists()


def test_runs_of_other_lengths_are_rows_of_their_own(run: Run, tmp_path: Path) -> None:
    short = record_run(tmp_path / "short", {100: 10.0})
    long = record_run(tmp_path / "long", {100: 10.0, 200: 30.0}, seed=1)
    rows = json.loads(run("report", short, long, "--out", tmp_path / "report", "--json").out)["rows"]
    assert [(row["label"], row["best"]["mean"]) for row in rows] == [
        ("dqn, total_steps 100", 10.0),
        ("dqn, total_steps 200", 30.0),
    ]
