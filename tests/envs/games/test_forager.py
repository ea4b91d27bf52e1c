from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from torso.envs.games.forager import MAX_EPISODE_STEPS, ForagerEnv, ForagerVector
from torso.envs.games.forager_world import FOOD, FORWARD, POISON, TURN_LEFT, TURN_RIGHT, WALL
from torso.errors import ConfigError, EnvError

NAME = "torso/Forager-v0"
Policy = Callable[[np.ndarray], np.ndarray]


def _singles(num_envs: int, limit: int, env_kwargs: dict[str, Any]) -> SyncVectorEnv:
    def make() -> gym.Env:
        return gym.make(NAME, max_episode_steps=limit, disable_env_checker=True, **env_kwargs)

    return SyncVectorEnv([make] * num_envs, copy=True, autoreset_mode=AutoresetMode.NEXT_STEP)


def _same(one: Any, other: Any) -> bool:
    """Equal to the last bit, with the same dtypes."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def _lively(rng: np.random.Generator, num_envs: int) -> np.ndarray:
    """Actions that get about, so that something is eaten."""
    return rng.choice(5, size=num_envs, p=[0.6, 0.15, 0.15, 0.05, 0.05])


@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
@pytest.mark.parametrize("env_kwargs", [{}, {"num_eyes": 4, "num_poison": 0, "forward_reward": 0.1}])
def test_gymnasium_finds_nothing_wrong(render_mode: str | None, env_kwargs: dict[str, Any]):
    env = gym.make(NAME, render_mode=render_mode, disable_env_checker=True, **env_kwargs)
    check_env(env.unwrapped)


@given(
    seeds=st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5),
    limit=st.integers(1, 60),
    env_kwargs=st.fixed_dictionaries(
        {},
        optional={
            "num_eyes": st.integers(1, 20),
            "fan_degrees": st.floats(10, 360),
            "eye_range": st.floats(1, 40),
            "num_food": st.integers(0, 30),
            "num_poison": st.integers(0, 30),
            "inner_walls": st.booleans(),
            "forward_reward": st.floats(0, 1),
        },
    ),
)
@settings(max_examples=15, deadline=None)
def test_the_vector_env_is_the_single_envs_to_the_last_bit(seeds: list[int], limit: int, env_kwargs: dict[str, Any]):
    together = ForagerVector(NAME, seeds, max_episode_steps=limit, **env_kwargs)
    apart = _singles(len(seeds), limit, env_kwargs)
    assert together.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    for space in ("single_observation_space", "single_action_space", "observation_space", "action_space"):
        assert getattr(together, space) == getattr(apart, space)
    ours, theirs = together.reset(), apart.reset(seed=seeds)
    rng = np.random.default_rng(seeds[0])
    for step in range(100):
        assert all(map(_same, ours, theirs)), step
        actions = _lively(rng, len(seeds))
        ours, theirs = together.step(actions), apart.step(actions)
    assert all(map(_same, together.reset(), apart.reset()))  # which goes on with the same generators
    assert all(map(_same, together.reset(seed=7), apart.reset(seed=7)))


def test_whole_episodes_in_which_much_is_eaten_are_the_same_too():
    seeds = [11, 12, 13]
    together, apart = ForagerVector(NAME, seeds), _singles(3, 1_000, {})
    ours, theirs = together.reset(), apart.reset(seed=seeds)
    for step in range(1_050):
        assert all(map(_same, ours, theirs)), step
        if step == 1_000:
            assert (ours[-1]["food"] > 10).all()
        actions = follow_the_food(ours[0])
        ours, theirs = together.step(actions), apart.step(actions)


def test_an_env_depends_on_its_seed_alone():
    three, one = ForagerVector(NAME, [5, 6, 7], max_episode_steps=30), ForagerVector(NAME, [6], max_episode_steps=30)
    ours, alone = three.reset(), one.reset()
    rng = np.random.default_rng(0)
    for _ in range(100):
        assert ours[0][1].tobytes() == alone[0][0].tobytes()
        assert ours[0][0].tobytes() != alone[0][0].tobytes()
        actions = _lively(rng, 3)
        ours, alone = three.step(actions), one.step(actions[1:2])


def test_an_episode_is_1000_steps_and_the_row_after_it_begins_the_next():
    assert gym.spec(NAME).max_episode_steps == MAX_EPISODE_STEPS == 1_000
    envs, twins = ForagerVector(NAME, [1, 2]), ForagerVector(NAME, [1, 2])
    envs.reset(), twins.reset()
    rng = np.random.default_rng(0)
    rewards = np.zeros(2)
    for step in range(1, 1_001):
        actions = _lively(rng, 2)
        _, reward, terminated, truncated, infos = envs.step(actions)
        twins.step(actions)
        rewards += reward
        assert not terminated.any()
        assert truncated.tolist() == [step == 1_000] * 2
    assert (infos["food"] - infos["poison"]).tolist() == rewards.tolist()
    assert (infos["food"] > 0).all()
    assert (infos["poison"] > 0).all()
    first = envs.step(np.array([0, 0]))
    assert all(map(_same, first, twins.step(np.array([-9, 4]))))  # the action is ignored
    assert (first[1].tolist(), first[2].tolist(), first[3].tolist()) == ([0, 0], [False] * 2, [False] * 2)
    assert first[4]["food"].tolist() == first[4]["poison"].tolist() == [0, 0]


def test_what_is_returned_is_the_callers_to_keep_and_to_write_to():
    written, left = (ForagerVector(NAME, [3, 4], max_episode_steps=20) for _ in range(2))
    rows, untouched = [written.reset()], [left.reset()]
    rng = np.random.default_rng(0)
    for _ in range(50):
        for array in (*rows[-1][:-1], *rows[-1][-1].values()):
            array[:] = 1
        actions = _lively(rng, 2)
        rows.append(written.step(actions))
        untouched.append(left.step(actions))
        assert all(map(_same, rows[-1], untouched[-1]))
    assert all((array == 1).all() for row in rows[:-1] for array in (*row[:-1], *row[-1].values()))


def test_a_reset_after_an_end_leaves_no_reset_row_behind():
    envs = ForagerVector(NAME, [3, 4], max_episode_steps=2)
    for _ in range(3):
        envs.reset()
        ends = [envs.step(np.array([0, 0]))[3].tolist() for _ in range(2)]
        assert ends == [[False, False], [True, True]]


def test_seeds_of_a_reset():
    envs = ForagerVector(NAME, np.array([8, 9]))
    assert envs.seeds == (8, 9)
    first = envs.reset()[0]
    assert not np.array_equal(envs.reset()[0], first)
    assert np.array_equal(envs.reset(seed=[8, 9])[0], first)
    assert np.array_equal(envs.reset(seed=8)[0], first)
    envs.reset(seed=8)
    assert np.array_equal(envs.reset(seed=[9, None])[0][0], first[1])
    with pytest.raises(ConfigError, match="seed must hold one for each of 2 envs, got 1"):
        envs.reset(seed=[1])


def test_forward_reward_is_for_straight_ahead_where_no_wall_is_near():
    plain = ForagerVector(NAME, range(64))
    shaped = ForagerVector(NAME, range(64), forward_reward=0.25)
    plain.reset(), shaped.reset()
    rng = np.random.default_rng(0)
    for _ in range(20):
        actions = rng.integers(5, size=64)
        obs, reward, *_ = plain.step(actions)
        extra = shaped.step(actions)[1] - reward
        nearest_wall = obs.reshape(64, 9, 3)[:, :, WALL].max(axis=1)
        np.testing.assert_allclose(extra, np.where(actions == FORWARD, 0.25 * (1 - nearest_wall), 0), atol=1e-6)


# How much agents eat


def follow_the_food(obs: np.ndarray) -> np.ndarray:
    """Steers to the nearest food in sight, around poison that is nearer, and away from walls."""
    seen = obs.reshape(len(obs), -1, 3)
    middle = seen.shape[1] // 2
    ahead = seen[:, middle - 1 : middle + 2]  # [E, 3, 3], the three eyes in the middle
    nearest_food = seen[:, :, FOOD].max(axis=1)
    offset = seen[:, :, FOOD].argmax(axis=1) - middle
    towards = np.select([offset == 0, offset == -1, offset == 1, offset < 0], [0, 1, 2, 3], 4)
    wall, poison = ahead[:, :, WALL], ahead[:, :, POISON]
    around_poison = np.where(poison[:, 2] > poison[:, 0], TURN_LEFT, TURN_RIGHT)
    along_wall = np.where(wall[:, 2] > wall[:, 0], 1, 2)
    poison_is_near = poison.max(axis=1) > np.where(nearest_food > 0, np.maximum(nearest_food, 0.7), 0.6)
    return np.select(
        [poison_is_near, nearest_food > 0, wall[:, 1] > 0.6, wall.max(axis=1) > 0.8],
        [around_poison, towards, TURN_LEFT, along_wall],
        FORWARD,
    )


def _eaten(policy: Policy, num_envs: int = 64) -> tuple[float, float]:
    """Mean food and poison of an episode of 1,000 steps."""
    envs = ForagerVector(NAME, range(num_envs))
    obs, _ = envs.reset()
    for _ in range(1_000):
        obs, _, _, truncated, infos = envs.step(policy(obs))
    assert truncated.all()
    return float(infos["food"].mean()), float(infos["poison"].mean())


def test_random_agents_eat_a_little_of_both_and_who_follows_the_food_far_more():
    rng = np.random.default_rng(0)
    random_food, random_poison = _eaten(lambda obs: rng.integers(5, size=len(obs)))
    assert 2 < random_food < 5
    assert 2 < random_poison < 5
    food, poison = _eaten(follow_the_food)
    assert food > 8 * random_food
    assert food - poison > 7 * random_food


# Pictures


def test_pictures_show_the_room():
    envs = ForagerVector(NAME, [0, 1], render_mode="rgb_array")
    envs.reset()
    frames = envs.render()
    assert [(frame.shape, frame.dtype) for frame in frames] == [((512, 480, 3), np.uint8)] * 2
    assert not np.array_equal(*frames)
    assert all(np.array_equal(one, other) for one, other in zip(frames, envs.render(), strict=True))
    env = ForagerEnv(render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    assert np.array_equal(picture, frames[0])
    picture[:] = 0
    assert np.array_equal(env.render(), frames[0])
    assert ForagerEnv().render() is None
    unseen = ForagerVector(NAME, [0, 1])
    unseen.reset()
    assert all(map(_same, envs.step(np.array([0, 1])), unseen.step(np.array([0, 1]))))


def test_pictures_have_things_where_they_are():
    from torso.envs.games.forager_rendering import draw_forager
    from torso.envs.games.forager_world import ForagerSettings, ForagerWorld

    world = ForagerWorld(1, ForagerSettings(num_food=1, num_poison=1, num_eyes=1))
    world.x[:], world.y[:], world.heading[:] = 12, 36, 0
    world.item_x[:], world.item_y[:] = [[18, 36]], [[36, 24]]

    def colour(x: float, y: float) -> list[int]:
        return draw_forager(world, 0)[round(40 + (48 - y) * 464 / 48), round(8 + x * 464 / 48)].tolist()

    red, green, blue = (int(np.argmax(colour(*at))) for at in ((18, 35.6), (36.5, 24), (11.8, 36)))
    assert (red, green, blue) == (0, 1, 2)
    floor, wall = colour(40, 40), colour(15.5, 5)
    assert min(floor) > 220
    assert max(wall) < 130
    ray = colour(15, 36)
    assert int(ray[0]) - int(ray[1]) > 50  # red, for it sees food
    world.item_x[0, 0] = 40
    ray = colour(15, 36)
    assert max(ray) - min(ray) < 30  # grey, for it sees nothing
    before = draw_forager(world, 0)
    world.food_eaten[:] = 1
    assert not np.array_equal(draw_forager(world, 0)[:32], before[:32])
    assert np.array_equal(draw_forager(world, 0)[32:], before[32:])


# Mistakes


def test_arguments_that_cannot_work():
    with pytest.raises(ConfigError, match="num_eyes"):
        ForagerEnv(num_eyes=0)
    with pytest.raises(ConfigError, match="no setting 'eyes'"):
        ForagerVector(NAME, [0], eyes=9)
    with pytest.raises(ConfigError, match="max_episode_steps must be at least 1, got 0"):
        ForagerVector(NAME, [0], max_episode_steps=0)
    with pytest.raises(ConfigError, match="must have a seed for each env, got none"):
        ForagerVector(NAME, [])
    for make in (lambda: ForagerVector(NAME, [0], render_mode="human"), lambda: ForagerEnv(render_mode="human")):
        with pytest.raises(EnvError, match="cannot be rendered as 'human'; it has rgb_array"):
            make()
    with pytest.raises(EnvError, match="render_mode='rgb_array'"):
        ForagerVector(NAME, [0]).render()


@pytest.mark.parametrize("actions", [[0, 5], [-1, 0], [0], [0.0, 1.0]])
def test_actions_that_are_none(actions: list[Any]):
    envs = ForagerVector(NAME, [0, 1])
    envs.reset()
    with pytest.raises(EnvError, match="must be 2 whole numbers from 0 to 4"):
        envs.step(np.array(actions))


def test_steps_before_a_reset():
    with pytest.raises(EnvError, match="reset"):
        ForagerVector(NAME, [0]).step(np.array([0]))
    with pytest.raises(gym.error.ResetNeeded):
        ForagerEnv().step(np.int64(0))
