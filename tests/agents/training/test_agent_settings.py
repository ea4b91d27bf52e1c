"""An agent's settings by name and algorithm, and a torso of another model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from torso.agents import DQN, Classifier, DQNConfig, World, preset, train_run
from torso.envs import load_dataset
from torso.errors import ConfigError, ModelNotFoundError, RunError, SpecError
from torso.nets import load_model

SMALL: dict[str, Any] = {
    "config": DQNConfig(
        gamma=0.0, batch_size=8, min_replay_size=20, learn_period=4, evaluation_period=10_000, evaluation_episodes=1
    )
}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("classifier") / "digits"
    train = load_dataset("digits").train
    Classifier(net="cnn", max_epochs=1, random_state=0).fit(train.inputs[:300], train.labels[:300]).save(path)
    return path


def torso_of(path: Path) -> dict[str, torch.Tensor]:
    return load_model(path)[1].torso.state_dict()


def test_settings_by_name_replace_the_presets() -> None:
    agent = DQN("CartPole-v1", algorithm="double", learning_rate=0.5, n_step=2)
    assert (agent.config.double, agent.config.learning_rate, agent.config.n_step) == (True, 0.5, 2)
    assert agent.config.hidden == preset("double", "CartPole-v1").config.hidden
    assert DQN("CartPole-v1", config=DQNConfig(gamma=0.5), n_step=2).config == DQNConfig(gamma=0.5, n_step=2)
    with pytest.raises(ConfigError, match="no setting 'learning_rat'; did you mean learning_rate"):
        DQN("CartPole-v1", learning_rat=0.1)
    with pytest.raises(ConfigError, match="unknown algorithm 'ppo'"):
        DQN("CartPole-v1", algorithm="ppo")


def test_a_frozen_torso_stays_and_the_head_learns(classifier: Path, tmp_path: Path) -> None:
    agent = DQN("torso/Digits-v0", **SMALL, init_torso=str(classifier), freeze_torso=True).learn(60)
    agent.save(tmp_path / "agent")
    before, after = torso_of(classifier), torso_of(tmp_path / "agent")
    assert all(torch.equal(a, b) for a, b in zip(before.values(), after.values(), strict=True))
    _, network = load_model(tmp_path / "agent")
    _, known = load_model(classifier)
    assert network.spec.input.scale == known.spec.input.scale  # the torso learnt on inputs so scaled
    assert network.spec.torso.dropout == 0.0


def test_a_torso_that_is_not_frozen_begins_there_and_learns(classifier: Path, tmp_path: Path) -> None:
    agent = DQN("torso/Digits-v0", **SMALL, init_torso=str(classifier)).learn(60)
    agent.save(tmp_path / "agent")
    for a, b in zip(torso_of(classifier).values(), torso_of(tmp_path / "agent").values(), strict=True):
        assert not torch.equal(a, b)
        assert (a - b).abs().max() < 0.1


def test_a_saved_agent_needs_no_source(classifier: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(classifier, source)
    DQN("torso/Digits-v0", **SMALL, init_torso=str(source), dueling=True).learn(30).save(tmp_path / "agent")
    shutil.rmtree(source)
    agent = DQN.load(tmp_path / "agent")
    assert agent.learn(30).evaluate(1).returns
    with pytest.raises(ModelNotFoundError, match="source"):
        DQN("torso/Digits-v0", **SMALL, init_torso=str(source))


def test_a_resume_refuses_another_source(classifier: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "run"
    shutil.copytree(classifier, source)
    config = DQN("torso/Digits-v0", **SMALL, init_torso=str(source)).config
    train_run(World(env="torso/Digits-v0"), config, total_steps=30, seed=0, out=out)
    train = load_dataset("digits").train
    Classifier(net="cnn", max_epochs=1, random_state=1).fit(train.inputs[:300], train.labels[:300]).save(source)
    with pytest.raises(RunError, match="init_torso_sha256"):
        train_run(World(env="torso/Digits-v0"), config, total_steps=60, seed=0, out=out, resume=True)


def test_a_torso_of_other_inputs_is_refused(classifier: Path) -> None:
    with pytest.raises(SpecError, match=r"takes inputs of shape \[1, 8, 8\], these are of shape \[4\]"):
        DQN("CartPole-v1", init_torso=str(classifier))


def test_a_torso_with_batch_norm_is_for_freezing(tmp_path: Path) -> None:
    train = load_dataset("digits").train
    Classifier(net="cnn", batch_norm=True, max_epochs=1).fit(train.inputs[:300], train.labels[:300]).save(tmp_path)
    with pytest.raises(ConfigError, match="freeze_torso keeps them fixed"):
        DQN("torso/Digits-v0", **SMALL, init_torso=str(tmp_path))
    DQN("torso/Digits-v0", **SMALL, init_torso=str(tmp_path), freeze_torso=True).learn(30)
