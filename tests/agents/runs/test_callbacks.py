"""Callbacks: which hooks are called when, how they stop a run, and that observing changes no bit."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import torso.agents.runs.callbacks as callbacks_module
from torso.agents import DQN, Callback, TrainingResult, train_run
from torso.agents.protocols import Episode
from torso.agents.runs.checkpoints import CheckpointStore
from torso.agents.runs.events import Checkpointed, Evaluated, Tick, TrainingEvent
from torso.agents.runs.run_directory import RunDirectory
from torso.agents.runs.trackers import read_jsonl
from torso.agents.training.driver import Training
from torso.agents.training.train_runs import open_run
from torso.agents.value_based.config import DQNConfig
from torso.envs.vector.world import World
from torso.errors import ConfigError

WORLD = World(env="CartPole-v1")
CONFIG = DQNConfig(
    hidden=(16,),
    batch_size=8,
    min_replay_size=40,
    evaluation_period=100,
    evaluation_episodes=2,
    checkpoint_period=150,
    log_period=50,
)
STEPS = 310


class Diarist(Callback):
    """Records every event, and draws from the process's global generators as a careless user would."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []

    def _record(self, name: str, happened: Any) -> None:
        self.heard.append((name, happened))
        np.random.rand(3)
        torch.rand(3)

    def on_step(self, tick: Tick) -> None:
        self._record("step", tick)

    def on_update(self, tick: Tick) -> None:
        self._record("update", tick)

    def on_episode(self, episode: Episode) -> None:
        self._record("episode", episode)

    def on_evaluation(self, evaluated: Evaluated) -> None:
        self._record("evaluation", evaluated)

    def on_checkpoint(self, checkpointed: Checkpointed) -> None:
        self._record("checkpoint", checkpointed)


class StopAt(Callback):
    """Stops the run by one of the hooks."""

    def __init__(self, hook: str, step: int) -> None:
        setattr(self, hook, lambda happened: happened.total_steps >= step)


def run(path: Path, *callbacks: Callback, **options: Any) -> TrainingResult:
    return train_run(WORLD, CONFIG, total_steps=STEPS, seed=0, out=path, callbacks=callbacks, **options)


def train(path: Path, *callbacks: Callback, resume: bool = False) -> list[TrainingEvent]:
    """Train as ``train_run`` does, without its score, plots and exports, which take longer than the rest."""
    with open_run(WORLD, CONFIG, total_steps=STEPS, seed=0, out=path, resume=resume) as opened:
        return list(Training(WORLD, CONFIG, seed=0, run=opened).run(STEPS, callbacks=callbacks))


def weights(path: Path) -> bytes:
    return (path / "model" / "weights.safetensors").read_bytes() + (path / "progress.jsonl").read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "uninterrupted"
    train(path)
    return path


def test_every_hook_is_told_what_happened_and_changes_no_bit(tmp_path: Path, uninterrupted: Path) -> None:
    diarist = Diarist()
    events = train(tmp_path / "run", diarist)
    assert weights(tmp_path / "run") == weights(uninterrupted)

    heard = {name: [each for called, each in diarist.heard if called == name] for name, _ in diarist.heard}
    ticks = heard["step"]
    assert [tick.steps_before for tick in ticks] == [0, *(tick.total_steps for tick in ticks[:-1])]
    assert ticks[-1].total_steps == STEPS
    assert heard["update"] == [tick for tick in ticks if tick.metrics]
    assert [tick.total_steps for tick in heard["update"]] == list(range(40, STEPS, 4))
    assert heard["episode"] == [event for event in events if isinstance(event, Episode)]
    assert heard["episode"] == [episode for tick in ticks for episode in tick.episodes]
    assert [each.total_steps for each in heard["evaluation"]] == [100, 200, 300, STEPS]
    assert [each.total_steps for each in heard["checkpoint"]] == [150, 300, STEPS]
    at_300 = [name for name, happened in diarist.heard if happened.total_steps == 300]
    assert [name for name in at_300 if name != "episode"] == ["step", "update", "evaluation", "checkpoint"]


