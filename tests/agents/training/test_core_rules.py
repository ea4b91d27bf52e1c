"""Rules of the training core: lost lives, legal actions, the order of due updates, scaled observations."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from torso.agents.optim.observation_moments import RunningMoments
from torso.agents.protocols import Update
from torso.agents.replay.batches import Batch
from torso.agents.replay.ring import ReplayRing
from torso.agents.training.core import TrainingCore
from torso.agents.training.session import Session, assemble, build_network_for
from torso.agents.value_based.assembly import transitions_of
from torso.agents.value_based.config import DQNConfig
from torso.agents.value_based.learner import DQNLearner
from torso.agents.value_based.network import initial_network, input_spec, q_network_spec
from torso.envs import make_vector
from torso.envs.vector.world import World
from torso.errors import ConfigError

CPU = torch.device("cpu")


class Lives(gym.Env):
    """Observes the step; loses a life at every third, and the game at every sixth. Action (step % 3) alone is legal."""

    def __init__(self, masked: bool = False) -> None:
        self.observation_space = gym.spaces.Box(-1e9, 1e9, (1,), np.float32)
        self.action_space = gym.spaces.Discrete(3)
        self.masked = masked

    def _observation(self) -> tuple[np.ndarray, dict[str, Any]]:
        mask = np.arange(3) == self.time % 3
        return np.array([self.time], np.float32), {"action_mask": mask.astype(np.int8)} if self.masked else {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._observation()

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert not self.masked or action == self.time % 3, "an illegal action"
        self.time += 1
        over = self.time == 6
        obs, info = self._observation()
        return obs, float(self.time), over, False, {**info, "life_lost": self.time == 3}


class RecordingLearner(DQNLearner):
    """A learner that records its batches and target updates."""

    tape: list[Any]

    def update(self, batch: Batch) -> Update:
        self.tape.append(batch)
        return super().update(batch)

    def update_target(self) -> None:
        self.tape.append("target")
        super().update_target()


def core(*, masked: bool = False, **settings: Any) -> TrainingCore:
    config = DQNConfig(**{"hidden": (4,), "batch_size": 4, "min_replay_size": 10, **settings})
    spec = q_network_spec(config, input_spec(World(env=Lives).spec, config), 3)
    learner = RecordingLearner(
        config,
        initial_network(config, spec, 0),
        device=CPU,
        precision="float32",
        moments=RunningMoments(1) if config.normalise_observations else None,
    )
    learner.tape = []
    replay = ReplayRing(
        capacity_steps=1_000,
        num_envs=config.num_envs,
        shape=(1,),
        dtype="float32",
        num_actions=3 if masked else None,
    )
    made = assemble(
        config,
        learner,
        transitions_of(config, replay, torch.Generator().manual_seed(0)),
        lambda step: make_vector(lambda: Lives(masked), config.num_envs, step),
        action_start=0,
        acting_rng=np.random.default_rng(0),
    )
    made.begin()
    return made


def batches(made: TrainingCore) -> list[Batch]:
    return [each for each in made.learner.tape if isinstance(each, Batch)]


def test_a_lost_life_is_the_learners_end_but_not_the_episodes() -> None:
    made = core(n_step=2, gamma=0.5, learn_period=10_000)
    episodes = [episode for tick in made.run(60) for episode in tick.episodes]
    assert {(episode.length_steps, episode.episode_return) for episode in episodes} == {(6, 21.0)}
    sample = made.experience.sampler.sample(500, made.experience.generator, 0.0)
    batch = made.experience.ring.transitions(sample.row, sample.env, n_step=2, gamma=0.5)
    assert set(sample.weight.tolist()) == {1.0}
    found = set(zip(batch.s_tm1[:, 0].tolist(), batch.r_t.tolist(), batch.discount_t.tolist(), strict=True))
    # From time 2 a life is lost at once, from time 1 after two steps; time 3 goes on as if nothing had been.
    expected = {(0, 1 + 2 / 2, 0.25), (1, 2 + 3 / 2, 0.0), (2, 3, 0.0), (3, 4 + 5 / 2, 0.25), (4, 5 + 6 / 2, 0.0)}
    assert found == expected | {(5, 6, 0.0)}


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0])
def test_illegal_actions_are_never_taken_and_never_bootstrapped_from(epsilon: float) -> None:
    made = core(masked=True, num_envs=3, epsilon_start=epsilon, epsilon_end=epsilon)
    for _ in made.run(200):
        pass  # the env refuses illegal actions
    assert len(batches(made)) > 10
    for batch in batches(made):
        assert batch.mask_t is not None
        assert batch.mask_t.sum(dim=1).tolist() == [1] * len(batch.mask_t)
        assert torch.equal(batch.mask_t.long().argmax(dim=1), batch.s_t[:, 0].long() % 3)


@pytest.mark.parametrize("num_envs", [1, 5, 16])
def test_target_updates_and_phases_come_in_the_order_of_their_steps(num_envs: int) -> None:
    made = core(num_envs=num_envs, learn_period=3, target_update_period=4, min_replay_size=40, batch_size=2)
    for _ in made.run(200):
        pass
    phases = [step for step in range(40, made.total_steps + 1) if step % 3 == 0]
    targets = range(4, made.total_steps + 1, 4)
    due = sorted([(step, 0, "target") for step in targets] + [(step, 1, "phase") for step in phases])
    got: list[str] = []
    for each in made.learner.tape:
        got += ["target"] if each == "target" else ["phase"] * (len(each.r_t) // 2)
    assert got == [what for _, _, what in due]


def test_rewards_are_clipped_for_the_learner_alone() -> None:
    made = core(clip_rewards=True)
    episodes = [episode for tick in made.run(60) for episode in tick.episodes]
    assert {episode.episode_return for episode in episodes} == {21.0}
    assert {reward for batch in batches(made) for reward in batch.r_t.tolist()} == {1.0}


def test_what_was_learnt_from_gets_its_priority() -> None:
    made = core(prioritized=True, priority_exponent=1.0, learn_period=50, batch_size=4, importance_start=0.5)
    for _ in made.run(60):
        pass
    _, tensors = made.experience.sampler.state()
    priorities = set(tensors["priority"].flatten().tolist())
    assert 1.0 in priorities  # never learnt from: the largest so far, which errors of these sizes exceed only later
    assert len(priorities - {0.0, 1.0}) >= 2


def test_the_learning_rate_falls() -> None:
    made = core(learning_rate=1e-2, learning_rate_end=1e-3, learning_rate_decay_steps=100)
    for _ in made.run(48):
        pass
    assert made.learner.step.learning_rate == pytest.approx(1e-2 - 0.48 * 9e-3)


def test_observations_are_scaled_by_what_was_seen_without_what_came_twice() -> None:
    made = core(normalise_observations=True, learn_period=60)
    for _ in made.run(60):
        pass
    assert made.learner.moments is not None
    assert made.learner.moments.count == 60  # decisions; reset rows are none
    assert made.learner.moments.mean == pytest.approx([2.5])
    assert (
        made.learner.online.spec.input.mean == made.learner.target.spec.input.mean == tuple(made.learner.moments.mean)
    )
    assert made.learner.online.spec.input.std == pytest.approx((np.std(range(6)),))


def test_a_replay_too_small_for_the_stacks_is_refused_before_anything_is_made() -> None:
    config = DQNConfig(net="nature", num_envs=2, n_step=3, replay_capacity=13, min_replay_size=12)
    with pytest.raises(ConfigError, match="a stack of 4 frames of each env, 14 steps in all, got 13"):
        build_network_for(World(env="ALE/Pong-v5"), config, 0)


def test_a_session_takes_masks_and_scaling_from_its_world() -> None:
    config = DQNConfig(hidden=(4,), normalise_observations=True)
    session = Session(World(env=Lives, env_kwargs={"masked": True}), config, seed=0, device=CPU, precision="float32")
    assert session.replay.has_masks
    assert session.learner.online.spec.input.mean == (0.0,)
    plain = Session(World(env=Lives), DQNConfig(hidden=(4,)), seed=0, device=CPU, precision="float32")
    assert not plain.replay.has_masks
    assert plain.learner.online.spec.input.mean is None
