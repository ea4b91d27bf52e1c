"""``DQN``'s Python API: learn, predict, evaluate, save, load, resume; and its errors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from diary import Diary, DiaryEnv

from torso.agents.presets.lookup import preset
from torso.agents.runs.callbacks import Callback
from torso.agents.runs.events import Tick
from torso.agents.runs.run_directory import RunDirectory
from torso.agents.training.agent import DQN
from torso.agents.training.train_runs import train_run
from torso.agents.value_based.config import DQNConfig
from torso.envs import IdentityEnv
from torso.envs.vector.world import World
from torso.errors import ConfigError, EnvError, InputError, ModelDamagedError, ModelNotFoundError, RunError
from torso.nets import (
    InputSpec,
    LogitsHeadSpec,
    MLPSpec,
    NetworkSpec,
    Predictor,
    build_network,
    load,
    onnx_path,
    save_model,
)

CONFIG = DQNConfig(
    hidden=(16,),
    batch_size=16,
    min_replay_size=50,
    learn_period=2,
    learning_rate=3e-3,
    target_update_period=100,
    epsilon_decay_steps=400,
    evaluation_period=200,
    evaluation_episodes=4,
)
IDENTITY = "torso/Identity-v0"
EYE = np.eye(4, dtype=np.int64)


def identity(**options: Any) -> DQN:
    return DQN(IDENTITY, config=CONFIG, seed=1, **options)


@pytest.fixture(scope="module")
def learnt() -> DQN:
    return identity().learn(1_000)


@pytest.fixture(scope="module")
def saved(learnt: DQN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "identity"
    learnt.save(path)
    return path


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[DQN, Path]:
    """An agent after 300 steps, and its run directory."""
    path = tmp_path_factory.mktemp("runs") / "identity"
    return identity().learn(300, out=path), path


def weights(agent: DQN) -> list[list[float]]:
    """Parameters of the online network."""
    assert agent._training is not None
    return [parameter.flatten().tolist() for parameter in agent._training.session.learner.online.parameters()]


# -- learn, predict, evaluate ------------------------------------------------------------------------------------------


def test_it_learns_predicts_and_evaluates(learnt: DQN) -> None:
    assert learnt.evaluate(10).mean == 8.0
    assert [learnt.predict(row) for row in EYE] == [0, 1, 2, 3]
    assert all(type(learnt.predict(row)) is int for row in EYE)
    batch = learnt.predict(EYE[[3, 1]])
    assert isinstance(batch, np.ndarray)
    assert (batch.tolist(), batch.dtype) == ([3, 1], np.int64)


def test_evaluations_repeat_and_seeds_choose_their_episodes() -> None:
    agent = DQN("CartPole-v1", config=CONFIG, seed=4).learn(300)
    once = agent.evaluate(6)
    assert agent.evaluate(6) == once
    assert agent.evaluate(6, seed=4) == once
    assert agent.evaluate(6, seed=5) != once
    with pytest.raises(ConfigError, match="episodes of an evaluation must be at least 1, got"):
        agent.evaluate(0)


def test_actions_are_the_envs_own() -> None:
    agent = DQN(IDENTITY, config=CONFIG, seed=0, env_kwargs={"action_start": 10}).learn(1_000)
    assert agent.predict(EYE).tolist() == [10, 11, 12, 13]  # type: ignore[union-attr]
    assert agent.evaluate(3).mean == 8.0


def test_learning_on_equals_learning_at_once() -> None:
    """With a cut at 300, which both have by their checkpoint period."""
    config = replace(CONFIG, checkpoint_period=300, evaluation_period=300)
    on = DQN(IDENTITY, config=config, seed=1).learn(300).learn(600)
    assert weights(on) == weights(DQN(IDENTITY, config=config, seed=1).learn(600))


def test_the_preset_of_the_env_is_the_default() -> None:
    assert DQN("CartPole-v1").config == preset(None, "CartPole-v1").config
    assert DQN(gym.make("CartPole-v1")).config == replace(preset(None, "CartPole-v1").config, num_envs=1)
    assert DQN("torso/Identity-v0").config == DQNConfig()


@pytest.mark.parametrize(
    "make",
    [lambda: IdentityEnv, lambda: IdentityEnv(), lambda: lambda: IdentityEnv(), lambda: gym.make(IDENTITY)],
    ids=["class", "constructed", "function", "gym.make"],
)
def test_an_env_may_come_in_any_form(make: Callable[[], Any]) -> None:
    assert DQN(make(), config=CONFIG, seed=1).learn(1_000).evaluate(5).mean == 8.0


def test_wrappers_and_env_kwargs_reach_the_env() -> None:
    agent = DQN(
        IDENTITY,
        config=CONFIG,
        env_kwargs={"num_values": 2, "episode_steps": 50},
        wrappers=[lambda env: gym.wrappers.TimeLimit(env, 3)],
    )
    agent.learn(100)
    assert agent.evaluate(2).lengths_steps == (3, 3)
    assert agent.predict([0, 1]) in (0, 1)


class At(Callback):
    """Stops a run at a step, which takes less time than a run to its end."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, tick: Tick) -> bool:
        return tick.total_steps >= self.step


