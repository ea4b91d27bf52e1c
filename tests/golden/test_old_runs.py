"""Run directories of older checkpoints resume: `run_v1` was stopped at step 101 by the torso before parts had names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from torso.agents import DQN, RunDirectory, Training
from torso.agents.runs.checkpoints import CheckpointStore
from torso.agents.training.session import upgrade
from torso.errors import CheckpointError

OLD = Path(__file__).parent / "run_v1"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy of the old run."""
    return shutil.copytree(OLD, tmp_path / "run")


def test_an_old_checkpoint_is_restored_whole(run: Path) -> None:
    agent = DQN.load(run)
    with RunDirectory.open(run) as directory:
        training = Training(agent.world, agent.config, seed=agent.seed, run=directory)
    old = json.loads((OLD / "checkpoint" / "000000-state.json").read_text())
    tensors = load_file(OLD / "checkpoint" / "000000-tensors.safetensors")
    state, new = training.session.state()
    parts = state["parts"]
    assert "parts" not in old
    assert training.total_steps == parts["learner"]["advanced_to"] == old["total_steps"] == 101
    assert parts["learner"]["moments"] == old["moments"]
    assert parts["learner"]["input"] == old["input"]
    assert parts["learner"]["num_updates"] == old["learner"]["num_updates"] > 0
    assert parts["collector"]["explorer"]["rng"] == old["acting_rng"]
    assert parts["experience"]["sampler"] == old["sampler"]
    for name in ("best_mean", "best_step", "cuts", "num_episodes", "recent_returns", "recent_lengths", "num_metrics"):
        assert state[name] == old[name], name
    renamed = {"sampling_generator": "experience/generator"}
    added = {"learner/generator", "collector/policy/generator"}  # nothing drew from them then
    assert set(new) >= added
    assert len(new) - len(added) == len(tensors)
    for name, tensor in tensors.items():
        now = new[f"experience/{name}" if name.startswith("sampler/") else renamed.get(name, name)]
        assert torch.equal(tensor, now), name
    rows = load_file(next((OLD / "checkpoint").glob("rows-*")))
    replay = training.session.replay
    assert all(torch.equal(rows[name], each) for name, each in replay.read_rows(0, replay.num_rows).items())


def test_an_old_run_goes_on_to_its_end(run: Path) -> None:
    agent = DQN.load(run).learn(total_steps=240)
    assert agent.total_steps >= 240
    steps = [json.loads(line)["step"] for line in (run / "progress.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert steps[-1] >= 240
    checkpoint = CheckpointStore(run / "checkpoint").load()
    assert checkpoint is not None
    assert set(checkpoint.state["parts"]) == {"learner", "experience", "collector"}


def test_what_is_no_checkpoint_of_a_training_is_refused(run: Path) -> None:
    path = run / "checkpoint" / "000000-state.json"
    state = json.loads(path.read_text())
    del state["acting_rng"]
    with pytest.raises(CheckpointError, match="lacks 'acting_rng'"):
        upgrade(state, {})
    assert upgrade({"parts": {}}, {}) == ({"parts": {}}, {})
