"""``torso train ROW`` for each row of the algorithm table, and for what a row has no use for."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from torso.agents.runs.run_directory import RunDirectory
from torso.agents.value_based.algorithms import algorithm_names
from torso.agents.value_based.config import IDENTITY, DQNConfig
from torso.nets import Predictor

Run = Callable[..., Any]
SMALL = shlex.split(
    "--steps 240 --num-envs 2 --hidden 8 8 --min-replay-size 100 --learn-period 8 --updates-per-phase 1 "
    "--batch-size 8 --evaluation-period none --log-period 80"
)


@pytest.mark.parametrize("algorithm", algorithm_names())
def test_a_row_trains_by_the_envs_preset_and_is_evaluated(run: Run, tmp_path: Path, algorithm: str) -> None:
    out = tmp_path / "run"
    ended = run("train", algorithm, "--env", "CartPole-v1", *SMALL, "--out", out, "--json")
    assert ended.code == 0, ended.err
    assert ended.err.startswith(f"{algorithm} on CartPole-v1, 240 steps")
    settings = RunDirectory.open(out).settings
    row = DQNConfig(algorithm=algorithm)
    assert {name: settings[name] for name in IDENTITY} == {name: getattr(row, name) for name in IDENTITY}
    lines = [json.loads(line) for line in (out / "progress.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] >= 0
    assert ("v_max" in ended.err.splitlines()[1]) == (row.head == "categorical")
    assert Predictor.load(out).card.network.head == Predictor.load(out / "model").card.network.head
    evaluated = run("evaluate", out, "--episodes", 2, "--json")
    assert (evaluated.code, evaluated.err) == (0, "")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("dqn --num-atoms 7", "--num-atoms must be left out for head 'scalar'"),
        ("c51 --num-quantiles 7", "--num-quantiles must be left out for head 'categorical'"),
        ("c51 --v-min 300", "--v-min must be below --v-max, got 300.0 and 200.0"),
        ("rainbow --epsilon-end 0.2", "--epsilon-end must be left out with exploration 'noisy', got 0.2"),
        ("rainbow --no-noisy", "noisy must be True for algorithm 'rainbow', got False"),
        ("dqn --exploration noisy", "exploration must not be 'noisy' without noisy, or nothing would explore"),
        ("iqn --munchausen-tau 0.1", "--munchausen-tau must be left out for algorithm 'iqn'"),
        ("munchausen --double", "double must be False for algorithm 'munchausen'"),
        ("dqn --noisy-std 0.1", "--noisy-std must be left out without noisy"),
    ],
)
def test_what_a_row_has_no_use_for_ends_with_code_2(run: Run, tmp_path: Path, given: str, message: str) -> None:
    ended = run("train", *given.split(), "--env", "CartPole-v1", "--out", tmp_path / "run")
    assert ended.code == 2
    assert ended.error.startswith(message)
    assert not (tmp_path / "run").exists()