class Shift(gym.ActionWrapper):
    """Wrapper that maps action a to a + 1, modulo their number."""

    def action(self, action: Any) -> Any:
        return (action + 1) % 4


def test_wrappers_are_found_again(tmp_path: Path) -> None:
    agent = DQN(IDENTITY, config=CONFIG, seed=1, wrappers=[Shift]).learn(300, out=tmp_path / "run", callbacks=[At(290)])
    agent.save(tmp_path / "model")
    shifted = agent.evaluate(9, seed=1)
    for path in (tmp_path / "run", tmp_path / "model"):
        assert DQN.load(path).world.wrappers == [Shift]
        assert DQN.load(path).evaluate(9, seed=1) == shifted
        assert DQN.load(path, IDENTITY).world.wrappers == [Shift]  # the same env
        assert DQN.load(path, IDENTITY, wrappers=()).evaluate(9, seed=1) != shifted
        assert DQN.load(path, lambda: IdentityEnv()).world.wrappers == ()  # another one
    assert DQN.load(tmp_path / "run").learn(400, callbacks=[At(300)]).total_steps == 300


def test_wrappers_that_cannot_be_found_again_have_to_be_given(tmp_path: Path) -> None:
    limited = partial(gym.wrappers.TimeLimit, max_episode_steps=3)
    DQN(IDENTITY, config=CONFIG, wrappers=[limited]).learn(60).save(tmp_path / "m")
    with pytest.raises(EnvError, match=r"TimeLimit\(...\).*; give DQN.load\(.*, wrappers=\[...\]\)$"):
        DQN.load(tmp_path / "m")
    assert DQN.load(tmp_path / "m", wrappers=[limited]).evaluate(1).lengths_steps == (3,)


def test_observations_that_do_not_fit_are_named(learnt: DQN) -> None:
    with pytest.raises(InputError, match=r"observations.shape must be int64 \[batch, 4\], got \[1, 3\]"):
        learnt.predict(np.zeros((1, 3)))
    with pytest.raises(InputError, match="observations"):
        learnt.predict(4)


class CtrlC(gym.Wrapper):
    """An env that raises KeyboardInterrupt (Ctrl-C) once, in the middle of a step."""

    def __init__(self, env: gym.Env, steps_until: list[int]) -> None:
        super().__init__(env)
        self.steps_until = steps_until

    def step(self, action):
        self.steps_until[0] -= 1
        if self.steps_until[0] == 0:
            raise KeyboardInterrupt
        return super().step(action)


def test_an_interrupted_agent_goes_on_where_it_was() -> None:
    diary, steps_until = Diary(), [160]
    agent = DQN(lambda: CtrlC(DiaryEnv(diary), steps_until), config=CONFIG)
    with pytest.raises(KeyboardInterrupt):
        agent.learn(300)
    assert agent.predict([0.0, 0.0]) in (0, 1, 2)
    before = diary.decisions
    agent.learn(190)
    assert before == 159
    assert 31 < diary.decisions - before < 31 + 4 * 5 + 5  # what was missing, and an evaluation
    assert agent.predict([0.0, 0.0]) in (0, 1, 2)


