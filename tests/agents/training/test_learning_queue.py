"""The queue of learning runs: its plan can be trained as it stands, and a run that is stopped goes on where it was."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType

import pytest

from torso.agents import preset
from torso.agents.runs.trackers import PROGRESS
from torso.agents.value_based.algorithms import algorithm_names
from torso.agents.value_based.training_config import TrainingConfig
from torso.errors import ConfigError

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
TINY = """
[tiny]
env = "torso/Identity-v0"
steps = 8_000
episodes = 5
goal = 0.0
reason = "a test"
settings = { hidden = [8], log_period = 200, evaluation_period = 4_000, evaluation_episodes = 3, learn_period = 16 }

[tiny.runs]
double = { seeds = [7] }

[later]
env = "torso/Identity-v0"
reason = "a test"
on_request = true

[later.runs]
dqn = { seeds = [0] }
"""


@pytest.fixture(scope="module")
def queue() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("learning")
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def plan(queue: ModuleType) -> list:
    return queue.read_plan(queue.PLAN)


def test_every_run_of_a_plan_has_settings_that_work(queue: ModuleType, plan: list) -> None:
    for run in plan + queue.read_plan(BENCHMARKS / "combinations.toml"):
        assert isinstance(run.config, TrainingConfig), run.name
        assert run.config.evaluation_period is not None, run.name
        assert run.steps > run.config.steps_to_first_update, run.name
        assert run.world.name == run.env


def test_names_are_their_own_and_nothing_is_planned_twice(queue: ModuleType, plan: list) -> None:
    combined = queue.read_plan(BENCHMARKS / "combinations.toml")
    assert len(combined) == 3 * 16 * 3  # envs, combinations, seeds
    assert len({run.name for run in plan + combined}) == len(plan) + len(combined)
    trained = [(run.env, run.env_kwargs, run.steps, run.seed, run.config) for run in plan]
    assert all(each not in trained[:place] for place, each in enumerate(trained))


@pytest.mark.parametrize(("section", "goal"), [("cartpole", 475), ("acrobot", -100)])
def test_every_algorithm_is_measured_on_three_seeds_by_its_preset(plan: list, section: str, goal: float) -> None:
    members = [run for run in plan if run.section == section]
    own = (
        "dqn",
        "double",
        "dueling",
        "prioritized",
        "n-step",
        "c51",
        "qr-dqn",
        "iqn",
        "munchausen",
        "m-iqn",
        "rainbow",
    )
    assert {run.algorithm for run in members} == set(own) <= set(algorithm_names())
    for name in own:
        assert {0, 1, 2} <= {run.seed for run in members if run.algorithm == name}
    assert {run.goal for run in members} == {goal}
    assert all(set(run.changed()) <= {"steps"} for run in members)


def test_an_ablation_differs_from_rainbow_in_one_part(plan: list) -> None:
    [whole] = [run for run in plan if run.name == "breakout-rainbow-0"]
    parts = {
        "without-double": {"double"},
        "without-dueling": {"dueling"},
        "without-prioritized": {"prioritized", "priority_exponent"},
        "without-n-step": {"n_step"},
        "without-noisy": {"noisy", "exploration"},
        "without-categorical": {"head"},
    }
    runs = {run.label: run for run in plan if run.section == "ablation"}
    assert runs.keys() == parts.keys()
    for label, run in runs.items():
        theirs, own = asdict(whole.config), asdict(run.config)
        assert {name for name in own if own[name] != theirs[name]} == {"algorithm", *parts[label]}
        assert (run.env, run.steps, run.seed) == (whole.env, whole.steps, whole.seed)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[a]\nenv = 'CartPole-v1'\nreason = 'r'", "a must have runs"),
        ("[a]\nenv = 'CartPole-v1'\nreason = 'r'\nsteps_ = 1\nruns = {}", "got steps_"),
        ("[a]\nenv = 'CartPole-v1'\nreason = 'r'\nruns = { dqn = { seeds = [0, 0] } }", "got a-dqn-0 more than once"),
        ("[a]\nenv = 'CartPole-v1'\nreason = 'r'\nruns = { dqn = [0] }", "must be a table"),
        ("[a", "cannot be read"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(queue: ModuleType, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "plan.toml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        queue.read_plan(tmp_path / "plan.toml")


def test_a_stopped_run_goes_on_and_leaves_its_result(
    queue: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan_path, folders = tmp_path / "plan.toml", queue.Folders(tmp_path / "runs", tmp_path / "results")
    plan_path.write_text(TINY)
    arguments = ["--plan", str(plan_path), "--runs", str(folders.runs), "--results", str(folders.results)]
    plan = queue.read_plan(plan_path)
    [run] = queue.selected(plan, [])
    assert queue.selected(plan, ["later-*"]) == plan[1:]
    progress = folders.run(run) / PROGRESS

    # Its process is asked to end once it has logged something.
    failed = queue.work_off([run], folders, 1, lambda: progress.exists() and progress.stat().st_size > 0)
    stopped_at = folders.step(run)
    assert failed == []
    assert not folders.result(run).exists()
    assert stopped_at is not None
    assert 200 <= stopped_at < run.steps
    assert queue.state_of(run, folders) == f"at step {stopped_at:,}"

    worker = importlib.import_module("learning_run")
    assert worker.work(run, folders.run(run), folders.result(run), 1, lambda: False) == 0
    result = json.loads(folders.result(run).read_text())
    assert result["cuts"][0] == stopped_at  # it went on there
    assert result["total_steps"] == 8_000
    assert [step for step, *_ in result["evaluations"]] == [4_000, 8_000]
    assert all(least <= mean <= most for _, mean, least, most in result["evaluations"])
    assert result["best"]["episodes"] == result["last"]["episodes"] == result["score_episodes"] == 5
    assert result["changed"]["hidden"] == [8]
    assert result["changed"]["steps"] == 8_000
    assert "gamma" not in result["changed"]
    assert result["settings"]["gamma"] == preset("double", run.env).config.gamma
    assert result["is_goal_reached"] is (result["best"]["mean_return"] >= 0.0)
    assert result["command"].split()[2:] == ["--plan", f"benchmarks/{plan_path.name}", "--only", "tiny-double-7"]

    another = replace(run, name="tiny-double-8", seed=8)
    hours = queue.hours_left(another, folders, queue.speeds(plan, folders))
    assert hours == pytest.approx(8_000 / result["steps_per_s"] / 3_600)

    capsys.readouterr()
    assert queue.main(arguments) == 0  # nothing is left to do
    assert "1 of 1 runs are done" in capsys.readouterr().err
    assert queue.main([*arguments, "--list"]) == 0
    listed = capsys.readouterr().out
    assert "tiny: 1 of 1 done, 0.0 h left" in listed
    assert "on request" in listed

    plan_path.write_text(TINY.replace("hidden = [8]", "hidden = [16]"))
    [run] = queue.selected(queue.read_plan(plan_path), [])
    assert queue.state_of(run, folders) == "done, with other settings"
    assert queue.outdated(run, result) == "hidden was [8], now [16]"


def test_until_minutes_begins_nothing_once_they_are_over(queue: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(TINY)
    folders = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    assert queue.main(["--plan", str(tmp_path / "plan.toml"), *folders, "--until-minutes", "0"]) == 0
    assert not (tmp_path / "runs").exists()
