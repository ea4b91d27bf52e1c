"""N-step returns: discounted reward sums over a window or up to the episode's end, and the bootstrap discount."""

from __future__ import annotations

import torch
from torch import Tensor


def n_step_return(reward: Tensor, terminated: Tensor, is_reset: Tensor, gamma: float) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the n-step return of the first of ``n`` consecutive rows (Sutton & Barto 2018, section 7.1).

    reward, terminated, is_reset: [n, B], each row's reward, whether its step terminated the episode, and whether it is
    a reset row, the episode having ended in the row before (row 0's is ignored). The sum stops after a step that
    terminated, and before a reset row. Returns ``r_t`` [B] float32, sum of gamma^k reward_k; ``discount_t`` [B]
    float32, 0 after a step that terminated and otherwise gamma^num_steps; ``num_steps`` [B] int64, in [1, n].
    """
    steps = torch.arange(len(reward), device=reward.device)[:, None]  # [n, 1]
    continues = ~terminated[:-1] & ~is_reset[1:]  # [n - 1, B], from step k to step k + 1
    counts = torch.cat([torch.ones_like(terminated[:1]), continues]).cumprod(dim=0)  # [n, B] int64, 1 or 0
    r_t = torch.where(counts > 0, gamma ** steps.double() * reward, 0.0).sum(dim=0).float()
    num_steps = counts.sum(dim=0)
    discount_t = (gamma ** num_steps.double()).float() * ~(terminated * counts).any(dim=0)
    return r_t, discount_t, num_steps
