from __future__ import annotations

from typing import Any

import gymnasium as gym
import hypothesis.strategies as st
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given

from torso.envs import make_vector, observation_layout, observation_scale
from torso.errors import EnvError


class Observes(gym.Env[Any, np.int64]):
    """Shows samples of a space."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.observation_space = space
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.shown = self.observation_space.sample()
        return self.shown, {}

    def step(self, action):
        self.shown = self.observation_space.sample()
        return self.shown, 0.0, False, False, {}


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((4,), None),
        ((84, 84), "hw"),
        ((4, 84, 84), "chw"),  # stacked frames
        ((84, 84, 4), "hwc"),
        ((210, 160, 3), "hwc"),  # the ALE's screen
        ((10, 10, 10), "hwc"),  # MinAtar's Seaquest
        ((7, 7, 3), "hwc"),  # MiniGrid's view
        ((2, 6, 7), "chw"),
        ((4, 84, 84, 3), "thwc"),
    ],
)
def test_layouts(shape: tuple[int, ...], layout: str | None):
    assert observation_layout(spaces.Box(0, 255, shape, np.uint8)) == (shape, "uint8", layout)


@pytest.mark.parametrize(
    ("space", "scale"),
    [
        (spaces.Box(0, 255, (4, 84, 84), np.uint8), 1 / 255),
        (spaces.Box(0, 16, (8, 8), np.uint8), 1 / 16),
        (spaces.Box(0, 0, (8, 8), np.uint8), 1.0),
        (spaces.Box(0, 255, (9,), np.uint8), 1.0),
        (spaces.Box(0, 255, (84, 84), np.float32), 1 / 255),
        (spaces.Box(0, 1, (10, 10, 4), np.bool_), 1.0),
    ],
)
def test_scales(space: spaces.Box, scale: float):
    assert observation_scale(space) == scale


def test_dict_and_tuple_and_one_hot_of_real_envs():
    class Finds(gym.Env[Any, np.int64]):
        observation_space = spaces.Dict({"at": spaces.Discrete(3), "seen": spaces.Box(0, 1, (2,), np.float32)})
        action_space = spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return {"at": 2, "seen": np.array([0.25, 0.5], np.float32)}, {}

    for source, size, ones in ((Finds, 5, [2]), ("Blackjack-v1", 45, None), ("FrozenLake-v1", 16, [0])):
        vector = make_vector(source, 2, seed=1)
        obs, _ = vector.reset()
        assert obs.shape == (2, size)
        assert ones is None or np.flatnonzero(obs[0] == 1).tolist() == ones
        assert source != "Blackjack-v1" or obs.sum(axis=1).tolist() == [3.0, 3.0]  # one for each of its three numbers
        vector.close()


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32", "float64"])
def test_dtype_names(dtype: str):
    assert observation_layout(spaces.Box(0, 1, (3,), np.dtype(dtype).type))[1] == dtype


def test_other_spaces_have_no_layout():
    with pytest.raises(EnvError, match=r"the observation space must be a Box, got Discrete\(3\)"):
        observation_layout(spaces.Discrete(3))


@pytest.mark.parametrize("shape", [(3,), (5, 4), (2, 5, 4)])
def test_boxes_come_as_they_are(shape: tuple[int, ...]):
    vector = make_vector(lambda: Observes(spaces.Box(0, 255, shape, np.uint8)), 2)
    obs, _ = vector.reset()
    assert (obs.shape, obs.dtype) == ((2, *shape), np.uint8)
    np.testing.assert_array_equal(obs, [env.unwrapped.shown for env in vector.envs])
    vector.close()


SIMPLE = st.one_of(
    st.builds(spaces.Discrete, st.integers(1, 5), start=st.integers(-3, 3)),
    st.builds(spaces.MultiDiscrete, st.lists(st.integers(1, 4), min_size=1, max_size=3)),
    st.builds(spaces.MultiBinary, st.integers(1, 4)),
    st.builds(lambda shape: spaces.Box(-1, 1, shape), st.sampled_from([(), (1,), (2, 2)])),
)
NESTED = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple),
        st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3).map(spaces.Dict),
    ),
    max_leaves=5,
)


@given(space=NESTED, seed=st.integers(0, 100))
def test_anything_of_one_size_becomes_an_array_that_can_be_read_back(space: spaces.Space[Any], seed: int):
    vector = make_vector(lambda: Observes(space), 1, seed)
    shape, dtype, _ = observation_layout(vector.single_observation_space)
    obs, _ = vector.reset()
    assert (obs.shape, obs.dtype.name) == ((1, *shape), dtype)
    if not isinstance(space, spaces.Box) or space.shape == ():
        assert shape == (spaces.flatdim(space),)
        np.testing.assert_array_equal(obs[0], spaces.flatten(space, vector.envs[0].unwrapped.shown))
    vector.close()


@pytest.mark.parametrize(
    ("space", "named"),
    [
        (spaces.Text(5), "Text"),
        (spaces.Sequence(spaces.Discrete(3)), "Sequence"),
        (spaces.Graph(spaces.Box(0, 1, (2,)), None), "Graph"),
        (spaces.OneOf([spaces.Discrete(2), spaces.Discrete(3)]), "OneOf"),
        (spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Tuple([spaces.Text(3)])}), "Text"),
    ],
)
def test_what_has_no_one_size_is_refused(space: spaces.Space[Any], named: str):
    with pytest.raises(EnvError, match=f"must observe arrays of one shape, got .*, where {named} has none"):
        make_vector(lambda: Observes(space))


NESTED_EMPTY = spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Tuple([])})


@pytest.mark.parametrize("space", [spaces.Box(0, 1, (0,)), spaces.Box(0, 1, (3, 0)), spaces.Tuple([]), NESTED_EMPTY])
def test_what_holds_nothing_is_refused(space: spaces.Space[Any]):
    with pytest.raises(EnvError, match=r"must observe spaces that hold values, got .*, where a part holds none"):
        make_vector(lambda: Observes(space))
