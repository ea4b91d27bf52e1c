"""Losses and bootstrapped targets as pure functions: batch first, one value a sample, nothing averaged."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax cross-entropy, exact at logits of any size: its gradient by a logit is probability minus one-hot label.

    logits: [B, K] float; labels: [B] int64 in [0, K). Returns [B] float, at least 0.
    """
    return functional.cross_entropy(logits, labels, reduction="none")


def huber(td_error: Tensor, delta: float) -> Tensor:
    """Huber's loss: x^2 / 2 within ``delta`` of 0, ``delta (|x| - delta / 2)`` beyond (Huber 1964, eq. 4).

    Its gradient is the error clipped to [-delta, delta], which is Mnih et al. 2015's "error clipping".
    td_error: [B] float. Returns [B] float.
    """
    return functional.huber_loss(td_error, torch.zeros_like(td_error), reduction="none", delta=delta)


def bootstrapped_target(r_t: Tensor, discount_t: Tensor, q_t: Tensor, policy_t: Tensor) -> Tensor:
    """``r_t + discount_t sum_a policy_t(a) q_t(a)``: Q-learning's target where the policy is one-hot greedy.

    Greedy by the target network itself is Mnih et al. 2015; by the online network it is van Hasselt et al. 2016, eq. 4.
    r_t, discount_t: [B]; q_t, policy_t: [B, A] float. Returns [B] float, detached.
    """
    return (r_t + discount_t * (policy_t * q_t).sum(dim=1)).detach()


def chosen(q: Tensor, action: Tensor) -> Tensor:
    """The value of each row's action. q: [B, A] float; action: [B] int64. Returns [B] float."""
    return q.gather(1, action.unsqueeze(1)).squeeze(1)


def squared_error(td_error: Tensor) -> Tensor:
    """Half the square, so that the gradient is the error itself. td_error: [B] float. Returns [B] float."""
    return 0.5 * torch.square(td_error)
