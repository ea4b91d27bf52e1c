"""Raw frames come from the same games as stacked observations, and preprocess to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from ale_py import ALEInterface, roms

from torso.envs import has_raw_frames, make_vector
from torso.envs.games.atari import AtariVector
from torso.errors import ConfigError
from torso.nets.prediction.atari_frames import preprocess, stack

Pair = tuple[AtariVector, AtariVector]


@pytest.fixture
def pair() -> Iterator[Callable[..., Pair]]:
    """``pair(game, ...)``: the same games, observed as stacks and as raw frames; closed after the test."""
    made: list[AtariVector] = []

    def build(game: str, **kwargs: Any) -> Pair:
        made.append(AtariVector(f"ALE/{game}-v5", (3, 4), **kwargs))
        made.append(AtariVector(f"ALE/{game}-v5", (3, 4), raw_frames=True, **kwargs))
        return made[-2], made[-1]

    yield build
    for vector in made:
        vector.close()


def same(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


@pytest.mark.parametrize(
    ("game", "kwargs", "steps", "ends"),
    [
        ("Pong", {}, 120, 0),
        ("Pong", {"protocol": "dqn2015"}, 120, 0),
        ("Breakout", {"protocol": "dqn2015"}, 400, 2),
        ("Breakout", {"protocol": "machado2018", "noop_max": 7, "use_fire_reset": True}, 400, 2),
        ("Frogger", {"protocol": "dqn2015", "max_episode_steps": 70}, 180, 4),
        ("Seaquest", {"max_num_frames_per_episode": 333}, 180, 4),  # which end within a step
        ("LaserGates", {"protocol": "dqn2015"}, 400, 1),
        ("Carnival", {"frameskip": 5, "full_action_space": True}, 100, 0),
        ("Asteroids", {"frameskip": 2}, 100, 0),
        ("Asteroids", {"frameskip": 1, "max_num_frames_per_episode": 50}, 160, 6),
        ("KingKong", {"frameskip": 3}, 100, 0),
    ],
)
def test_the_same_actions_play_the_same_games(pair, game, kwargs, steps, ends):
    stacks, frames = pair(game, **kwargs)
    rng = np.random.default_rng(0)
    expected, infos = stacks.reset()
    raw, raw_infos = frames.reset()
    assert frames.observation_space.contains(raw)
    np.testing.assert_array_equal(raw[:, 0], raw[:, 1])
    obs = [stack(None, plane) for plane in preprocess(raw)]
    over = compared = differing = 0
    for _ in range(steps):
        same(infos, raw_infos)
        for env in np.flatnonzero(~stacks.ended):  # nobody acts on the others' observations
            np.testing.assert_array_equal(obs[env], expected[env])
            differing += bool((raw[env, 0] != raw[env, 1]).any())
            compared += 1
        actions = rng.integers(stacks.single_action_space.n, size=2)
        begins = stacks.ended
        expected, *results, infos = stacks.step(actions)
        raw, *raw_results, raw_infos = frames.step(actions)
        for left, right in zip(results, raw_results, strict=True):
            np.testing.assert_array_equal(left, right)
            assert left.dtype == right.dtype
        over += int(stacks.ended.sum())
        obs = [stack(None if begins[env] else obs[env], plane) for env, plane in enumerate(preprocess(raw))]
    assert over >= ends
    assert (over > 0) == (ends > 0)
    assert compared == 2 * steps - over
    assert (differing > 20) == (kwargs.get("frameskip") != 1), "where the two are equal, their order says nothing"


def test_they_are_what_the_console_shows(pair):
    _, frames = pair("KingKong")
    assert frames.single_observation_space == gym.spaces.Box(0, 255, (2, 250, 160, 3), np.uint8)
    assert frames.frame_stack == 1
    screen = ALEInterface()
    screen.setFloat("repeat_action_probability", 0.25)
    screen.setInt("random_seed", 4)
    screen.loadROM(str(roms.get_rom_path("king_kong")))
    screen.reset_game()
    raw, _ = frames.reset()
    np.testing.assert_array_equal(raw[1], [screen.getScreenRGB()] * 2)
    for action in np.random.default_rng(1).integers(6, size=25):
        raw, *_ = frames.step(np.full(2, action))
        shown = []
        for _ in range(4):
            screen.act(screen.getMinimalActionSet()[action])
            shown.append(screen.getScreenRGB())
        np.testing.assert_array_equal(raw[1], shown[-2:])


def test_resets_go_on_with_generators_or_begin_from_seeds(pair):
    stacks, frames = pair("Breakout", protocol="dqn2015", max_episode_steps=6)
    starts = set()
    for seed in (None, None, 11, [None, 7], None):
        same(stacks.reset(seed=seed)[1], frames.reset(seed=seed)[1])
        for _ in range(6):  # an end does not reach into the episode that a reset begins
            *_, infos = stacks.step(np.ones(2, np.int64))
            *_, raw_infos = frames.step(np.ones(2, np.int64))
            same(infos, raw_infos)
        starts.add(infos["episode_frame_number"].tobytes())
    assert len(starts) > 3


def test_they_can_be_filmed(pair):
    stacks, frames = pair("Breakout", render_mode="rgb_array")
    stacks.reset()
    frames.reset()
    stacks.step(np.array([1, 2]))
    frames.step(np.array([1, 2]))
    np.testing.assert_array_equal(stacks.render(), frames.render())


def test_whose_frames_there_are():
    assert has_raw_frames("ALE/Pong-v5")
    assert has_raw_frames("ale_py:ALE/Pong-v5")
    assert not has_raw_frames("ALE/Pong-v5", [gym.wrappers.FlattenObservation])
    assert not has_raw_frames("MinAtar/Breakout-v1")
    assert not has_raw_frames(lambda: gym.make("CartPole-v1"))
    made = make_vector("ale_py:ALE/Pong-v5", env_kwargs={"raw_frames": True})
    assert made.single_observation_space.shape == (2, 210, 160, 3)
    made.close()
    with pytest.raises(ConfigError, match="raw_frames must be True or False, got 1"):
        AtariVector("ALE/Pong-v5", [1], raw_frames=1)
