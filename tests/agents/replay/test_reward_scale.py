"""Reward scale: hand-worked returns, Gymnasium's wrapper as an oracle, and batches that are divided when sampled."""

from __future__ import annotations

import json
from collections.abc import Sequence

import gymnasium as gym
import numpy as np
import pytest
import torch

from torso.agents.protocols import Due, StepRows
from torso.agents.replay.reward_scale import RewardScale
from torso.agents.replay.ring import ReplayRing
from torso.agents.replay.transitions import Transitions
from torso.agents.replay.uniform import UniformSampler


def rows(reward: Sequence[float], ends: str | None = None) -> StepRows:
    """One step of every env; of ``ends``, a letter an env: '-' goes on, 't'erminated, 'l'imit, 'r' a reset row."""
    ends = ends or "-" * len(reward)
    terminated, truncated, is_reset = (np.array([end == letter for end in ends]) for letter in "tlr")
    obs, action = np.zeros((len(ends), 1), np.float32), np.zeros(len(ends), np.int64)
    return StepRows(obs, action, np.array(reward), terminated, truncated, is_reset, None, obs)


def scale(num_envs: int = 2, gamma: float = 0.5, *, clip_rewards: bool = False) -> RewardScale:
    return RewardScale(num_envs, gamma=gamma, clip_rewards=clip_rewards)


def test_the_deviation_is_that_of_the_returns_so_far() -> None:
    made = scale()
    assert made.deviation == 1.0
    made.update(rows([1.0, 4.0]))  # returns 1 and 4
    assert made.deviation == 1.5
    made.update(rows([2.0, 0.0], "t-"))  # 2.5 and 2
    made.update(rows([0.0, -8.0], "r-"))  # none, and -7
    assert made.deviation == pytest.approx(15**0.5, rel=1e-12)  # squares about 0.5: 0.25, 12.25, 4, 2.25 and 56.25
    made.update(rows([3.0, 0.5], "-l"))  # 3, of a new episode, and -3
    made.update(rows([-1.0, 0.0], "-r"))  # 0.5, and none
    made.update(rows([0.75, 1.0]))  # 1, and 1 of a new episode
    assert made.deviation == pytest.approx(np.std([1, 4, 2.5, 2, -7, 3, -3, 0.5, 1, 1]), rel=1e-12)


def test_clipping_comes_first() -> None:
    made = scale(1, clip_rewards=True)
    for reward in (10.0, -0.5, -7.0):  # returns 1, 0 and -1
        made.update(rows([reward]))
    assert made.deviation == pytest.approx(np.std([1.0, 0.0, -1.0]), rel=1e-12)


@pytest.mark.parametrize("reward", [0.1, -3.0, 1e6, 1e-6])
def test_where_all_returns_are_equal_their_magnitude_is_the_unit(reward: float) -> None:
    made = scale(3)
    for _ in range(50):
        made.update(rows([reward] * 3, "ttt"))
        made.update(rows([0.0] * 3, "rrr"))
    assert made.deviation == pytest.approx(abs(reward), rel=1e-9)


def test_without_a_reward_nothing_is_divided() -> None:
    made = scale()
    for _ in range(9):
        made.update(rows([0.0, 0.0]))
    assert made.deviation == 1.0


def test_it_is_the_deviation_of_gymnasiums_wrapper() -> None:
    """Within an episode: at an end, the wrapper carries the last reward over to the next one."""

    class Noisy(gym.Env):
        observation_space, action_space = gym.spaces.Discrete(2), gym.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return 0, {}

        def step(self, action):
            return 0, float(self.np_random.normal(30.0, 5.0)), False, False, {}

    wrapped, made = gym.wrappers.NormalizeReward(Noisy(), gamma=0.9), scale(1, 0.9)
    twin = Noisy()
    wrapped.reset(seed=3)
    twin.reset(seed=3)
    for _ in range(2_000):
        wrapped.step(0)
        made.update(rows([twin.step(0)[1]]))
    assert made.deviation == pytest.approx(float(np.sqrt(wrapped.return_rms.var)), rel=1e-3)  # it begins at 1e-4 rows


def test_a_restored_one_goes_on_to_the_same_bits() -> None:
    made, restored = scale(), scale()
    for seed in range(5):
        made.update(rows(np.random.default_rng(seed).normal(size=2).tolist()))
    restored.restore(json.loads(json.dumps(made.state())))
    made.begin_episodes()  # as at every checkpoint
    for each in (made, restored):
        each.update(rows([0.3, -1.7]))
    assert made.deviation == restored.deviation != scale().deviation


@pytest.mark.parametrize("n_step", [1, 3])
def test_a_batch_is_divided_by_the_deviation_of_its_moment(n_step: int) -> None:
    ring = ReplayRing(capacity_steps=100, num_envs=2, shape=(1,), dtype="float32")
    made = scale()
    plain, scaled = (
        Transitions(
            ring,
            UniformSampler(ring, n_step=n_step),
            torch.Generator().manual_seed(0),
            n_step=n_step,
            gamma=0.5,
            clip_rewards=False,
            learn_period=1,
            samples_per_phase=16,
            min_replay_size=1,
            importance=lambda step: 0.0,
            reward_scale=each,
        )
        for each in (None, made)
    )
    rng = np.random.default_rng(0)
    due = Due(1, 1, 1)
    for _ in range(3):
        for _ in range(6):
            scaled.append(rows((1_000 * rng.normal(size=2)).tolist()))
        batch, divided = plain.sample(due), scaled.sample(due)
        assert batch.r_t.abs().max() > 100
        assert torch.equal(divided.r_t, batch.r_t / made.deviation)
        assert torch.equal(divided.s_t, batch.s_t)
    assert ring.read_rows(0, 18)["reward"].abs().max() > 100  # what is stored is the env's own
    before = made.deviation
    scaled.break_off()  # new episodes begin
    scaled.append(rows([0.0, 0.0]))
    assert made.state()["count"] == 38
    assert made.deviation < before  # two returns of 0, not what was left of the episodes before
