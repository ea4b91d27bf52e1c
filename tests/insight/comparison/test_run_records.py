"""Records of runs: what a group is, its label, its figures, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from torso.errors import RunError
from torso.insight.comparison.run_records import RunRecord, group_runs, require_env


def record(seed: int = 0, *, algorithm: str = "dqn", env_id: str = "CartPole-v1", **others: Any) -> RunRecord:
    settings = {"total_steps": 100, "learning_rate": 0.1, "double": False, "hidden": [8], "log_period": 10}
    fields = {"env_kwargs": {}, "wrappers": (), "lines": (), "summary": None}
    for name in [*fields]:
        fields[name] = others.pop(name, fields[name])
    return RunRecord(
        path=Path(f"runs/{env_id}-{algorithm}-{seed}"),
        env_id=env_id,
        algorithm=algorithm,
        seed=seed,
        settings={**settings, **others},
        versions={},
        **fields,
    )


def groups(runs: list[RunRecord], **options: Any) -> list[tuple[str, str, list[int]]]:
    return [(each.env, each.label, [run.seed for run in each.runs]) for each in group_runs(runs, **options)]


def test_runs_that_differ_in_the_seed_alone_are_a_group() -> None:
    assert groups([record(3), record(1), record(2)]) == [("CartPole-v1", "dqn", [1, 2, 3])]


def test_a_label_names_what_differs_within_the_algorithm() -> None:
    runs = [
        record(0),
        record(1),
        record(0, learning_rate=0.2),
        record(0, learning_rate=0.2, double=True, hidden=[8, 4]),
        record(0, algorithm="n-step", learning_rate=0.7),  # its other settings come with another algorithm
    ]
    assert groups(runs) == [
        ("CartPole-v1", "dqn, learning_rate 0.1, double off, hidden 8", [0, 1]),
        ("CartPole-v1", "dqn, learning_rate 0.2, double off, hidden 8", [0]),
        ("CartPole-v1", "dqn, learning_rate 0.2, double on, hidden 8 4", [0]),
        ("CartPole-v1", "n-step", [0]),
    ]


def test_envs_have_groups_of_their_own() -> None:
    runs = [
        record(0),
        record(0, env_id="ALE/Pong-v5", learning_rate=0.5),
        record(1),
        record(0, algorithm="c51"),
        record(0, env_id="ALE/Pong-v5", env_kwargs={"protocol": "dqn2015"}, learning_rate=0.5),
        record(0, wrappers=("mine:Clipped",)),
    ]
    assert groups(runs) == [
        ("CartPole-v1", "dqn", [0, 1]),
        ("CartPole-v1", "c51", [0]),
        ("ALE/Pong-v5 (sticky actions of probability 0.25)", "dqn", [0]),
        ("ALE/Pong-v5 (protocol dqn2015, no sticky actions)", "dqn", [0]),
        ("CartPole-v1 (wrapper mine:Clipped)", "dqn", [0]),
    ]


def test_settings_of_the_logs_alone_are_no_difference() -> None:
    assert groups([record(0), record(1, log_period=5, video_period=50)]) == [("CartPole-v1", "dqn", [0, 1])]


def test_runs_of_another_length_are_a_group_only_where_they_may() -> None:
    runs = [record(0), record(1, total_steps=200)]
    assert groups(runs, any_length=True) == [("CartPole-v1", "dqn", [0, 1])]
    assert [label for _, label, _ in groups(runs)] == ["dqn, total_steps 100", "dqn, total_steps 200"]


def test_a_seed_counts_once() -> None:
    with pytest.raises(RunError, match="must have different seeds, got seed 2 in runs/CartPole-v1-dqn-2 and runs/"):
        group_runs([record(2), record(1), record(2)])
    with pytest.raises(RunError, match="runs to compare must be at least 1, got none"):
        group_runs([])


def test_a_curve_leaves_out_what_is_no_number() -> None:
    lines = [
        {"step": 10, "loss": None, "episodes": 1},
        {"step": 15, "loss": float("nan"), "episodes": 2},
        {"step": 20, "loss": 3.0},
        {"step": 20, "evaluation_return": 7, "is_best": True},
        {"step": 20, "evaluation_return": 8.0, "is_best": False},  # of a resume at that step
        {"step": 30, "loss": 1.0},
    ]
    run = record(lines=lines)
    steps, losses = run.curve("loss")
    assert (steps.tolist(), losses.tolist()) == ([20, 30], [3.0, 1.0])
    assert run.curve("evaluation_return")[1].tolist() == [8.0]
    with pytest.raises(
        RunError, match=r"metric must be a figure of runs/.*: episodes, evaluation_return, loss; got 'q'"
    ):
        run.curve("q")
    with pytest.raises(RunError, match="metric must be a figure"):
        run.curve("is_best")  # true or false


def test_a_run_without_evaluations_is_named() -> None:
    with pytest.raises(RunError, match="runs/CartPole-v1-dqn-0 must have evaluations"):
        record(lines=[{"step": 1, "loss": 1.0}]).curve("evaluation_return")
    with pytest.raises(RunError, match="has no figures yet"):
        record().curve("loss")


def test_scores_are_those_of_an_ended_run() -> None:
    lines = [{"step": 10, "evaluation_return": 9.0}, {"step": 20, "evaluation_return": 4.0}]
    run = record(lines=lines, summary={"total_steps": 21, "score": {"mean_return": 8.5}})
    assert (run.best_score, run.last_score, run.total_steps) == (8.5, 4.0, 21)
    for unfinished in ("best_score", "last_score", "total_steps"):
        with pytest.raises(RunError, match=r"must have ended.* torso train --out runs/CartPole-v1-dqn-0 --resume"):
            getattr(record(lines=lines), unfinished)
    with pytest.raises(RunError, match="must have evaluations"):
        _ = record(lines=lines, summary={"total_steps": 20, "score": None}).best_score


def test_runs_of_another_env_can_be_refused() -> None:
    runs = [record(), record(env_id="Acrobot-v1")]
    require_env(runs[:1], "CartPole-v1")
    with pytest.raises(RunError, match="runs must be of CartPole-v1, got one of Acrobot-v1: runs/Acrobot-v1-dqn-0"):
        require_env(runs, "CartPole-v1")
