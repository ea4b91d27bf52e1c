from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torso.envs.games.forager_world import (
    AGENT_RADIUS,
    FOOD,
    FORWARD,
    FORWARD_LEFT,
    FORWARD_RIGHT,
    INNER_WALLS,
    ITEM_RADIUS,
    POISON,
    ROOM_SIDE,
    STRIDE,
    TURN,
    TURN_LEFT,
    TURN_RIGHT,
    WALL,
    ForagerSettings,
    ForagerWorld,
    forager_settings,
    resolve_wall_collisions,
)
from torso.errors import ConfigError

MIDDLE = ROOM_SIDE / 2


def _world(x: float = MIDDLE, y: float = MIDDLE, heading: int = 0, num_envs: int = 1, **kwargs: Any) -> ForagerWorld:
    """Agents at a place, with food and poison far behind them."""
    world = ForagerWorld(num_envs, ForagerSettings(**{"num_food": 1, "num_poison": 1, **kwargs}))
    world.x[:], world.y[:], world.heading[:] = x, y, heading
    world.item_x[:], world.item_y[:] = x - 30, y - 30
    return world


def _begun(num_envs: int, seed: int = 0, **kwargs: Any) -> tuple[ForagerWorld, list[np.random.Generator]]:
    world = ForagerWorld(num_envs, ForagerSettings(**kwargs))
    rngs = [np.random.default_rng([seed, env]) for env in range(num_envs)]
    for env, rng in enumerate(rngs):
        world.begin(env, rng)
    return world, rngs


