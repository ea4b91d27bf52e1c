from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from torso.envs import IdentityEnv
from torso.errors import ConfigError


@pytest.mark.parametrize("env_kwargs", [{}, {"num_values": 2, "episode_steps": 1}, {"action_start": 5}])
def test_gymnasium_finds_nothing_wrong(env_kwargs: dict):
    check_env(IdentityEnv(**env_kwargs), skip_render_check=True)


@pytest.mark.parametrize("action_start", [0, -2])
def test_naming_what_is_shown_is_rewarded_and_nothing_else(action_start: int):
    env = IdentityEnv(num_values=3, action_start=action_start)
    for offset, reward in ((0, 1.0), (1, 0.0), (2, 0.0)):
        obs, _ = env.reset(seed=offset)
        ends = []
        for _ in range(8):
            obs, got, terminated, truncated, _ = env.step(np.int64((obs + offset) % 3 + action_start))
            assert got == reward
            ends.append((terminated, truncated))
        assert ends == [(False, False)] * 7 + [(True, False)]


def test_all_values_are_shown_and_a_seed_repeats_them():
    env = IdentityEnv()

    def shown(seed: int) -> list[int]:
        obs, _ = env.reset(seed=seed)
        return [int(obs)] + [int(env.step(np.int64(0))[0]) for _ in range(50)]

    assert set(shown(0)) == {0, 1, 2, 3}
    assert shown(0) == shown(0) != shown(1)


def test_by_its_id():
    env = gym.make("torso/Identity-v0", num_values=6)
    assert env.observation_space == gym.spaces.Discrete(6)
    env.close()


@pytest.mark.parametrize("env_kwargs", [{"num_values": 0}, {"episode_steps": 0}])
def test_settings_that_cannot_work(env_kwargs: dict):
    with pytest.raises(ConfigError, match="must be at least 1"):
        IdentityEnv(**env_kwargs)
