"""Tests of ``torso plot``: lines over seeds, panels of envs, metrics, and one-line errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread
from recorded_runs import record_run

Run = Callable[..., Any]


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two seeds of dqn, one of them longer, and one of c51."""
    losses = {50: None, 100: 4.0, 200: 2.0}
    return [
        record_run(tmp_path / "dqn-0", {100: 10.0, 200: 20.0, 300: 60.0}, losses=losses),
        record_run(tmp_path / "dqn-1", {100: 30.0, 200: 40.0}, seed=1, losses=losses),
        record_run(tmp_path / "c51-0", {100: 5.0, 200: 6.0}, algorithm="c51", ended=False),
    ]


def test_it_plots_a_line_for_each_algorithm(
    run: Run, runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = run("plot", *runs)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        "CartPole-v1, dqn: 2 seeds, 30 at step 200",
        "CartPole-v1, c51: 1 seed, 6 at step 200",
        "plot: curves.png",
    ]
    assert min(imread(tmp_path / "curves.png").shape[:2]) > 300


def test_one_json_object_has_what_is_plotted(run: Run, runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "pictures" / "here.png"
    ended = run("plot", *runs[:2], "--out", out, "--json", "--band", "std")
    assert (ended.code, ended.err) == (0, "")
    found = json.loads(ended.out)
    assert (found["plot"], found["metric"], found["band"]) == (str(out), "evaluation_return", "std")
    [line] = found["lines"]
    assert (line["env"], line["label"], line["seeds"]) == ("CartPole-v1", "dqn", [0, 1])
    assert line["runs"] == [str(each) for each in runs[:2]]
    assert (line["steps"], line["mean"]) == ([100, 200], [20.0, 30.0])
    assert (line["low"], line["high"]) == ([10.0, 20.0], [30.0, 40.0])
    assert out.read_bytes().startswith(b"\x89PNG")


def test_other_figures_of_the_log(run: Run, runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "curves.png"
    for metric, means in (("loss", [4.0, 2.0]), ("episode_return", [5.0, 10.0, 20.0])):
        found = json.loads(run("plot", *runs[:2], "--metric", metric, "--out", out, "--json").out)
        assert found["lines"][0]["mean"] == means
    error = run("plot", *runs, "--metric", "losss", "--out", out).error
    known = "episode_return, episodes, evaluation_return, evaluation_std, loss"
    assert error == f"metric must be a figure of {runs[0]}: {known}; got 'losss'"


def test_each_env_has_a_panel(run: Run, runs: list[Path], tmp_path: Path) -> None:
    acrobot = record_run(tmp_path / "acrobot", {100: -400.0, 200: -100.0}, env_id="Acrobot-v1")
    out = tmp_path / "curves.png"
    lines = json.loads(run("plot", *runs, acrobot, "--out", out, "--json").out)["lines"]
    assert [(each["env"], each["label"]) for each in lines] == [
        ("CartPole-v1", "dqn"),
        ("CartPole-v1", "c51"),
        ("Acrobot-v1", "dqn"),
    ]
    two_panels = imread(out)
    assert run("plot", *runs, "--out", out).code == 0
    assert imread(out).shape[1] < two_panels.shape[1]
    assert run("plot", *runs, acrobot, "--env", "CartPole-v1").error == (
        f"runs must be of CartPole-v1, got one of Acrobot-v1: {acrobot}; leave it out"
    )
    assert run("plot", *runs, "--env", "CartPole-v1", "--out", out).code == 0


def test_settings_that_differ_name_a_line(run: Run, tmp_path: Path) -> None:
    slow = record_run(tmp_path / "slow", {1: 1.0}, learning_rate=1e-5)
    fast = record_run(tmp_path / "fast", {1: 2.0}, learning_rate=1e-3)
    ended = run("plot", slow, fast, "--out", tmp_path / "curves.png")
    assert [line.partition(":")[0] for line in ended.out.splitlines()[:2]] == [
        "CartPole-v1, dqn, learning_rate 1e-05",
        "CartPole-v1, dqn, learning_rate 0.001",
    ]


def test_mistakes_end_in_a_line_and_write_nothing(run: Run, runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "pictures" / "curves.png"
    blind = record_run(tmp_path / "blind", {}, losses={100: 1.0}, evaluation_period=None)
    later = record_run(tmp_path / "later", {900: 1.0}, seed=5)
    for arguments, message in (
        ([], "missing from torso plot: RUN"),
        ([tmp_path], f"{tmp_path} must be the run directory of a training, got a directory without config.json"),
        ([tmp_path / "nowhere"], "must be the run directory of a training, got nothing there"),
        ([*runs, blind], f"{blind} must have evaluations, got a run without any"),
        ([runs[0], runs[0]], f"must have different seeds, got seed 0 in {runs[0]} and {runs[0]}"),
        ([runs[0], later], "of runs must have steps in common, got"),
        ([*runs, "--out", "curves.pdf"], "--out must be a file name that ends in .png, got curves.pdf"),
        ([*runs, "--band", "iqr"], "--band must be one of min-max, std, none, got 'iqr'"),
        ([*runs, "--out", runs[0] / "config.json" / "a.png"], "cannot create the directory"),
    ):
        options = [] if "--out" in arguments else ["--out", out]
        assert message in run("plot", *arguments, *options).error
        assert not out.parent.exists()
    assert run("plot", blind, "--metric", "loss", "--out", out).code == 0
