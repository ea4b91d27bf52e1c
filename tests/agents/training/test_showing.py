"""Display for users of Python: the progress of `DQN.learn`, what agents look like, and events by their public names."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import torso.agents
from torso.agents import DQN, Callback, Classifier, Evaluated, Regressor, RunDirectory, Tick
from torso.agents.runs import progress as progress_module
from torso.errors import ConfigError, RunError
from torso.nets import Predictor

SMALL = {"hidden": (8,), "min_replay_size": 20, "num_envs": 1, "log_period": 20, "evaluation_episodes": 1}


def test_learn_shows_what_the_command_line_shows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(progress_module, "_LINE_PERIOD_S", 0.0)
    agent = DQN("CartPole-v1", evaluation_period=40, **SMALL)
    assert agent.learn(60) is agent
    assert capsys.readouterr().err == ""
    agent.learn(120, progress=True)
    DQN("CartPole-v1", **SMALL).learn(60, out=tmp_path / "run", progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(r"^step 80/120  return [\d.]+  greedy [\d.]+  [\d,]+ steps/s$", err, re.MULTILINE), err
    assert re.search(r"^step 60/60  ", err, re.MULTILINE)


def test_a_classifier_shows_the_same_lines_as_torso_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress_module, "_LINE_PERIOD_S", 0.0)
    inputs = np.random.default_rng(0).normal(size=(60, 3))
    Classifier(max_epochs=2, random_state=0).fit(inputs, inputs[:, 0] > 0)
    assert capsys.readouterr().err == ""
    Classifier(max_epochs=2, random_state=0, verbose=1).fit(inputs, inputs[:, 0] > 0)
    Regressor(max_epochs=2, random_state=0, verbose=1).fit(inputs, inputs[:, 0])
    lines = capsys.readouterr().err.splitlines()
    assert [re.sub(r"[\d.]+%?$", "N", line) for line in lines[:2]] == [
        f"epoch {epoch}/2  loss {lines[epoch - 1].split()[3]}  validation N" for epoch in (1, 2)
    ]
    assert len(lines) == 4


def test_agents_and_models_say_what_they_are(tmp_path: Path) -> None:
    agent = DQN("CartPole-v1", algorithm="double", seed=3, **SMALL)
    assert repr(agent) == "DQN('CartPole-v1', algorithm='double', net='mlp': 58 parameters, 0 steps)"
    agent.learn(60, out=tmp_path / "run")
    learnt = "DQN('CartPole-v1', algorithm='double', net='mlp': 58 parameters, 60 steps)"
    assert repr(agent) == learnt
    agent.save(tmp_path / "model")
    assert repr(DQN.load(tmp_path / "run")) == repr(DQN.load(tmp_path / "model")) == learnt
    policy = "Predictor(policy: 2 actions, mlp, 58 parameters, CartPole-v1, 60 steps)"
    assert repr(Predictor.load(tmp_path / "model")) == policy
    assert repr(RunDirectory.open(tmp_path / "run")) == f"RunDirectory('{tmp_path / 'run'}': train run)"

    inputs = np.random.default_rng(0).normal(size=(60, 3))
    Classifier(max_epochs=2, random_state=0, hidden=(4,)).fit(inputs, inputs[:, 0] > 0).save(tmp_path / "labels")
    classes = repr(Predictor.load(tmp_path / "labels"))
    assert classes == "Predictor(classifier: 2 classes (False, True), mlp, 21 parameters, 2 epochs)"
    many = Classifier(net="softmax", max_epochs=1, random_state=0).fit(np.eye(20), np.arange(20))
    many.save(tmp_path / "many")
    assert repr(Predictor.load(tmp_path / "many")) == "Predictor(classifier: 20 classes, mlp, 420 parameters, 1 epoch)"


def test_events_have_public_names() -> None:
    seen: list[object] = []

    class Watching(Callback):
        def on_step(self, tick: Tick) -> None:
            seen.append(tick)

        def on_evaluation(self, evaluated: Evaluated) -> bool:
            seen.append(evaluated)
            return False

    DQN("CartPole-v1", evaluation_period=40, **SMALL).learn(60, callbacks=[Watching()])
    assert {type(each) for each in seen} == {torso.agents.Tick, torso.agents.Evaluated}
    for name in ("Callback", "Checkpointed", "Episode", "Evaluated", "Evaluation", "Logged", "Tick"):
        assert getattr(torso.agents, name).__doc__
        assert name in torso.agents.__all__


def test_errors_in_python_name_arguments_and_no_flags(tmp_path: Path) -> None:
    DQN("CartPole-v1", **SMALL).learn(60, out=tmp_path / "run")
    (tmp_path / "file").write_text("")
    for call in (
        lambda: DQN("CartPole-v1", **SMALL).learn(60, out=tmp_path / "run"),
        lambda: DQN("CartPole-v1", **SMALL).learn(60, out=tmp_path / "file"),
        lambda: DQN("CartPole-v1", **SMALL).learn(0, out=tmp_path / "other"),
        lambda: DQN.load(tmp_path / "run").learn(10),
        lambda: Classifier.load(tmp_path / "run"),
    ):
        with pytest.raises((RunError, ConfigError)) as caught:
            call()
        assert not [word for word in shlex.split(str(caught.value).replace("'", "")) if word.startswith("--")]
