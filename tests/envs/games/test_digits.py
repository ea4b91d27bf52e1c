from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from torso.envs import load_dataset, make_vector, observation_layout, observation_scale
from torso.envs.games.digits import DigitsEnv
from torso.errors import ConfigError, EnvError


def named(split: str) -> dict[bytes, int]:
    data = getattr(load_dataset("digits"), split)
    return {picture.tobytes(): int(label) for picture, label in zip(data.inputs, data.labels, strict=True)}


@pytest.mark.parametrize("env_kwargs", [{}, {"split": "test", "length": 2}])
def test_gymnasium_finds_nothing_wrong(env_kwargs: dict[str, Any]):
    env = gym.make("torso/Digits-v0", render_mode="rgb_array", disable_env_checker=True, **env_kwargs)
    check_env(env.unwrapped)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_naming_a_digit_of_the_split_is_rewarded_and_nothing_else(split: str):
    labels = named(split)
    env = DigitsEnv(split=split)
    obs, _ = env.reset(seed=0)
    for step in range(1, 21):
        label = labels[obs.tobytes()]
        obs, reward, terminated, truncated, _ = env.step(np.int64((label + step // 11) % 10))
        assert (reward, terminated, truncated) == (float(step < 11), False, step == 20)
    env.reset()
    assert [env.step(np.int64(0))[3] for _ in range(20)] == [False] * 19 + [True]


def test_pictures_are_drawn_evenly_and_a_seed_repeats_them():
    labels = named("train")
    env = DigitsEnv(length=3_000)

    def shown(seed: int) -> list[bytes]:
        obs, _ = env.reset(seed=seed)
        return [obs.tobytes()] + [env.step(np.int64(0))[0].tobytes() for _ in range(3_000)]

    pictures = shown(0)
    assert len(set(pictures)) > 0.85 * len(labels)  # 1 - exp(-3000 / 1255) = 0.91 is expected
    assert set(pictures) <= set(labels)
    assert set(map(labels.get, pictures)) == set(range(10))
    assert pictures == shown(0) != shown(1)


def test_a_picture_is_the_callers_to_write_to():
    env = DigitsEnv()
    obs, _ = env.reset(seed=0)
    kept = obs.copy()
    obs[:] = 99
    again, _ = env.reset(seed=0)
    np.testing.assert_array_equal(again, kept)


def test_the_network_is_shown_values_from_0_to_1_as_a_classifier_is():
    space = make_vector("torso/Digits-v0").single_observation_space
    assert observation_layout(space) == ((8, 8), "uint8", "hw")
    assert observation_scale(space) == 1 / 16


def test_the_picture_shows_what_is_to_be_named_and_how_the_last_answers_went():
    env = DigitsEnv(render_mode="rgb_array", length=30)
    labels = named("train")
    obs, _ = env.reset(seed=0)
    before = env.render()
    assert (before.shape, before.dtype) == ((472, 400, 3), np.uint8)
    np.testing.assert_array_equal(before[60:360:40, 60:360:40, 0], (obs * 15.9375).astype(np.uint8))
    green, red = (86, 190, 110), (226, 72, 72)
    frames_seen = []
    for step in range(12):
        obs, *_ = env.step(np.int64(labels[obs.tobytes()] + (step == 4)) % 10)
        frames_seen.append([tuple(env.render()[393, 40 * index + 20].tolist()) for index in range(10)])
    assert frames_seen[0][0] == green
    assert green not in frames_seen[0][1:]
    assert frames_seen[9] == [green] * 4 + [red] + [green] * 5
    assert frames_seen[11] == [green] * 2 + [red] + [green] * 7  # the oldest have gone
    env.reset(seed=0)
    np.testing.assert_array_equal(env.render(), before)
    assert DigitsEnv().render() is None


@pytest.mark.parametrize(
    ("env_kwargs", "message"),
    [
        ({"split": "all"}, "split must be one of train, validation, test, got 'all'"),
        ({"length": 0}, "length must be at least 1, got 0"),
    ],
)
def test_settings_that_cannot_work(env_kwargs: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        DigitsEnv(**env_kwargs)
    with pytest.raises(EnvError, match=f"torso/Digits-v0 could not be made with .*{message}"):
        make_vector("torso/Digits-v0", env_kwargs=env_kwargs)