@pytest.mark.parametrize("hook", ["on_step", "on_update", "on_episode", "on_evaluation", "on_checkpoint"])
def test_any_hook_ends_the_run_as_ctrl_c_does(tmp_path: Path, hook: str, uninterrupted: Path) -> None:
    path = tmp_path / "run"
    result = run(path, Callback(), StopAt(hook, 110))
    assert result.was_stopped
    assert result.summary is None
    assert 110 <= result.total_steps < STEPS
    expected = {"on_step": 110, "on_update": 112, "on_evaluation": 200, "on_checkpoint": 150}
    assert result.total_steps == expected.get(hook, result.total_steps)
    checkpoint = CheckpointStore(path / "checkpoint").load()
    assert checkpoint is not None
    assert checkpoint.step == result.total_steps
    assert checkpoint.state["parts"]["figures"]["cuts"] == ([] if hook == "on_checkpoint" else [result.total_steps])
    assert RunDirectory.open(path).read_summary() is None

    assert train(path, resume=True)[-1].total_steps == STEPS
    if hook == "on_checkpoint":  # a planned one: nothing was cut
        assert weights(path) == weights(uninterrupted)


class BugError(Exception):
    pass


class Buggy(Callback):
    def on_step(self, tick: Tick) -> None:
        if tick.total_steps == 170:
            raise BugError("in a hook")


def test_an_error_in_a_hook_is_raised_and_the_run_stands_at_its_checkpoint(tmp_path: Path, uninterrupted: Path) -> None:
    path = tmp_path / "run"
    with pytest.raises(BugError, match="in a hook"):
        run(path, Buggy())
    checkpoint = CheckpointStore(path / "checkpoint").load()
    assert checkpoint is not None
    assert checkpoint.step == 150
    train(path, resume=True)  # the lock was given back
    assert weights(path) == weights(uninterrupted)


def test_an_agent_that_a_callback_stops_goes_on(tmp_path: Path) -> None:
    config = replace(CONFIG, checkpoint_period=1_000)
    agents = [DQN("CartPole-v1", config=config) for _ in range(3)]
    agents[0].learn(300, callbacks=[StopAt("on_step", 120)])
    assert agents[0].total_steps == 120
    assert agents[0].predict(np.zeros(4)) in (0, 1)
    agents[0].learn(300)
    agents[1].learn(300, out=tmp_path / "run", callbacks=[StopAt("on_step", 120)])
    assert RunDirectory.open(tmp_path / "run").read_summary() is None
    agents[1].learn(300, callbacks=[StopAt("on_step", 300)])  # too late to end it before its time
    assert (RunDirectory.open(tmp_path / "run").read_summary() or {})["cuts"] == [120, 300]
    agents[2].learn(120).learn(300)
    learnt = [[p.tolist() for p in agent._training.session.learner.online.parameters()] for agent in agents]  # type: ignore[union-attr]
    assert learnt[0] == learnt[1] == learnt[2]
    assert [agent.total_steps for agent in agents] == [300] * 3


def test_the_example_of_the_module_works() -> None:
    example = (callbacks_module.__doc__ or "").split("::\n\n")[1].split("\nA run")[0]
    source = textwrap.dedent(example).replace("EnoughEpisodes(300)]", "EnoughEpisodes(3), diarist]")
    diarist = Diarist()
    exec(source, {"Callback": Callback, "Episode": Episode, "DQN": DQN, "diarist": diarist})
    assert [name for name, _ in diarist.heard].count("episode") == 3


def test_what_is_no_callback_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for wrong in (Diarist, lambda tick: None):
        with pytest.raises(ConfigError, match=r"callbacks must be instances of torso.agents.Callback, got "):
            run(tmp_path / "run", wrong)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="callbacks must be"):
            DQN("CartPole-v1").learn(100, out=tmp_path / "run", callbacks=[wrong])  # type: ignore[list-item]
    assert not (tmp_path / "run").exists()


def test_hooks_that_nobody_overrides_are_not_called() -> None:
    hooks = callbacks_module.Hooks([Callback(), Buggy(), StopAt("on_episode", 0)])
    assert {name: len(called) for name, called in hooks._hooks.items() if called} == {"on_step": 1, "on_episode": 1}


def test_progress_holds_how_long_evaluated_episodes_are(uninterrupted: Path) -> None:
    lines = [line for line in read_jsonl(uninterrupted / "progress.jsonl") if "evaluation_return" in line]
    assert [line["evaluation_length"] for line in lines] == [line["evaluation_return"] for line in lines]  # CartPole's


def test_a_training_in_memory_has_the_same_callbacks() -> None:
    diarist = Diarist()
    training = Training(WORLD, CONFIG, seed=0)
    events = list(training.run(STEPS, callbacks=[diarist, StopAt("on_evaluation", 100)]))
    assert training.total_steps == 100
    assert isinstance(events[-1], Checkpointed)
    assert not training.is_done(STEPS)
