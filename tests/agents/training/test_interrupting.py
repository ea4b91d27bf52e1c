"""An agent that is interrupted, copied or pickled in a script acts, saves and learns on."""

from __future__ import annotations

import copy
import pickle
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torso.agents import DQN, Callback, DQNConfig, RunDirectory
from torso.agents.runs.checkpoints import CheckpointStore

CONFIG = DQNConfig(hidden=(8,), batch_size=8, min_replay_size=20, evaluation_period=100, evaluation_episodes=1)
EYE = np.eye(4, dtype=np.int64)


@pytest.fixture(autouse=True)
def heeded() -> Iterator[None]:
    """Let SIGINT count also where the tests were started by a shell's ``&``, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class CtrlC(Callback):
    """Callback that sends this process so many SIGINTs at a step."""

    def __init__(self, at: int, times: int = 1) -> None:
        self.at, self.times = at, times

    def on_step(self, tick: Any) -> None:
        if tick.total_steps == self.at:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)


def weights(agent: DQN) -> list[torch.Tensor]:
    assert agent._training is not None
    return [parameter.detach().clone() for parameter in agent._training.session.learner.online.parameters()]


def equal(one: DQN, other: DQN) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


@pytest.mark.parametrize("in_run", [False, True], ids=["in memory", "in a run directory"])
def test_after_ctrl_c_an_agent_acts_saves_and_goes_on(tmp_path: Path, in_run: bool) -> None:
    agent = DQN("torso/Identity-v0", config=CONFIG)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        agent.learn(400, out=tmp_path / "run" if in_run else None, callbacks=[CtrlC(70)])
    assert signal.getsignal(signal.SIGINT) is before
    assert agent.total_steps == 70
    assert agent.predict(EYE[1]) in range(4)
    agent.save(tmp_path / "model")
    if in_run:
        checkpoint = CheckpointStore(tmp_path / "run" / "checkpoint").load()
        assert checkpoint is not None
        assert checkpoint.step == 70
        assert checkpoint.state["parts"]["figures"]["cuts"] == [70]
        assert DQN.load(tmp_path / "run").total_steps == 0  # until it learns on
    assert agent.learn(200).total_steps == 200
    if in_run:
        assert (RunDirectory.open(tmp_path / "run").read_summary() or {})["cuts"][0] == 70


def test_a_second_ctrl_c_ends_it_at_once(tmp_path: Path) -> None:
    agent = DQN("torso/Identity-v0", config=replace(CONFIG, checkpoint_period=50))
    with pytest.raises(KeyboardInterrupt):
        agent.learn(400, out=tmp_path / "run", callbacks=[CtrlC(70, times=2)])
    checkpoint = CheckpointStore(tmp_path / "run" / "checkpoint").load()
    assert checkpoint is not None
    assert checkpoint.step == 50
    assert agent.learn(90).total_steps == 90  # from there


def pickled(agent: DQN) -> DQN:
    twin = pickle.loads(pickle.dumps(agent))
    assert isinstance(twin, DQN)
    return twin


@pytest.mark.parametrize("how", [copy.deepcopy, pickled])
def test_a_copy_learns_on_as_the_agent_would(how: Any) -> None:
    agent = DQN("torso/Identity-v0", config=CONFIG).learn(60)
    twin = how(agent)
    assert equal(agent, twin)
    assert twin.predict(EYE[2]) == agent.predict(EYE[2])
    known = weights(twin)
    agent.learn(160)
    assert all(torch.equal(a, b) for a, b in zip(known, weights(twin), strict=True))  # it is another one
    twin.learn(160)
    assert equal(agent, twin)
    assert not all(torch.equal(a, b) for a, b in zip(known, weights(twin), strict=True))
    step = twin._training.session.learner.step
    assert step.flat is not None
    step.flat.flat.data.zero_()
    assert not any(parameter.any() for parameter in twin._training.session.learner.online.parameters())


def test_what_has_not_learnt_yet_is_copied_too() -> None:
    agent = DQN("torso/Identity-v0", config=CONFIG)
    twin = pickle.loads(pickle.dumps(agent))
    assert equal(agent.learn(60), twin.learn(60))
