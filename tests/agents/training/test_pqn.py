"""PQN on the training core: rollouts, checkpoints at their ends, exact resume, and what the agent leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from torso.agents import DQN, PQN, PQNConfig, Training, TrainingResult, World, preset, train_run
from torso.agents.optim.states import state_of_parts
from torso.agents.runs.checkpoints import CheckpointStore
from torso.agents.runs.events import Checkpointed, Evaluated, TrainingEvent
from torso.agents.runs.run_directory import RunDirectory
from torso.agents.training.train_runs import config_of, open_run
from torso.errors import ConfigError
from torso.nets import Predictor, onnx_path, read_card

WORLD = World(env="CartPole-v1")
CONFIG = PQNConfig(
    hidden=(16,),
    num_envs=4,
    rollout_steps=10,
    epochs=2,
    num_minibatches=4,
    learning_rate=1e-3,
    epsilon_decay_steps=300,
    evaluation_period=90,
    evaluation_episodes=4,
    checkpoint_period=100,  # falls into rollouts
    log_period=50,
)
STEPS = 500
Figures = dict[str, Any]


def bits(training: Training) -> Figures:
    state, tensors = state_of_parts(training.session.parts())
    return {**state, **{name: tensor.numpy().tobytes() for name, tensor in tensors.items()}}


def left_behind(path: Path) -> Figures:
    """Content of a run directory, without times and random names."""
    names = ("progress.jsonl", "model/weights.safetensors", "best/weights.safetensors")
    checkpoint = CheckpointStore(path / "checkpoint").load()
    assert checkpoint is not None
    return {
        **{name: (path / name).read_bytes() for name in names},
        "checkpoint": {name: tensor.numpy().tobytes() for name, tensor in checkpoint.tensors.items()},
        "state": {name: value for name, value in checkpoint.state.items() if name != "tracker"},
    }


def train(
    path: Path, *, config: PQNConfig = CONFIG, resume: bool = False, stop: Callable[[], bool] = lambda: False
) -> list[TrainingEvent]:
    with open_run(WORLD, config, total_steps=STEPS, seed=0, out=path, resume=resume) as run:
        return list(Training(WORLD, config, seed=0, run=run).run(STEPS, stop))


def kill(path: Path, at: Callable[[TrainingEvent], bool], resume: bool = False) -> None:
    """Train until an event, then drop everything: the files are as a kill would leave them."""
    with open_run(WORLD, CONFIG, total_steps=STEPS, seed=0, out=path, resume=resume) as run:
        events = Training(WORLD, CONFIG, seed=0, run=run).run(STEPS)
        assert any(at(event) for event in events), "the event did not come"
        events.close()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[TrainingEvent]]:
    path = tmp_path_factory.mktemp("pqn") / "whole"
    return path, train(path)


def test_checkpoints_come_at_the_ends_of_rollouts(whole: tuple[Path, list[TrainingEvent]]) -> None:
    """At the first end from each 100 steps on; a rollout has at most 40, the rest of its rows being resets."""
    training, ends = Training(WORLD, CONFIG, seed=0), []
    for event in training.run(STEPS):
        if isinstance(event, Checkpointed):
            ends.append(event.total_steps)
            assert training.session.core.experience.settled
    assert ends == [event.total_steps for event in whole[1] if isinstance(event, Checkpointed)]
    assert [end // 100 for end in ends] == [1, 2, 3, 4, 5]
    assert all(end % 100 < 40 for end in ends)
    assert ends[-1] == training.total_steps
    num_rollouts = training.session.learner.num_updates / 8
    assert num_rollouts == int(num_rollouts) >= STEPS / 40


@pytest.mark.parametrize("after", [1, 3, 5])
def test_a_killed_run_gives_the_same_bits(after: int, whole: tuple[Path, list[TrainingEvent]], tmp_path: Path) -> None:
    seen: list[TrainingEvent] = []

    def at(event: TrainingEvent) -> bool:
        seen.append(event)
        return isinstance(event, Evaluated) and len([each for each in seen if isinstance(each, Evaluated)]) == after

    kill(tmp_path / "run", at)
    train(tmp_path / "run", resume=True)
    assert left_behind(tmp_path / "run") == left_behind(whole[0])


def test_a_run_in_memory_gives_the_same_bits(whole: tuple[Path, list[TrainingEvent]]) -> None:
    training = Training(WORLD, CONFIG, seed=0)
    for _ in training.run(STEPS):
        pass
    run = RunDirectory.open(whole[0])
    assert bits(Training(WORLD, CONFIG, seed=0, run=run)) == bits(training)


def test_a_stop_in_a_rollout_waits_for_its_end(tmp_path: Path) -> None:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == 13  # once, as a callback might

    events = train(tmp_path / "run", stop=stop)
    [stopped] = [event for event in events if isinstance(event, Checkpointed)]
    assert 13 * 3 < stopped.total_steps < 2 * 40 + 4
    checkpoint = CheckpointStore(tmp_path / "run" / "checkpoint").load()
    assert checkpoint is not None
    assert checkpoint.state["parts"]["learner"]["num_updates"] == 16
    events = train(tmp_path / "run", resume=True)
    assert events[-1].total_steps >= STEPS


def test_small_parts_of_a_training_learn(tmp_path: Path) -> None:
    """An agent that is asked for fewer steps than a rollout has makes a whole one."""
    agent = PQN(WORLD.env, config=CONFIG)
    for _ in range(3):
        agent.learn(agent.total_steps + 1)
    assert agent._training is not None
    assert agent._training.session.learner.num_updates == 3 * 8


def test_an_evaluation_in_place_waits_for_a_rollouts_end() -> None:
    training = Training(WORLD, replace(CONFIG, evaluation_envs=0), seed=0)
    for event in training.run(STEPS):
        if isinstance(event, Evaluated):
            assert training.session.core.experience.settled
    assert training.session.learner.num_updates * 5 >= STEPS  # 8 for each 40 steps: no rollout was lost


def test_a_constructed_env_is_learnt_in() -> None:
    agent = PQN(gym.make("CartPole-v1"), hidden=(8,), rollout_steps=20, num_minibatches=2)
    agent.learn(100)
    assert agent.config.num_envs == 1
    assert agent.predict(np.zeros(4, dtype=np.float32)) in (0, 1)


def test_an_agent_is_saved_loaded_and_served_alike(tmp_path: Path) -> None:
    agent = PQN("CartPole-v1", config=CONFIG, seed=3).learn(200)
    agent.save(tmp_path / "model")
    observations = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    actions = agent.predict(observations)
    assert np.array_equal(PQN.load(tmp_path / "model").predict(observations), actions)
    assert np.array_equal(Predictor.load(tmp_path / "model").act(observations)[0], actions)
    assert onnx_path(tmp_path / "model") is not None
    assert "torso.agents.PQN" in dict(read_card(tmp_path / "model").provenance).values()
    again = PQN.load(tmp_path / "model", seed=1).learn(100)
    assert again.config == CONFIG
    assert repr(again).startswith("PQN('CartPole-v1', algorithm='pqn', net='mlp': ")


def test_agents_of_another_kind_are_named(tmp_path: Path) -> None:
    PQN("CartPole-v1", config=CONFIG).learn(40, out=tmp_path / "run").save(tmp_path / "model")
    for path in (tmp_path / "run", tmp_path / "model"):
        with pytest.raises(ConfigError, match=r"must hold settings of DQN, got those of PQN; use PQN.load"):
            DQN.load(path)
    with pytest.raises(ConfigError, match=r"algorithm must be one of DQN's, got 'pqn'; use torso.agents.PQN"):
        DQN("CartPole-v1", algorithm="pqn")
    with pytest.raises(ConfigError, match=r"PQN has no setting 'replay_capacity'; torso.agents.PQNConfig lists them"):
        PQN("CartPole-v1", replay_capacity=10)
    with pytest.raises(ConfigError, match=r"PQN has no setting 'epoch'; did you mean epochs\?"):
        PQN("CartPole-v1", epoch=10)


def test_a_run_directory_goes_on_as_it_was(tmp_path: Path) -> None:
    result = train_run(WORLD, CONFIG, total_steps=200, seed=5, out=tmp_path / "run")
    assert isinstance(result, TrainingResult)
    assert result.summary is not None
    assert result.summary["num_updates"] % 8 == 0
    assert config_of(RunDirectory.open(tmp_path / "run").settings) == CONFIG
    loaded = PQN.load(tmp_path / "run")
    assert loaded.config == CONFIG
    loaded.learn(400)
    whole = PQN("CartPole-v1", config=CONFIG, seed=5)
    whole.learn(200, out=tmp_path / "whole")
    whole.learn(400)
    assert left_behind(tmp_path / "run") == left_behind(tmp_path / "whole")


@pytest.mark.parametrize(
    ("env", "settings"),
    [
        ("MinAtar/Breakout-v1", {"num_envs": 4, "rollout_steps": 8, "num_minibatches": 2}),
        ("torso/Forager-v0", {"num_envs": 4, "rollout_steps": 8, "num_minibatches": 2}),
        ("ALE/Pong-v5", {"num_envs": 2, "rollout_steps": 8, "num_minibatches": 2, "hidden": (16,), "num_threads": 1}),
        ("Acrobot-v1", {"num_envs": 2, "rollout_steps": 8, "num_minibatches": 4, "normalise_observations": True}),
    ],
)
def test_presets_learn_in_envs_of_every_kind(env: str, settings: dict[str, Any]) -> None:
    known = preset("pqn", env)
    assert isinstance(known.config, PQNConfig)
    assert preset(None, env).recommended == known.recommended
    agent = PQN(env, evaluation_period=None, checkpoint_period=None, **settings)
    agent.learn(64)
    assert agent.total_steps >= 64
    assert agent._training is not None
    of_a_rollout = known.config.epochs * settings["num_minibatches"]
    num_updates = agent._training.session.learner.num_updates
    assert num_updates % of_a_rollout == 0
    assert num_updates * settings["num_envs"] * settings["rollout_steps"] >= 64 * of_a_rollout


def test_masks_keep_illegal_actions_out_of_acting_and_targets() -> None:
    """Action 2 is never legal and would be worth the most."""

    class Masked(gym.Env[Any, Any]):
        observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
        action_space = gym.spaces.Discrete(3)

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            super().reset(seed=seed)
            self.t = 0
            return np.zeros(1, np.float32), {"action_mask": np.array([1, 1, 0], dtype=np.int8)}

        def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            assert action != 2
            self.t += 1
            return (
                np.full(1, self.t / 5, np.float32),
                float(action),
                self.t == 5,
                False,
                {"action_mask": np.array([1, 1, 0], dtype=np.int8)},
            )

    agent = PQN(Masked, hidden=(16,), num_envs=4, rollout_steps=10, num_minibatches=4, learning_rate=3e-3)
    agent.learn(2_000)
    assert agent.evaluate(3).mean == 5.0
