"""N-step returns against numbers worked by hand."""

from __future__ import annotations

import pytest
import torch

from torso.agents.replay.returns import n_step_return


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