def _gap_to_walls(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """From points [...] to the nearest wall, an oracle of its own."""
    gaps = [x, y, ROOM_SIDE - x, ROOM_SIDE - y]
    for x_low, y_low, x_high, y_high in INNER_WALLS:
        outside_x = np.maximum(np.maximum(x_low - x, x - x_high), 0)
        outside_y = np.maximum(np.maximum(y_low - y, y - y_high), 0)
        gaps.append(np.hypot(outside_x, outside_y))
    return np.min(gaps, axis=0)


# What eyes see


@pytest.mark.parametrize("heading", [0, 90, 180, 270])
def test_each_eye_says_how_near_the_wall_on_its_ray_is(heading: int):
    world = _world(heading=heading, inner_walls=False, eye_range=60.0, fan_degrees=80.0, num_eyes=5)
    angles = np.deg2rad([40, 20, 0, -20, -40])
    expected = 1 - (MIDDLE / np.cos(angles) - AGENT_RADIUS) / 60
    seen = world.observe()[0]
    np.testing.assert_allclose(seen[:, WALL], expected, rtol=1e-6)
    assert not seen[:, FOOD:].any()


def test_an_item_on_an_eyes_ray_shows_in_its_own_channel_and_hides_what_is_behind_it():
    world = _world(inner_walls=False, num_eyes=3, fan_degrees=120.0)
    angle = np.deg2rad(60)
    world.item_x[0] = MIDDLE + np.array([6 * np.cos(angle), 4.0])  # food before the left eye, poison before the middle
    world.item_y[0] = MIDDLE + np.array([6 * np.sin(angle), 0.0])
    expected = np.zeros((3, 3))
    expected[0, FOOD] = 1 - (6 - ITEM_RADIUS - AGENT_RADIUS) / 12
    expected[1, POISON] = 1 - (4 - ITEM_RADIUS - AGENT_RADIUS) / 12
    np.testing.assert_allclose(world.observe()[0], expected, rtol=1e-6)
    world.item_x[0, 0], world.item_y[0, 0] = MIDDLE + 7, MIDDLE  # now behind the poison
    np.testing.assert_allclose(world.observe()[0], expected * [[0], [1], [0]], rtol=1e-6)


def test_what_touches_the_agent_is_1_and_what_is_out_of_range_is_0():
    world = _world(x=AGENT_RADIUS, heading=180, inner_walls=False, num_eyes=1)
    assert world.observe()[0, 0].tolist() == [1, 0, 0]
    world = _world(x=AGENT_RADIUS + 12.001, heading=180, inner_walls=False, num_eyes=1)
    assert world.observe()[0, 0].tolist() == [0, 0, 0]


def test_walls_hide_items():
    world = _world(x=10.0, y=7.0, num_eyes=1)
    world.item_x[0, 0], world.item_y[0, 0] = 18.0, 7.0  # beyond the wall from x = 15 to 16
    np.testing.assert_allclose(world.observe()[0, 0], [1 - (5 - AGENT_RADIUS) / 12, 0, 0], rtol=1e-6)


def test_the_mirrored_world_is_seen_mirrored_and_the_turned_one_the_same():
    world, _ = _begun(8, inner_walls=False)
    seen = world.observe()
    world.y, world.heading, world.item_y = ROOM_SIDE - world.y, -world.heading % 360, ROOM_SIDE - world.item_y
    np.testing.assert_allclose(world.observe(), seen[:, ::-1], atol=1e-6)
    world, _ = _begun(8)  # with the inner walls, which a quarter turn leaves as they are
    seen = world.observe()
    world.x, world.y, world.heading = ROOM_SIDE - world.y, world.x, (world.heading + 90) % 360
    world.item_x, world.item_y = ROOM_SIDE - world.item_y, world.item_x
    np.testing.assert_allclose(world.observe(), seen, atol=1e-6)


def test_an_eye_sees_one_thing_at_most_and_all_of_them_are_seen():
    world, rngs = _begun(16)
    rng = np.random.default_rng(0)
    channels = np.zeros(3)
    for _ in range(100):
        seen = world.observe()
        assert seen.dtype == np.float32
        assert seen.min() >= 0
        assert seen.max() <= 1
        assert ((seen > 0).sum(axis=2) <= 1).all()
        channels += (seen > 0).mean(axis=(0, 1))
        world.move(rng.integers(5, size=16))
        world.eat(np.ones(16, bool), rngs)
    assert (channels > 1).all()


# How things move


def test_actions_turn_and_go():
    world = _world(num_envs=5, heading=90)
    world.move(np.arange(5))
    assert world.heading.tolist() == [90, 96, 84, 105, 75]
    headings = np.deg2rad(world.heading)
    np.testing.assert_allclose(world.x, MIDDLE + STRIDE * np.cos(headings))
    np.testing.assert_allclose(world.y, MIDDLE + STRIDE * np.sin(headings))
    for left, right in ((FORWARD_LEFT, FORWARD_RIGHT), (TURN_LEFT, TURN_RIGHT)):
        assert TURN[left] == -TURN[right] > 0
        assert STRIDE[left] == STRIDE[right]
    assert STRIDE[FORWARD] == STRIDE.max() < AGENT_RADIUS  # or walls could be jumped over


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_nobody_passes_a_wall(seed: int):
    """An agent's disc never overlaps a wall, and its way between two steps is too short to jump over one."""
    world, _ = _begun(64, seed, num_food=0, num_poison=0)
    rng = np.random.default_rng(seed)
    likes = rng.dirichlet(np.full(5, 0.3), size=64).cumsum(axis=1)  # most agents like one action or two
    met = 0
    for _ in range(300):
        x, y = world.x, world.y
        world.move((rng.random((64, 1)) > likes[:, :4]).sum(axis=1))
        gaps = _gap_to_walls(world.x, world.y)
        assert gaps.min() > AGENT_RADIUS - 1e-9
        assert _gap_to_walls((world.x + x) / 2, (world.y + y) / 2).min() > 0.8
        assert np.hypot(world.x - x, world.y - y).max() < 0.9  # a stride, or an arc around a wall's end
        met += int((gaps < AGENT_RADIUS + 1e-9).sum())
    assert met > 300


def test_agents_slide_along_walls_and_around_their_ends():
    world = _world(x=AGENT_RADIUS, y=20.0, heading=120)
    world.move(np.array([FORWARD]))
    assert world.x[0] == AGENT_RADIUS
    assert world.y[0] == pytest.approx(20 + STRIDE[FORWARD] * np.sin(np.deg2rad(120)))
    box = np.array([(0, 0, ROOM_SIDE, ROOM_SIDE), (20.0, 0.0, 21.0, 10.0)]).T
    x, y = resolve_wall_collisions(np.array([20.5, 21.3, 19.5]), np.array([10.5, 10.4, 5.0]), box)
    np.testing.assert_allclose(x, [20.5, 21 + 0.6, 19.0])  # the second at right angles to the corner: 3, 4, 5
    np.testing.assert_allclose(y, [11.0, 10 + 0.8, 5.0])


def test_items_drift_slowly_in_a_circle_clear_of_the_walls():
    world, _ = _begun(4)
    world.move(np.full(4, TURN_LEFT))
    first_x, first_y = world.item_x, world.item_y
    ways = np.zeros_like(first_x)
    for _ in range(150):
        x, y = world.item_x, world.item_y
        world.move(np.full(4, TURN_LEFT))
        ways += np.hypot(world.item_x - x, world.item_y - y)
        assert _gap_to_walls(world.item_x, world.item_y).min() >= ITEM_RADIUS - 1e-9
    np.testing.assert_allclose(ways, 2 * np.pi * 1.2, rtol=1e-3)
    np.testing.assert_allclose((world.item_x, world.item_y), (first_x, first_y))


# What is eaten


def test_what_is_touched_is_eaten_counted_and_appears_elsewhere():
    world, rngs = _begun(4)
    before_x = world.item_x.copy()
    reach = AGENT_RADIUS + ITEM_RADIUS
    for env, (item, gap) in enumerate([(0, reach - 0.01), (15, reach + 0.01), (16, reach - 0.01), (31, reach - 0.01)]):
        world.item_x[env, item], world.item_y[env, item] = world.x[env], world.y[env] + gap
    touched = world.item_x.copy()
    active = np.array([True, True, True, False])
    untouched = rngs[3].bit_generator.state
    assert world.eat(active, rngs).tolist() == [1, 0, -1, 0]
    assert (world.food_eaten.tolist(), world.poison_eaten.tolist()) == ([1, 0, 0, 0], [0, 0, 1, 0])
    assert rngs[3].bit_generator.state == untouched
    moved = world.item_x != touched
    assert np.argwhere(moved).tolist() == [[0, 0], [2, 16]]
    assert np.hypot(world.item_x - world.x[:, None], world.item_y - world.y[:, None])[moved].min() > 4
    world.move(np.full(4, TURN_LEFT))  # and stays there
    assert np.abs(world.item_x - before_x)[1:3, 0].max() < 0.1
    world.item_x[0, :2], world.item_y[0, :2] = world.x[0], world.y[0]
    world.item_x[0, 16], world.item_y[0, 16] = world.x[0], world.y[0]
    assert world.eat(active, rngs)[0] == 1  # two foods and a poison at once
    assert (world.food_eaten[0], world.poison_eaten[0]) == (3, 1)


@pytest.mark.parametrize(("num_food", "num_poison"), [(16, 16), (60, 0), (0, 0)])
def test_everything_begins_apart_from_everything_else(num_food: int, num_poison: int):
    world, _ = _begun(10, num_food=num_food, num_poison=num_poison)
    assert _gap_to_walls(world.x, world.y).min() >= AGENT_RADIUS
    assert len(np.unique(world.heading)) > 5
    if num_food + num_poison == 0:
        assert not world.observe()[:, :, FOOD:].any()
        return
    assert _gap_to_walls(world.item_x, world.item_y).min() >= ITEM_RADIUS
    assert np.hypot(world.item_x - world.x[:, None], world.item_y - world.y[:, None]).min() > 4
    spots_x, spots_y = world._spot_x, world._spot_y
    gaps = np.hypot(spots_x[:, :, None] - spots_x[:, None], spots_y[:, :, None] - spots_y[:, None])
    assert (gaps + 9 * np.eye(num_food + num_poison)).min() >= 3


def test_items_appear_all_over_the_room():
    world, _ = _begun(30)
    counts, _, _ = np.histogram2d(world._spot_x.ravel(), world._spot_y.ravel(), bins=3, range=[(0, ROOM_SIDE)] * 2)
    assert counts.min() > 960 / 9 / 2


# Settings


@pytest.mark.parametrize(
    ("env_kwargs", "message"),
    [
        ({"num_eyes": 0}, "num_eyes must be a whole number from 1 to 180, got 0"),
        ({"num_eyes": 9.0}, "num_eyes must be a whole number from 1 to 180, got 9.0"),
        ({"num_food": True}, "num_food must be a whole number from 0 to 60, got True"),
        ({"num_poison": -1}, "num_poison must be a whole number"),
        ({"num_food": 40, "num_poison": 21}, "at most 60 together, got 40 and 21"),
        ({"eye_range": 0}, "eye_range must be a number from 0.1 to 96, got 0"),
        ({"eye_range": float("nan")}, "eye_range must be a number from 0.1 to 96, got nan"),
        ({"fan_degrees": "wide"}, "fan_degrees must be a number from 0 to 360, got 'wide'"),
        ({"forward_reward": -0.1}, "forward_reward must be a number from 0 to 1, got -0.1"),
        ({"inner_walls": "no"}, "inner_walls must be True or False, got 'no'"),
        ({"num_eye": 3}, "no setting 'num_eye'; its settings are num_eyes, "),
    ],
)
def test_settings_that_cannot_be(env_kwargs: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        forager_settings(env_kwargs)


def test_settings_by_name():
    chosen = {"num_eyes": np.int64(5), "fan_degrees": 90, "eye_range": 8.0, "num_food": 3, "num_poison": 0}
    chosen |= {"inner_walls": False, "forward_reward": 0.1}
    assert dataclasses.asdict(forager_settings(chosen)) == chosen