# -- model directories -------------------------------------------------------------------------------------------------


def test_a_model_directory_predicts_at_once(saved: Path, learnt: DQN) -> None:
    agent = DQN.load(saved)
    assert agent.predict(EYE).tolist() == [0, 1, 2, 3]  # type: ignore[union-attr]
    assert agent.config == CONFIG
    assert agent.evaluate(10, seed=1) == learnt.evaluate(10)
    assert onnx_path(saved) is not None
    assert Predictor.load(saved).act(EYE)[0].tolist() == [0, 1, 2, 3]
    provenance = Predictor.load(saved).card.provenance
    assert (provenance["env_id"], provenance["seed"]) == (IDENTITY, 1)


def test_a_loaded_model_learns_anew_from_its_weights(saved: Path) -> None:
    held = DQN.load(saved, config=replace(CONFIG, min_replay_size=90, learning_rate=1e-9))
    held.learn(100)
    first = [parameter.flatten().tolist() for parameter in load(saved).parameters()]
    np.testing.assert_allclose(np.concatenate(weights(held)), np.concatenate(first), atol=1e-6)
    assert held.evaluate(5).mean == 8.0
    assert held._training is not None
    assert held._training.total_steps == 100  # its steps are counted anew
    assert DQN.load(saved).predict(EYE[2]) == 2  # and the files are as they were


def test_what_was_loaded_can_be_saved_again(saved: Path, tmp_path: Path) -> None:
    DQN.load(saved).save(tmp_path / "copy")
    assert (tmp_path / "copy" / "weights.safetensors").read_bytes() == (saved / "weights.safetensors").read_bytes()
    assert onnx_path(tmp_path / "copy") is not None
    assert DQN.load(tmp_path / "copy").config == CONFIG


def test_a_model_remembers_its_env_and_its_arguments(tmp_path: Path) -> None:
    kwargs = {"num_values": 3, "action_start": 5}
    DQN(IDENTITY, config=CONFIG, env_kwargs=kwargs).learn(60).save(tmp_path / "m")
    assert DQN.load(tmp_path / "m").world.env_kwargs == kwargs
    constructed = DQN.load(tmp_path / "m", IdentityEnv(num_values=3, action_start=5))
    assert constructed.predict([0, 0, 1]) in (5, 6, 7)
    assert constructed.learn(60).evaluate(1).lengths_steps == (8,)
    assert DQN.load(tmp_path / "m", lambda: IdentityEnv(**kwargs)).world.env_kwargs == {}  # of another env
    with pytest.raises(EnvError, match="3 actions from 5, the env has 3 from 0"):
        DQN.load(tmp_path / "m", lambda: IdentityEnv(num_values=3))
    with pytest.raises(EnvError, match=r"observations.shape must be int64 \[batch, 3\], got \[1, 4\] of float32"):
        DQN.load(tmp_path / "m", "CartPole-v1")
    with pytest.raises(ConfigError, match=r"the initial weights must be of .*, as these settings require, got"):
        DQN.load(tmp_path / "m", config=replace(CONFIG, hidden=(5,)))


def test_an_env_that_cannot_be_made_from_its_name_has_to_be_given(tmp_path: Path) -> None:
    DQN(lambda: IdentityEnv(num_values=3), config=CONFIG).learn(60).save(tmp_path / "m")
    with pytest.raises(EnvError, match=r"give DQN.load\(.*, env\)"):
        DQN.load(tmp_path / "m")
    assert DQN.load(tmp_path / "m", lambda: IdentityEnv(num_values=3)).predict([0, 1, 0]) in (0, 1, 2)


def network_spec(**head: int) -> NetworkSpec:
    return NetworkSpec(input=InputSpec(shape=(4,)), torso=MLPSpec(hidden=()), head=LogitsHeadSpec(**head))


