"""Run directories of older checkpoints resume, of the torso before parts had names.

`run_v1` was stopped at step 101, `run_v1_fit` in its third epoch.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from torso.agents import DQN, ClassifierConfig, RunDirectory, Training, fit_run
from torso.agents.optim.states import state_of_parts
from torso.agents.runs.checkpoints import CheckpointStore
from torso.agents.training.session import upgrade
from torso.envs import load_dataset
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
    parts, new = state_of_parts(training.session.parts())
    assert "parts" not in old
    assert training.total_steps == parts["learner"]["advanced_to"] == old["total_steps"] == 101
    assert parts["learner"]["moments"] == old["moments"]
    assert parts["learner"]["input"] == old["input"]
    assert parts["learner"]["num_updates"] == old["learner"]["num_updates"] > 0
    assert parts["collector"]["explorer"]["rng"] == old["acting_rng"]
    assert parts["experience"]["sampler"] == old["sampler"]
    assert parts["best"] == {name: old[f"best_{name}"] for name in ("mean", "step", "input")}
    for name in ("cuts", "num_episodes", "recent_returns", "recent_lengths", "num_metrics"):
        assert parts["figures"][name] == old[name], name
    renamed = {"sampling_generator": "experience/generator"}
    moved = {"sampler/": "experience/sampler/", "best/": "best/weights/", "sums/": "figures/"}
    added = {"learner/generator", "collector/policy/generator"}  # nothing drew from them then
    assert set(new) >= added
    assert len(new) - len(added) == len(tensors)
    for name, tensor in tensors.items():
        start = next((start for start in moved if name.startswith(start)), "")
        now = new[moved[start] + name.removeprefix(start) if start else renamed.get(name, name)]
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
    assert set(checkpoint.state["parts"]) == {"learner", "experience", "collector", "best", "figures"}


def test_what_is_no_checkpoint_of_a_training_is_refused(run: Path) -> None:
    path = run / "checkpoint" / "000000-state.json"
    state = json.loads(path.read_text())
    del state["acting_rng"]
    with pytest.raises(CheckpointError, match="lacks 'acting_rng'"):
        upgrade(state, {})
    today = {"parts": {"figures": {}}}
    assert upgrade(today, {}) == (today["parts"], {})


def test_an_old_fit_goes_on_to_its_end(tmp_path: Path) -> None:
    run = shutil.copytree(OLD.with_name("run_v1_fit"), tmp_path / "run")
    before = (run / "progress.jsonl").read_text()
    settings = RunDirectory.open(run).settings
    assert "head" not in settings
    names = set(ClassifierConfig.__dataclass_fields__) & set(settings)
    config = ClassifierConfig(**{name: settings[name] for name in names})
    source = settings["source"]
    fitted = fit_run(load_dataset("iris"), config, seed=3, out=run, source=source, resume=True)
    assert fitted.summary is not None
    after = (run / "progress.jsonl").read_text()
    assert after.startswith(before)
    assert [json.loads(line)["step"] for line in after.splitlines()] == [1, 2, 3, 4, 5, 6]
    checkpoint = CheckpointStore(run / "checkpoint").load()
    assert checkpoint is not None
    assert set(checkpoint.state["parts"]) == {"fitting"}
