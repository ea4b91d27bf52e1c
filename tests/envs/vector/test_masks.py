from __future__ import annotations

from typing import Any

import gymnasium as gym
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from torso.envs import action_masks, make_vector
from torso.errors import EnvError

TAXI = next(env_id for env_id in ("Taxi-v4", "Taxi-v3") if env_id in gym.registry)


class MaskEnv(gym.Env[np.ndarray, np.int64]):
    """Returns the given masks, one an observation, None for none; ends after ``length`` steps."""

    def __init__(self, masks: list[Any], length: int = 100) -> None:
        self.observation_space = gym.spaces.Box(0, 1, (1,))
        self.action_space = gym.spaces.Discrete(3)
        self.masks = iter(masks)
        self.length = length

    def _shown(self) -> tuple[np.ndarray, dict[str, Any]]:
        mask = next(self.masks)
        return np.zeros(1, np.float32), {} if mask is None else {"action_mask": mask}

    def reset(self, *, seed=None, options=None):
        self.num_steps = 0
        return self._shown()

    def step(self, action):
        self.num_steps += 1
        obs, info = self._shown()
        return obs, 0.0, self.num_steps == self.length, False, info


def masks_of(*masks: list[Any], length: int = 100) -> list[list[list[bool]] | None]:
    """Run ``action_masks`` on a vector env of one env for each list of masks, observation by observation."""
    sources = iter(masks)
    vector = make_vector(lambda: MaskEnv(next(sources), length), len(masks))
    infos = [vector.reset()[1]] + [vector.step(np.zeros(len(masks), int))[-1] for _ in masks[0][1:]]
    vector.close()
    read = [action_masks(each, len(masks), 3) for each in infos]
    assert all(each is None or each.dtype == np.bool_ for each in read)
    return [None if each is None else each.tolist() for each in read]


MASKS = st.one_of(st.none(), st.lists(st.booleans(), min_size=3, max_size=3).filter(any))
FORMS = st.sampled_from([lambda mask: np.array(mask, np.int8), lambda mask: np.array(mask), lambda mask: mask])


@given(
    masks=st.integers(1, 3).flatmap(
        lambda num_steps: st.lists(st.lists(MASKS, min_size=num_steps, max_size=num_steps), min_size=1, max_size=3)
    ),
    form=FORMS,
)
def test_each_env_says_what_is_legal_and_who_says_nothing_allows_everything(masks: list[list[Any]], form: Any):
    given_masks = [[None if mask is None else form(mask) for mask in each] for each in masks]
    expected = [
        None if all(mask is None for mask in now) else [[True] * 3 if mask is None else mask for mask in now]
        for now in zip(*masks, strict=True)
    ]
    assert masks_of(*given_masks) == expected


def test_the_reset_row_has_the_mask_of_the_new_episode():
    first, last, new = np.array([1, 0, 0]), np.array([0, 1, 0]), np.array([0, 0, 1])
    assert masks_of([first, last, new], length=1) == [
        [[True, False, False]],
        [[False, True, False]],
        [[False, False, True]],
    ]


@pytest.mark.parametrize("form", [np.array, list])
def test_where_an_episode_ends_nothing_needs_to_be_legal(form: Any):
    nothing, one = form([0, 0, 0]), form([0, 1, 0])
    assert masks_of([one, nothing, one], [one, one, one], length=1)[1] == [[True] * 3, [False, True, False]]
    with pytest.raises(EnvError, match="env 0's action_mask must allow at least one action, got none"):
        masks_of([one, nothing, one], length=2)


def test_taxi():
    vector = make_vector(TAXI, 2, seed=3)
    _, infos = vector.reset()
    for step in range(250):  # past its time limit of 200
        masks = action_masks(infos, 2, 6)
        assert masks is not None
        expected = [env.unwrapped.action_mask(env.unwrapped.s).tolist() for env in vector.envs]
        np.testing.assert_array_equal(masks, expected)
        legal = [np.flatnonzero(mask)[step % mask.sum()] for mask in masks]
        *_, infos = vector.step(np.array(legal))
    vector.close()


def test_no_masks():
    assert action_masks({}, 2, 3) is None
    assert masks_of([None, None], [None, None]) == [None, None]


def test_infos_without_a_note_of_who_gave_them():
    assert action_masks({"action_mask": [[1, 0], [1, 1]]}, 2, 2).tolist() == [[True, False], [True, True]]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones(4), r"env 0's action_mask must have the shape \[3\], got \[4\]; give one value an action, 1 where"),
        ([1, 1], r"env 0's action_mask must have the shape \[3\], got \[2\]"),
        (7, r"env 0's action_mask must have the shape \[3\], got \[\]"),
        (np.ones((1, 3)), r"env 0's action_mask must have the shape \[3\], got \[1, 3\]"),
        (np.array([1, 2, 0]), r"env 0's action_mask must hold 0 or 1 an action, got \[1, 2, 0\]"),
        (np.array([0.0, np.nan, 1.0]), r"env 0's action_mask must hold 0 or 1 an action, got \[0.0, nan, 1.0\]"),
        (np.zeros(3, bool), "env 0's action_mask must allow at least one action, got none"),
        ({"left": 1}, r"action_mask must hold a mask for each of 1 envs, got \{'left'"),
    ],
)
def test_masks_that_cannot_be(mask: Any, message: str):
    with pytest.raises(EnvError, match=message):
        masks_of([mask])


def test_masks_for_another_number_of_envs():
    with pytest.raises(EnvError, match="action_mask must hold a mask for each of 2 envs, got"):
        action_masks({"action_mask": np.ones((3, 4))}, 2, 4)