def test_what_is_no_policy_is_not_loaded(tmp_path: Path, saved: Path) -> None:
    classifier = build_network(network_spec(num_classes=3), torch.Generator())
    save_model(tmp_path / "digits", classifier, kind="classifier", onnx=False)
    with pytest.raises(ConfigError, match=r"must hold a policy, got a classifier; use Classifier.load"):
        DQN.load(tmp_path / "digits")
    with pytest.raises(ModelNotFoundError):
        DQN.load(tmp_path / "nothing")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "model.json").write_text((saved / "model.json").read_text()[:40])
    with pytest.raises(ModelDamagedError):
        DQN.load(tmp_path / "half")


def test_a_model_whose_settings_are_unknown_asks_for_them(tmp_path: Path, saved: Path) -> None:
    shutil.copytree(saved, tmp_path / "m")
    card = json.loads((tmp_path / "m" / "model.json").read_text())
    card["provenance"]["config"]["warp"] = 9
    (tmp_path / "m" / "model.json").write_text(json.dumps(card))
    with pytest.raises(ConfigError, match=r"warp.*give config="):
        DQN.load(tmp_path / "m")
    assert DQN.load(tmp_path / "m", config=CONFIG).predict(EYE[0]) in range(4)
    del card["provenance"]["config"]
    (tmp_path / "m" / "model.json").write_text(json.dumps(card))
    with pytest.raises(ConfigError, match="config="):
        DQN.load(tmp_path / "m")


# -- run directories ---------------------------------------------------------------------------------------------------


def test_a_run_directory_resumes_to_the_same_bits(tmp_path: Path, begun: tuple[DQN, Path]) -> None:
    agent, path = begun
    shutil.copytree(path, tmp_path / "run")
    loaded = DQN.load(tmp_path / "run")
    assert loaded.config == CONFIG
    assert loaded.predict(EYE).tolist() == agent.predict(EYE).tolist()  # type: ignore[union-attr]
    loaded.learn(600)
    assert weights(loaded) == weights(identity().learn(300).learn(600))
    assert loaded.evaluate(4) == DQN.load(tmp_path / "run").evaluate(4)
    assert RunDirectory.open(tmp_path / "run").settings["total_steps"] == 600


def test_an_agent_goes_on_in_the_run_directory_it_began(tmp_path: Path) -> None:
    agent = identity().learn(200, out=tmp_path / "run")
    agent.learn(400)
    assert weights(agent) == weights(identity().learn(200).learn(400))
    agent.save(tmp_path / "model")
    assert DQN.load(tmp_path / "model").predict(EYE[1]) == agent.predict(EYE[1])
    assert (RunDirectory.open(tmp_path / "run").read_summary() or {})["total_steps"] == 400
    with pytest.raises(ConfigError, match="out must be None for an agent that has learnt already, got"):
        agent.learn(600, out=tmp_path / "elsewhere")


def test_an_agent_of_the_command_lines_run_goes_on_as_that(tmp_path: Path) -> None:
    out, world = tmp_path / "run", World(env=IDENTITY)
    train_run(world, CONFIG, total_steps=60, seed=1, out=out, callbacks=[At(10)])
    assert DQN.load(out).learn(120, callbacks=[At(20)]).total_steps == 20
    assert RunDirectory.open(tmp_path / "run").settings["algorithm"] == "dqn"


def test_an_interrupted_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    config = replace(CONFIG, checkpoint_period=100, evaluation_period=1_000)

    def agent_interrupted(steps_until: list[int]) -> DQN:
        return DQN(lambda: CtrlC(gym.make("CartPole-v1"), steps_until), config=config)

    agent = agent_interrupted([150])
    with pytest.raises(KeyboardInterrupt):
        agent.learn(200, out=tmp_path / "run")
    assert weights(agent.learn(200)) == weights(agent_interrupted([-1]).learn(200))


