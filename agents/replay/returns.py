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


def lambda_returns(
    reward: Tensor, terminated: Tensor, is_reset: Tensor, next_value: Tensor, *, gamma: float, trace_decay: float
) -> Tensor:
    """Compute the lambda-return of each of T consecutive rows (Peng & Williams 1996; Gallici et al. 2024, eq. 9).

    ``G_t = r_t + gamma ((1 - lambda) v_t + lambda G_t+1)``, v_t being the value of the state after the step,
    ``next_value``. After a step that terminated there is nothing to come. The sum ends with v_t where the episode went
    no further, as a reset row after it shows, and in the last row.
    reward, next_value: [T, E] float; terminated, is_reset: [T, E] bool; trace_decay: lambda, in [0, 1]. Returns [T, E]
    float, of which reset rows mean nothing.
    """
    discount = gamma * (~terminated).to(next_value.dtype)  # [T, E]
    goes_on = trace_decay * (~is_reset[1:]).to(next_value.dtype)  # [T - 1, E]
    ahead = next_value[-1]
    returns: list[Tensor] = []
    for t in range(len(reward) - 1, -1, -1):
        if t < len(reward) - 1:
            ahead = next_value[t] + goes_on[t] * (returns[-1] - next_value[t])
        returns.append(reward[t] + discount[t] * ahead)
    return torch.stack(returns[::-1])
