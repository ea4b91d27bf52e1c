"""Running moments against NumPy's moments of all rows at once."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torso.agents.optim.observation_moments import RunningMoments
from torso.errors import CheckpointError


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(0, 2**16), st.sampled_from([0.0, 1e6]))
def test_moments_of_parts_are_those_of_the_whole(sizes: list[int], seed: int, offset: float) -> None:
    rng = np.random.default_rng(seed)
    parts = [(rng.normal(size=(size, 2, 3)) * 5 + offset).astype(np.float32) for size in sizes]
    moments = RunningMoments(6)
    for part in parts:
        moments.update(part)
    rows = np.concatenate(parts).reshape(-1, 6).astype(np.float64)
    assert moments.count == len(rows)
    if len(rows):
        np.testing.assert_allclose(moments.mean, rows.mean(axis=0), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(moments.std, np.maximum(rows.std(axis=0), 1e-2), rtol=1e-6)


def test_before_the_first_row_nothing_is_scaled() -> None:
    moments = RunningMoments(2)
    assert (moments.mean, moments.std) == ([0.0, 0.0], [1.0, 1.0])
    moments.update(np.array([[3.0, 4.0], [3.0, 6.0]]))
    assert (moments.mean, moments.std) == ([3.0, 5.0], [1e-2, 1.0])  # what never moved is not blown up


def test_a_restored_one_goes_on_to_the_same_bits() -> None:
    rng = np.random.default_rng(0)
    moments, restored = RunningMoments(3), RunningMoments(3)
    moments.update(rng.normal(size=(7, 3)))
    restored.restore(json.loads(json.dumps(moments.state())))
    more = rng.normal(size=(5, 3))
    for each in (moments, restored):
        each.update(more)
    assert (moments.mean, moments.std, moments.count) == (restored.mean, restored.std, restored.count)
    with pytest.raises(CheckpointError, match="must normalise 2 features, as the observations have, got 3"):
        RunningMoments(2).restore(moments.state())