def test_a_run_in_an_env_without_an_id_is_loaded_with_it(tmp_path: Path) -> None:
    DQN(IdentityEnv, config=CONFIG, env_kwargs={"num_values": 3}).learn(100, out=tmp_path / "run")
    with pytest.raises(EnvError, match=r"give DQN.load\(.*, env\)"):
        DQN.load(tmp_path / "run")
    assert DQN.load(tmp_path / "run", IdentityEnv).learn(200).predict([1, 0, 0]) in range(3)
    with pytest.raises(RunError, match="env_id was"):
        DQN.load(tmp_path / "run", lambda: IdentityEnv(num_values=3)).learn(300)


def test_directories_that_are_no_training_run_are_refused(tmp_path: Path) -> None:
    with RunDirectory.prepare(tmp_path / "fit", kind="fit", settings={}, resolved={}, seed=0, resume=False):
        pass
    with pytest.raises(RunError, match=r"must hold a training run, got a fit run; use Classifier.load"):
        DQN.load(tmp_path / "fit")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    with pytest.raises(RunError, match="not a run of torso"):
        DQN.load(tmp_path / "other")


def test_a_refused_directory_can_be_followed_by_another(tmp_path: Path, begun: tuple[DQN, Path]) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("mine")
    agent = identity()
    with pytest.raises(RunError, match="not a run"):
        agent.learn(60, out=tmp_path / "taken")
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["thesis.tex"]
    with pytest.raises(RunError, match="already holds a run"):
        agent.learn(60, out=begun[1])
    agent.learn(60)
    assert agent.predict(EYE[0]) in range(4)


def test_a_constructed_env_learns_in_memory_only(tmp_path: Path) -> None:
    agent = DQN(IdentityEnv(), config=CONFIG)
    with pytest.raises(
        ConfigError, match="the env of a run directory must be one that can be built anew, got the constructed env"
    ):
        agent.learn(60, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    agent.learn(60).save(tmp_path / "model")


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "options", "error", "named"),
    [
        ("CartPol-v1", {}, EnvError, "did you mean 'CartPole-v1'"),
        ("Pendulum-v1", {}, EnvError, r"Pendulum-v1 must have Discrete actions, got Box"),
        (lambda: 7, {}, EnvError, "must make a gymnasium.Env"),
        (gym.make_vec("CartPole-v1", num_envs=2), {}, ConfigError, "Gymnasium id, an env class or a function"),
        ("CartPole-v1", {"seed": -1}, ConfigError, "seed must not be negative"),
        ("CartPole-v1", {"config": DQNConfig(net="nature")}, ConfigError, "image"),
        (IDENTITY, {"env_kwargs": {"num_values": 0}}, EnvError, "num_values"),
        (
            IdentityEnv(),
            {"config": DQNConfig(num_envs=2)},
            ConfigError,
            "num_envs must be 1 for .*, which is one constructed env, got 2",
        ),
        (IdentityEnv(), {"env_kwargs": {"num_values": 3}}, ConfigError, "constructed already"),
    ],
    ids=["unknown", "continuous", "no env", "vector", "seed", "net", "kwargs", "envs", "constructed"],
)
def test_what_cannot_be_learnt_is_refused_at_once(env: Any, options: Any, error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        DQN(env, **options)


def test_steps_are_a_total_that_grows() -> None:
    agent = identity()
    for steps in (0, -5):
        with pytest.raises(ConfigError, match=f"more than the 0 steps learnt already, got {steps}"):
            agent.learn(steps)
    agent.learn(100)
    for steps in (99, 100):
        with pytest.raises(ConfigError, match=f"more than the 100 steps learnt already, got {steps}"):
            agent.learn(steps)


def test_a_loaded_run_is_not_taken_back(begun: tuple[DQN, Path]) -> None:
    with pytest.raises(
        ConfigError, match=r"total_steps must be at least the 300 steps that .* has made already, got 299"
    ):
        DQN.load(begun[1]).learn(299)


def test_an_agent_that_has_learnt_nothing_says_so(tmp_path: Path) -> None:
    agent = identity()
    for ask in (lambda: agent.predict(EYE[0]), agent.evaluate, lambda: agent.save(tmp_path / "m")):
        with pytest.raises(ConfigError, match=r"call learn\(\) first"):
            ask()
    assert not (tmp_path / "m").exists()
