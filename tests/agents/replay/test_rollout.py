"""Rollouts: what they hold at their end, and what is dropped."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from torso.agents.protocols import Due, StepRows
from torso.agents.replay.reward_scale import RewardScale
from torso.agents.replay.rollout import Rollout, RolloutBatch

CPU = torch.device("cpu")
STEPS, ENVS, ACTIONS = 3, 2, 4


def rollout(**settings: Any) -> Rollout:
    return Rollout(STEPS, ENVS, shape=(5,), dtype="uint8", device=CPU, **settings)


def rows(t: int, **fields: Any) -> StepRows:
    """Rows of tick t: observations t and t + 1 everywhere, rewards t and -t."""
    flags = np.zeros(ENVS, dtype=bool)
    given: dict[str, Any] = {
        "obs": np.full((ENVS, 5), t, dtype=np.uint8),
        "action": np.array([t, t + 1]) % ACTIONS,
        "reward": np.array([t, -t], dtype=np.float64),
        "terminated": flags,
        "truncated": flags,
        "is_reset": flags,
        "mask": None,
        "next_obs": np.full((ENVS, 5), t + 1, dtype=np.uint8),
        "values": torch.full((ENVS, ACTIONS), float(t)),
    }
    return StepRows(**{**given, **fields})


def filled(made: Rollout, first: int = 0, **fields: Any) -> RolloutBatch:
    for t in range(first, first + STEPS):
        assert made.due(2 * t - 2, 2 * t, ()) == []
        made.append(rows(t, **fields))
    [due] = made.due(2 * first, 2 * first + 6, ())
    assert due == Due(2 * first + 6, 2 * first + 6, 1)
    assert not made.settled
    batch = made.sample(due)
    assert made.settled
    return batch


def test_a_rollout_is_learnt_from_when_it_is_full_and_then_begins_anew() -> None:
    made = rollout()
    assert made.settled
    assert not made.keeps_rows
    for first in (0, STEPS):
        batch = filled(made, first)
        assert batch.obs[:, :, 0].tolist() == [[t, t] for t in range(first, first + STEPS)]
        assert batch.obs.dtype == torch.uint8
        assert batch.last_obs.tolist() == [[first + STEPS] * 5] * ENVS
        assert batch.action.tolist() == [[t % ACTIONS, (t + 1) % ACTIONS] for t in range(first, first + STEPS)]
        assert batch.reward.tolist() == [[t, -t] for t in range(first, first + STEPS)]
        assert batch.reward.dtype == torch.float32
        assert batch.mask is None
        assert batch.values is not None
        assert batch.values[:, 0, 0].tolist() == [float(t) for t in range(first, first + STEPS)]


def test_ends_and_resets_are_kept_by_step() -> None:
    made, ended = rollout(), np.array([False, True])
    for t in range(STEPS):
        made.append(rows(t, terminated=ended & (t == 1), is_reset=ended & (t == 2)))
    batch = made.sample(Due(6, 6, 1))
    assert batch.terminated.tolist() == [[False, False], [False, True], [False, False]]
    assert batch.is_reset.tolist() == [[False, False], [False, False], [False, True]]


def test_values_that_were_not_asked_for_at_every_step_are_left_to_the_learner() -> None:
    made = rollout()
    made.append(rows(0, values=None))
    made.append(rows(1))
    made.append(rows(2))
    assert made.sample(Due(6, 6, 1)).values is None
    assert filled(made, 3).values is not None


def test_masks_of_the_observations_and_of_the_last_one() -> None:
    made = rollout(num_actions=ACTIONS)
    masks = np.random.default_rng(0).random((STEPS + 1, ENVS, ACTIONS)) < 0.5
    for t in range(STEPS):
        made.append(rows(t, mask=masks[t], next_mask=masks[t + 1]))
    batch = made.sample(Due(6, 6, 1))
    assert batch.mask is not None
    assert np.array_equal(batch.mask.numpy(), masks)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"clip_rewards": True}, [[0, 0], [1, -1], [1, -1]]),
        ({"reward_factor": 0.5}, [[0, 0], [0.5, -0.5], [1, -1]]),
        ({"clip_rewards": True, "reward_factor": 3.0}, [[0, 0], [3, -3], [3, -3]]),
    ],
)
def test_rewards_are_clipped_before_the_factor(settings: dict[str, Any], expected: list[list[float]]) -> None:
    assert filled(rollout(**settings)).reward.tolist() == expected


def test_rewards_are_divided_by_the_scale_at_the_rollouts_end() -> None:
    scale, same = (RewardScale(ENVS, gamma=0.9, clip_rewards=False) for _ in range(2))
    batch = filled(rollout(reward_scale=scale, reward_factor=2.0))
    for t in range(STEPS):
        same.update(rows(t))
    expected = [[2 * t / same.deviation, -2 * t / same.deviation] for t in range(STEPS)]
    torch.testing.assert_close(batch.reward, torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("how", ["cut", "break_off"])
def test_new_envs_drop_what_was_not_learnt_from(how: str) -> None:
    made = rollout()
    made.append(rows(7))
    if how == "cut":
        made.cut(np.zeros((ENVS, 5), dtype=np.uint8), None)
    else:
        made.break_off()
    assert made.settled
    assert filled(made).obs[:, 0, 0].tolist() == [0, 1, 2]


def test_a_checkpoint_holds_the_reward_scale_alone() -> None:
    made = rollout(reward_scale=RewardScale(ENVS, gamma=0.9, clip_rewards=False))
    filled(made)
    state, tensors = made.state()
    assert tensors == {}
    other = rollout(reward_scale=RewardScale(ENVS, gamma=0.9, clip_rewards=False))
    other.restore(state, {})
    made.break_off()
    assert torch.equal(filled(other, 3).reward, filled(made, 3).reward)
