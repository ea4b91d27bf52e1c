"""Records of run directories: as trained, as an older torso wrote them, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from recorded_runs import record_run

from torso.agents import DQNConfig, World, train_run
from torso.agents.training.run_records import read_record
from torso.errors import RunError
from torso.insight.comparison.run_records import group_runs

GOLDEN = Path(__file__).parents[2] / "golden"


def test_a_trained_run_is_read_whole(tmp_path: Path) -> None:
    config = DQNConfig(
        hidden=(8,), min_replay_size=32, batch_size=8, evaluation_period=60, evaluation_episodes=2, log_period=30
    )
    world = World(env="torso/Identity-v0", env_kwargs={"num_values": 3})
    train_run(world, config, total_steps=120, seed=7, out=tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    record = read_record(tmp_path / "run")
    assert (record.env_id, record.env_kwargs, record.env) == (
        "torso/Identity-v0",
        {"num_values": 3},
        "torso/Identity-v0 (num_values 3)",
    )
    assert (record.algorithm, record.seed, record.total_steps) == ("dqn", 7, 120)
    assert record.best_score == summary["score"]["mean_return"]
    steps, returns = record.curve("evaluation_return")
    assert steps.tolist() == [60, 120]
    assert record.last_score == returns[-1]
    assert len(record.curve("loss")[0]) >= 2
    assert set(record.versions) >= {"torso", "torch", "numpy", "python", "gymnasium"}


def test_a_run_of_an_older_torso_is_read_in_todays_form(tmp_path: Path) -> None:
    old = read_record(GOLDEN / "run_v1")
    assert (old.algorithm, old.settings["head"], old.seed, old.summary) == ("dqn", "scalar", 4, None)
    again = json.loads((GOLDEN / "run_v1" / "config.json").read_text())
    again["settings"].update(normalise_rewards=False, evaluation_envs=32, evaluation_max_steps=27_000)
    again["seed"] = 5
    shutil.copytree(GOLDEN / "run_v1", tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text(json.dumps(again))
    [group] = group_runs([read_record(tmp_path / "run"), old])
    assert [run.seed for run in group.runs] == [4, 5]


def test_what_is_no_training_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for name, found in (("nowhere", "nothing there"), ("file", "a file"), ("empty", "a directory without config.json")):
        with pytest.raises(RunError, match=f"{name} must be the run directory of a training, got {found}"):
            read_record(tmp_path / name)
    with pytest.raises(RunError, match="must hold a training run, got a fit run"):
        read_record(GOLDEN / "run_v1_fit")


def damage_config(run: Path) -> None:
    (run / "config.json").write_text("{")


def forget_the_env(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    del config["settings"]["env_id"]
    (run / "config.json").write_text(json.dumps(config))


def damage_the_log(run: Path) -> None:
    (run / "progress.jsonl").write_text("}\n")


def log_no_step(run: Path) -> None:
    (run / "progress.jsonl").write_text('{"loss": 1.0}\n')


def damage_summary(run: Path) -> None:
    (run / "summary.json").write_text("half")


def summarise_a_list(run: Path) -> None:
    (run / "summary.json").write_text("[1]")


def summarise_no_score(run: Path) -> None:
    (run / "summary.json").write_text('{"total_steps": 3, "score": {}}')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_config, "config.json is damaged"),
        (forget_the_env, "config.json is damaged: KeyError: 'env_id'"),
        (damage_the_log, "progress.jsonl is damaged: not JSON lines"),
        (log_no_step, "progress.jsonl is damaged: each of its lines must be a JSON object with a step"),
        (damage_summary, "summary.json cannot be read"),
        (summarise_a_list, "summary.json is damaged: it must hold a JSON object"),
        (summarise_no_score, "summary.json is damaged: it must have total_steps and a score, got total_steps, score"),
    ],
)
def test_a_damaged_run_is_named(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    run = record_run(tmp_path / "run", {100: 1.0})
    read_record(run)
    damage(run)
    with pytest.raises(RunError, match=message):
        read_record(run)


def test_a_half_written_line_is_left_out(tmp_path: Path) -> None:
    run = record_run(tmp_path / "run", {100: 1.0, 200: 2.0}, ended=False)
    with (run / "progress.jsonl").open("a") as log:
        log.write('{"step": 300, "evaluation_ret')
    assert read_record(run).curve("evaluation_return")[0].tolist() == [100, 200]
