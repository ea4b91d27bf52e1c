"""Flattening from a space's description: equal to Gymnasium's, for one observation, stacks and lists of them."""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
import hypothesis.strategies as st
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array
from hypothesis import given

from torso.envs.vector.observations import describe_space
from torso.envs.vector.world import World
from torso.errors import InputError, SpecError
from torso.space_spec import SpaceSpec

SIMPLE = st.one_of(
    st.builds(spaces.Discrete, st.integers(1, 5), start=st.integers(-3, 3)),
    st.builds(spaces.MultiDiscrete, st.lists(st.integers(1, 4), min_size=1, max_size=3)),
    st.builds(lambda sizes: spaces.MultiDiscrete(sizes, start=[[-1, 2]]), st.just([[2, 3]])),
    st.builds(spaces.MultiBinary, st.sampled_from([1, 4, (2, 3)])),
    st.builds(lambda shape: spaces.Box(-1, 1, shape), st.sampled_from([(), (1,), (2, 2)])),
    st.builds(lambda dtype: spaces.Box(0, 9, (2,), dtype), st.sampled_from([np.uint8, np.int32, np.float64])),
)
NESTED = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple),
        st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3).map(spaces.Dict),
    ),
    max_leaves=5,
)


@given(space=NESTED, seed=st.integers(0, 99))
def test_one_observation_and_batches_are_flattened_as_gymnasium_does(space: spaces.Space[Any], seed: int) -> None:
    space.seed(seed)
    spec = SpaceSpec.from_json(json.loads(json.dumps(describe_space(space).to_json())))
    assert spec == describe_space(space)
    samples = [space.sample() for _ in range(7)]
    expected = np.stack([spaces.utils.flatten(space, sample) for sample in samples])
    assert spec.size == expected.shape[1]
    rows, is_one = spec.flatten(samples[0])
    if rows is not None:  # else it is flattened already, as a vector of 0 and 1
        np.testing.assert_array_equal(rows, expected[:1])
        assert is_one
        assert rows.dtype == expected.dtype
    stacked = concatenate(space, samples, create_empty_array(space, n=7, fn=np.zeros))
    assert stacked in batch_space(space, 7)
    for batch in (stacked, samples):
        rows, is_one = spec.flatten(batch)
        got = np.asarray(batch) if rows is None else rows
        np.testing.assert_array_equal(got.reshape(7, -1), expected)
        assert not is_one
    assert spec.flatten(expected) == (None, False)


