"""Next-policy rules: what will be done after a step, as ``policy_t`` [B, A] whose rows sum to 1."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def greedy(q: Tensor) -> Tensor:
    """One-hot of the best action, the lowest-numbered among equals. q: [B, A]; returns [B, A] in q's dtype.

    By the target network's values this is Q-learning with a target network (Mnih et al. 2015); by the online
    network's it is double Q-learning (van Hasselt et al. 2016).
    """
    return functional.one_hot(q.argmax(dim=1), q.shape[1]).to(q.dtype)
