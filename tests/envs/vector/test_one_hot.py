"""One-hot places of flattened spaces, against Gymnasium's flattening."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from torso.envs.vector.one_hot import is_binary, one_hot_places

LEAVES = st.one_of(
    st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 6), st.integers(-3, 3)),
    st.lists(st.integers(1, 4), min_size=1, max_size=4).map(spaces.MultiDiscrete),
    st.just(spaces.MultiDiscrete([[2, 3], [1, 4]])),
    st.integers(1, 3).map(spaces.MultiBinary),
    st.just(spaces.Box(2, 3, (2, 2), np.float32)),
    st.just(spaces.Box(-3, -2, (), np.int8)),
)
SPACES = st.recursive(
    LEAVES,
    lambda parts: st.one_of(
        st.lists(parts, min_size=1, max_size=3).map(spaces.Tuple),
        st.dictionaries(st.sampled_from("abc"), parts, min_size=1).map(spaces.Dict),
    ),
    max_leaves=6,
)


def sizes(space: gym.Space) -> list[int]:
    """Sizes of the places, in order, counted another way: a part after the other."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
        return [size for part in parts for size in sizes(part)]
    own = [space.n] if isinstance(space, spaces.Discrete) else np.ravel(getattr(space, "nvec", ())).tolist()
    return [int(size) for size in own if size > 1]


@given(SPACES, st.integers(0, 2**16))
def test_a_place_holds_a_single_1_in_every_observation(space: gym.Space, seed: int) -> None:
    places = one_hot_places(space)
    assert [size for _, size in places] == sizes(space)
    space.seed(seed)
    for _ in range(5):
        row = spaces.flatten(space, space.sample())
        for first, size in places:
            assert sorted(row[first : first + size].tolist()) == [0] * (size - 1) + [1]
        if is_binary(space):
            assert set(row.tolist()) <= {0, 1}


def test_columns_that_are_no_place_are_left_out() -> None:
    space = spaces.Dict(
        {
            "at": spaces.Discrete(5, start=2),
            "bits": spaces.MultiBinary(3),
            "one": spaces.Discrete(1),
            "x": spaces.Box(0, 1, (4,)),
            "y": spaces.MultiDiscrete([[2, 3]]),
        }
    )
    assert one_hot_places(space) == ((0, 5), (13, 2), (15, 3))
    assert not is_binary(space)
    assert is_binary(spaces.Tuple((space["at"], spaces.Dict({"bits": space["bits"]}), space["y"])))
    assert one_hot_places(spaces.Box(0, 1, (4,), np.int64)) == ()
