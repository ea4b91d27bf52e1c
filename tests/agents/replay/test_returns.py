"""N-step and lambda-returns against numbers worked by hand and definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from torso.agents.replay.returns import lambda_returns, n_step_return


def test_by_hand() -> None:
    """Columns: continues; terminates at its second step; truncated after its second step; terminates at its last."""
    reward = torch.tensor([[1.0] * 4, [2.0] * 4, [4.0] * 4])
    terminated = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]).bool()
    is_reset = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0]]).bool()  # row 0's does not matter
    r_t, discount_t, num_steps = n_step_return(reward, terminated, is_reset, 0.9)
    assert r_t.tolist() == pytest.approx([1 + 1.8 + 3.24, 2.8, 2.8, 6.04])
    assert discount_t.tolist() == pytest.approx([0.9**3, 0.0, 0.9**2, 0.0])
    assert num_steps.tolist() == [3, 2, 2, 3]
    assert (r_t.dtype, discount_t.dtype, num_steps.dtype) == (torch.float32, torch.float32, torch.int64)


def test_what_comes_after_the_end_does_not_count_however_large() -> None:
    reward = torch.tensor([[1.0, 1.0], [torch.inf, torch.nan]])
    terminated = torch.tensor([[True, False], [False, False]])
    is_reset = torch.tensor([[False, False], [True, True]])
    r_t, discount_t, _ = n_step_return(reward, terminated, is_reset, 1.0)
    assert r_t.tolist() == [1.0, 1.0]
    assert discount_t.tolist() == [0.0, 1.0]


def test_without_discount_only_the_first_reward_counts() -> None:
    nothing = torch.zeros((3, 1), dtype=torch.bool)
    r_t, discount_t, _ = n_step_return(torch.tensor([[1.0], [2.0], [3.0]]), nothing, nothing, 0.0)
    assert (r_t.item(), discount_t.item()) == (1.0, 0.0)


# -- lambda-returns ----------------------------------------------------------------------------------------------------


def by_definition(
    reward: list[float], terminated: list[bool], is_reset: list[bool], value: list[float], gamma: float, decay: float
) -> list[float]:
    """Lambda-return of each row of one env as the weighted mean of its n-step returns; NaN for a reset row."""
    found = []
    for t in range(len(reward)):
        n_step, total, discount = [], 0.0, 1.0
        for k in range(t, len(reward)):
            total, discount = total + discount * reward[k], discount * gamma
            n_step.append(total + discount * value[k] * (not terminated[k]))
            if terminated[k] or k + 1 == len(reward) or is_reset[k + 1]:
                break
        weights = [(1 - decay) * decay**n for n in range(len(n_step) - 1)] + [decay ** (len(n_step) - 1)]
        mean = sum(weight * each for weight, each in zip(weights, n_step, strict=True))
        found.append(math.nan if is_reset[t] else mean)
    return found


def test_a_lambda_return_by_hand() -> None:
    """Rewards 1, 2, 4; values after the steps 10, 20, 40; gamma and lambda 1/2; the last row bootstraps."""
    flags = torch.zeros(3, 1, dtype=torch.bool)
    reward, value = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[10.0], [20.0], [40.0]])
    third = 4 + 0.5 * 40
    second = 2 + 0.5 * (0.5 * 20 + 0.5 * third)
    first = 1 + 0.5 * (0.5 * 10 + 0.5 * second)
    returns = lambda_returns(reward, flags, flags, value, gamma=0.5, trace_decay=0.5)
    assert returns[:, 0].tolist() == [first, second, third]


@pytest.mark.parametrize("decay", [0.0, 0.3, 1.0])
def test_lambda_returns_are_means_of_n_step_returns(decay: float) -> None:
    """Envs end at any step: terminated, truncated, both, in the first row and in the last."""
    rng = np.random.default_rng(7)
    steps, envs, gamma = 9, 200, 0.9
    reward, value = rng.normal(size=(2, steps, envs))
    terminated, is_reset = np.zeros((2, steps, envs), dtype=bool)
    is_reset[0] = rng.random(envs) < 0.2  # the last rollout ended with an episode's end
    for t in range(steps):
        ends = (rng.random(envs) < 0.3) & ~is_reset[t]
        terminated[t] = (rng.random(envs) < 0.6) & ends
        lost_life = (rng.random(envs) < 0.1) & ~is_reset[t] & ~ends  # the learner's end alone: no reset row follows
        terminated[t] |= lost_life
        if t + 1 < steps:
            is_reset[t + 1] = ends
    reward[is_reset], value[-1] = 1e6, 3.0
    returns = lambda_returns(
        *map(torch.from_numpy, (reward, terminated, is_reset, value)), gamma=gamma, trace_decay=decay
    )
    for env in range(envs):
        columns = [each[:, env].tolist() for each in (reward, terminated, is_reset, value)]
        expected = np.array(by_definition(*columns, gamma, decay))
        valid = ~is_reset[:, env]
        np.testing.assert_allclose(returns[valid, env], expected[valid], rtol=1e-12, atol=1e-12)
