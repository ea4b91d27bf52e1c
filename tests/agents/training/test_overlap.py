"""Learning beside acting: bits that do not depend on time, exact resume, errors that arrive, threads that end."""

from __future__ import annotations

import copy
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from torso.agents import PQN, PQNConfig, Training, World
from torso.agents.optim.states import state_of_parts
from torso.agents.replay.rollout import RolloutBatch
from torso.agents.runs.checkpoints import CheckpointStore
from torso.agents.runs.events import Checkpointed, Logged
from torso.agents.training import overlap
from torso.agents.training.overlap import OverlappedCore
from torso.agents.training.train_runs import open_run
from torso.errors import ConfigError

WORLD = World(env="CartPole-v1")
CONFIG = PQNConfig(
    hidden=(16,),
    num_envs=4,
    rollout_steps=10,
    epochs=2,
    num_minibatches=4,
    learning_rate=1e-3,
    learning_rate_end=1e-5,
    learning_rate_decay_steps=500,
    epsilon_decay_steps=300,
    evaluation_period=90,
    evaluation_episodes=4,
    checkpoint_period=150,
    log_period=50,
    num_threads=2,
    overlap=True,
)
STEPS = 600
Bits = dict[str, Any]


def bits(training: Training) -> Bits:
    state, tensors = state_of_parts(training.session.parts())
    return {**state, **{name: tensor.numpy().tobytes() for name, tensor in tensors.items()}}


def trained(config: PQNConfig = CONFIG, steps: int = STEPS) -> Training:
    training = Training(WORLD, config, seed=0)
    for _ in training.run(steps):
        pass
    return training


def weights(training: Training) -> bytes:
    return b"".join(each.detach().numpy().tobytes() for each in training.session.learner.online.parameters())


def left_behind(path: Path) -> Bits:
    checkpoint = CheckpointStore(path / "checkpoint").load()
    assert checkpoint is not None
    names = ("progress.jsonl", "model/weights.safetensors", "best/weights.safetensors")
    return {
        **{name: (path / name).read_bytes() for name in names},
        **{name: tensor.numpy().tobytes() for name, tensor in checkpoint.tensors.items()},
        "state": {name: value for name, value in checkpoint.state.items() if name != "tracker"},
    }


class Immediate:
    """In place of the thread: a call is over when `submit` returns, or once its result is asked for."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.ran: list[float] = []

    def submit(self, call: Callable[[Any], Any], batch: Any) -> Any:
        done: Future[Any] = Future()
        done.set_result(call(batch))
        return done

    def shutdown(self) -> None:
        """End."""


class Late(Immediate):
    def submit(self, call: Callable[[Any], Any], batch: Any) -> Any:
        class Asked:
            def result(self) -> Any:
                return call(batch)

        return Asked()


@pytest.mark.parametrize("executor", [Immediate, Late])
def test_bits_do_not_depend_on_time(executor: type[Immediate], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = bits(trained())
    monkeypatch.setattr(overlap, "ThreadPoolExecutor", executor)
    training = trained()
    assert isinstance(training.session.core, OverlappedCore)
    assert bits(training) == expected


def test_acting_has_the_weights_of_a_rollout_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first rollouts of a segment: at its beginning, as they were then; after it, by each update one later."""
    training = Training(WORLD, replace(CONFIG, checkpoint_period=10_000, evaluation_period=None), seed=0)
    learner, policy = training.session.learner, training.session.core.collector.policy  # type: ignore[attr-defined]
    after_update, acting = [weights(training)], []

    def updated(batch: RolloutBatch, update: Any = learner.update) -> Any:
        result = update(batch)
        after_update.append(weights(training))
        return result

    monkeypatch.setattr(learner, "update", updated)
    for _ in training.run(300):
        now = b"".join(each.detach().numpy().tobytes() for each in policy._network.parameters())
        if not acting or acting[-1] != now:
            acting.append(now)
    assert len(after_update) >= 7
    assert acting == after_update[: len(acting)]
    assert len(acting) >= len(after_update) - 2


def test_a_rollout_is_valued_by_the_weights_that_learn_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(WORLD, CONFIG, seed=0)
    seen: list[RolloutBatch] = []
    update = training.session.learner.update
    monkeypatch.setattr(training.session.learner, "update", lambda batch: seen.append(batch) or update(batch))
    for _ in training.run(200):
        pass
    assert len(seen) >= 5
    assert all(batch.values is None for batch in seen)


def test_evaluations_and_logs_change_no_bit() -> None:
    plain = replace(CONFIG, evaluation_period=None, log_period=100_000)
    assert weights(trained(plain)) == weights(trained())


