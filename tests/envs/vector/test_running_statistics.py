"""Wrappers with running statistics are refused, wherever they stand, with the setting that takes their place."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import NormalizeObservation, NormalizeReward, TimeLimit

from torso.agents import DQN
from torso.envs import IdentityEnv, make_vector
from torso.envs.vector.world import World
from torso.errors import EnvError


class RunningMeanStd:
    """A class of another library, by its name."""


class Moments:
    mean, var, count = 0.0, 1.0, 0

    def update(self, values: Any) -> None: ...


class Scaled(gym.Wrapper):
    """A user's own, which holds moments under a name."""

    def __init__(self, env: gym.Env, attribute: str, value: Any) -> None:
        super().__init__(env)
        setattr(self, attribute, value)


class MyNormalize(NormalizeReward):
    pass


SETTING = {"observation": "normalise_observations=True", "reward": "normalise_rewards=True"}
CASES = [
    (NormalizeObservation, "observation"),
    (NormalizeReward, "reward"),
    (MyNormalize, "reward"),
    (lambda env: TimeLimit(NormalizeObservation(env), 9), "observation"),
    (lambda env: Scaled(env, "stats", RunningMeanStd()), "observation"),
    (lambda env: Scaled(env, "obs_stats", Moments()), "observation"),
    (lambda env: Scaled(env, "reward_stats", Moments()), "reward"),
]


@pytest.mark.parametrize(("wrap", "of"), CASES)
@pytest.mark.parametrize("how", ["wrapper", "function", "constructed", "id"])
def test_they_are_refused_with_the_setting_that_does_it(wrap: Any, of: str, how: str) -> None:
    world = {
        "wrapper": World(env=IdentityEnv, wrappers=[wrap]),
        "function": World(env=lambda: wrap(IdentityEnv())),
        "constructed": World(env=wrap(IdentityEnv())),
        "id": World(env="CartPole-v1", wrappers=[wrap]),
    }[how]
    with pytest.raises(EnvError, match=rf"in training and in evaluation, got .*; leave it out, and give {SETTING[of]}"):
        _ = world.spec


def test_an_agent_refuses_them() -> None:
    with pytest.raises(EnvError, match="got the wrapper NormalizeObservation"):
        DQN("CartPole-v1", wrappers=[NormalizeObservation])


def test_statistics_that_no_longer_change_are_the_same_in_every_copy() -> None:
    def frozen(env: gym.Env) -> gym.Env:
        wrapped = NormalizeObservation(env)
        wrapped.obs_rms.mean = np.full(4, 2.0)
        wrapped.update_running_mean = False
        return wrapped

    vector = make_vector("CartPole-v1", 2, wrappers=[frozen])
    np.testing.assert_allclose(vector.reset()[0], -2.0, atol=0.1)
    vector.close()