@pytest.mark.parametrize(
    ("space", "value", "message"),
    [
        (spaces.Discrete(3, start=5), 4, "must be whole numbers from 5 to 7, as Discrete.3, start=5.'s, got 4"),
        (spaces.Discrete(3), 1.5, "whole numbers from 0 to 2"),
        (spaces.Discrete(3), [0, 1, 2, 3], "whole numbers from 0 to 2, as .*, got 3"),
        (spaces.Discrete(3), -1, "whole numbers from 0 to 2"),
        (spaces.MultiDiscrete([2, 3]), [[0, 0], [1, 3]], "whole numbers from 0 to 2, as .*, got 3"),
        (spaces.Dict(at=spaces.Discrete(3)), {"at": 7}, r"observations\['at'\] must be whole numbers from 0 to 2"),
        (spaces.Dict(at=spaces.Discrete(3)), {"to": 1}, r"a dict with the keys \['at'\], got the keys \['to'\]"),
        (spaces.Dict(at=spaces.Discrete(3)), [{"at": 1}, {"at": "x"}], r"observations\[1\]\['at'\] must be a value of"),
        (spaces.Tuple([spaces.Discrete(2)] * 2), (1, 2), r"observations\[1\] must be whole numbers from 0 to 1"),
        (spaces.Tuple([spaces.Discrete(2)] * 2), (1, 0, 1), "must be a tuple of 2 parts"),
        (spaces.Tuple([spaces.Discrete(2)] * 2), ([1], [0, 1]), "parts of one observation, or of equally many"),
        (spaces.Tuple([spaces.Discrete(2), spaces.Box(0, 1, (2,))]), (1, [[0.5]]), r"\[1\].shape must be \[2\]"),
    ],
)
def test_what_is_outside_a_space_is_named(space: spaces.Space[Any], value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        describe_space(space).flatten(value)


def test_as_many_numbers_as_a_one_hot_has_values() -> None:
    spec = describe_space(spaces.Discrete(3))
    for flat in ([0, 1, 0], np.array([0.0, 0.0, 1.0])):
        assert spec.flatten(flat) == (None, True)
    rows, is_one = spec.flatten([0, 1, 2])
    np.testing.assert_array_equal(rows, np.eye(3))
    assert not is_one
    places = describe_space(spaces.MultiDiscrete([1, 1], start=[0, 0]))
    assert places.flatten([0, 0])[1]
    np.testing.assert_array_equal(places.flatten([0, 0])[0], [[1, 1]])
    assert places.flatten([1, 1]) == (None, True)


def test_lists_for_a_tuple_are_observations_or_the_parts_of_one() -> None:
    hand = describe_space(spaces.Tuple([spaces.Discrete(32), spaces.Discrete(11), spaces.Discrete(2)]))
    for one in ((14, 10, 0), [14, 10, 0], np.array([14, 10, 0])):
        rows, is_one = hand.flatten(one)
        assert is_one
        assert np.flatnonzero(rows).tolist() == [14, 42, 43]
    for two in ([(14, 10, 0), (5, 2, 1)], [[14, 10, 0], [5, 2, 1]], (np.array([14, 5]), [10, 2], [0, 1])):
        rows, is_one = hand.flatten(two)
        assert not is_one
        assert [np.flatnonzero(row).tolist() for row in rows] == [[14, 42, 43], [5, 34, 44]]
    square = [(1, 2, 0), (4, 5, 1), (7, 8, 1)]  # rows in a list, columns in a tuple
    np.testing.assert_array_equal(
        hand.flatten(square)[0], hand.flatten(tuple(map(np.array, zip(*square, strict=True))))[0]
    )


def test_requests_are_batches_of_integers() -> None:
    spec = describe_space(spaces.Discrete(3))
    rows, is_one = spec.flatten(np.array([0, 1, 0], dtype=np.int32), strict=True)
    np.testing.assert_array_equal(rows, np.eye(3)[[0, 1, 0]])
    assert not is_one
    assert spec.flatten(np.int64(2), strict=True) == (None, False)
    with pytest.raises(InputError, match=r"observations\.dtype must be integers, got float32"):
        spec.flatten(np.array([0.0], dtype=np.float32), strict=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "graph"}, "a space's kind must be one of"),
        ({"kind": "discrete", "sizes": [3]}, "sizes and starts must hold 1 numbers"),
        ({"kind": "discrete", "sizes": [0], "starts": [0]}, "at least 1, got 0"),
        ({"kind": "numbers", "dtype": "U3"}, "a space's dtype must be one of"),
        ({"kind": "numbers", "dtype": "float33"}, "a space's dtype must be one of"),
        ({"kind": "tuple"}, "parts must be at least 1 space"),
        ({"kind": "tuple", "parts": [3]}, "each of a space's parts must be a space, got 3"),
        ({"kind": "dict", "parts": [{"kind": "numbers"}]}, "keys must be 1 different texts"),
        ({"kind": "numbers", "of": 1}, "unknown fields"),
    ],
)
def test_descriptions_that_cannot_be_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        SpaceSpec.from_json(fields)


def test_only_what_torso_flattens_has_a_description() -> None:
    assert World(env="CartPole-v1").spec.space is None
    assert World(env="FrozenLake-v1").spec.space == describe_space(spaces.Discrete(16))
    assert World(env="FrozenLake-v1", wrappers=[gym.wrappers.FlattenObservation]).spec.space is None
    assert str(World(env="Blackjack-v1").spec.space) == "Tuple(Discrete(32), Discrete(11), Discrete(2))"
    assert str(describe_space(spaces.Dict(b=spaces.Box(0, 1, ()), a=spaces.MultiDiscrete([2, 3])))) == (
        "Dict('b': Box([], float32), 'a': MultiDiscrete([2, 3]))"
    )