@pytest.mark.parametrize("after", [2, 9, 20])
def test_a_killed_run_gives_the_same_bits(after: int, tmp_path: Path) -> None:
    def events_of(path: Path, *, resume: bool) -> Any:
        run = open_run(WORLD, CONFIG, total_steps=STEPS, seed=0, out=path, resume=resume)
        return run, Training(WORLD, CONFIG, seed=0, run=run.__enter__()).run(STEPS)

    run, events = events_of(tmp_path / "whole", resume=False)
    whole = list(events)
    run.__exit__(None, None, None)
    assert len(whole) > 25
    run, events = events_of(tmp_path / "run", resume=False)
    for _ in range(after):
        next(events)
    events.close()
    run.__exit__(None, None, None)
    run, events = events_of(tmp_path / "run", resume=True)
    list(events)
    run.__exit__(None, None, None)
    assert left_behind(tmp_path / "run") == left_behind(tmp_path / "whole")


def test_every_update_is_in_the_log() -> None:
    training, logged = Training(WORLD, CONFIG, seed=0), []
    checkpoints = 0
    for event in training.run(STEPS):
        logged += [event.figures["updates"]] if isinstance(event, Logged) else []
        checkpoints += isinstance(event, Checkpointed)
    num_updates = training.session.learner.num_updates
    assert training.session.core.num_updates == num_updates >= STEPS / 40 * 8
    assert logged == sorted(logged)
    assert num_updates - logged[-1] <= 3 * 8
    assert checkpoints == 4


def test_an_error_of_learning_ends_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(WORLD, CONFIG, seed=0)
    update, calls = training.session.learner.update, 0

    def failing(batch: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise RuntimeError("the third update failed")
        return update(batch)

    monkeypatch.setattr(training.session.learner, "update", failing)
    with pytest.raises(RuntimeError, match="the third update failed"):
        for _ in training.run(STEPS):
            pass
    assert calls == 3
    assert not [each for each in threading.enumerate() if each.name.startswith("learning")]
    monkeypatch.setattr(training.session.learner, "update", update)
    for _ in training.run(STEPS):
        pass
    assert training.total_steps >= STEPS


def test_the_thread_ends_with_the_training_and_has_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(WORLD, replace(CONFIG, num_threads=3), seed=0)
    seen: list[tuple[str, int]] = []

    def updated(batch: Any, update: Any = training.session.learner.update) -> Any:
        seen.append((threading.current_thread().name, torch.get_num_threads()))
        return update(batch)

    monkeypatch.setattr(training.session.learner, "update", updated)
    before = torch.get_num_threads()
    events = training.run(STEPS)
    while len(seen) < 3:
        next(events)
    events.close()  # type: ignore[attr-defined]
    assert not [each for each in threading.enumerate() if each.name.startswith("learning")]
    assert {name.rpartition("_")[0] for name, _ in seen} == {"learning"}
    assert {count for _, count in seen} == {2}
    assert torch.get_num_threads() == before


def test_the_next_rollout_is_made_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are made while an update runs, and leave its batch alone."""
    training = Training(WORLD, replace(CONFIG, evaluation_period=None), seed=0)
    collector, during = training.session.core.collector, []

    def updated(batch: RolloutBatch, update: Any = training.session.learner.update) -> Any:
        before, obs = collector.total_steps, batch.obs.clone()
        until_s = time.monotonic() + 5
        while collector.total_steps == before and time.monotonic() < until_s:
            time.sleep(0.001)
        during.append(collector.total_steps - before)
        assert torch.equal(batch.obs, obs)
        return update(batch)

    monkeypatch.setattr(training.session.learner, "update", updated)
    for _ in training.run(120):
        pass
    assert during[0] > 0


@pytest.mark.parametrize("how", [copy.deepcopy, lambda agent: pickle.loads(pickle.dumps(agent))])
def test_a_copy_learns_as_its_original(how: Callable[[PQN], PQN]) -> None:
    def learnt(agent: PQN) -> bytes:
        assert agent.learn(300)._training is not None
        return weights(agent._training)  # type: ignore[arg-type]

    agent = PQN(WORLD.env, config=CONFIG).learn(200)
    twin = how(agent)
    before = weights(agent._training)  # type: ignore[arg-type]
    after = learnt(twin)
    assert weights(agent._training) == before != after  # type: ignore[arg-type]
    assert learnt(agent) == after


def test_it_learns() -> None:
    config = replace(CONFIG, hidden=(32,), learning_rate=5e-3, learning_rate_end=None, evaluation_period=None)
    agent = PQN("torso/Identity-v0", config=config)
    agent.learn(8_000)
    assert agent.evaluate(20).mean > 7.6


def test_moving_moments_are_refused() -> None:
    with pytest.raises(ConfigError, match="overlap must be False with normalise_observations"):
        replace(CONFIG, normalise_observations=True)
