"""Next-policy rules: the policy that a target assumes after a step, ``policy_t`` [B, A], whose rows sum to 1.

A rule declares the values it needs, gets them as `Forwards`, and returns ``(policy_t [B, A], bonus [B])``; the learner
adds the bonus to ``r_t`` and passes both to the head's ``target``. So an algorithm that differs only in its next policy
is a new rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional


def greedy_actions(q: Tensor, mask: Tensor | None = None) -> Tensor:
    """Select the best action of each row, the lowest-numbered among equals; int64 [B].

    q: [B, A]; mask: bool [B, A], the legal actions, at least one a row; None: all are.
    """
    return (q if mask is None else q.masked_fill(~mask, -torch.inf)).argmax(dim=1)


def one_hot_greedy(q: Tensor, mask: Tensor | None = None) -> Tensor:
    """One-hot encode the best action, the lowest-numbered among equals.

    q: [B, A]; mask: bool [B, A], the legal actions, at least one a row; None: all are. Returns [B, A] in q's dtype.
    """
    return functional.one_hot(greedy_actions(q, mask), q.shape[1]).to(q.dtype)


class Forwards(NamedTuple):
    """Inputs of a rule: action values [B, A] of the states after (``_t``) and before (``_tm1``) the step.

    ``target_t`` is always given; ``online_t``, ``target_tm1`` and ``online_tm1`` are None unless the rule needs them.
    ``a_tm1``: int64 [B]; ``discount_t``: [B], gamma^n after n steps, 0 at an end. The masks are bool [B, A], the legal
    actions, or None where all of them are. Of a return of n steps, ``_tm1`` is before the first and ``_t`` after the
    last.
    """

    target_t: Tensor
    online_t: Tensor | None
    target_tm1: Tensor | None
    a_tm1: Tensor
    discount_t: Tensor
    mask_t: Tensor | None = None
    mask_tm1: Tensor | None = None
    online_tm1: Tensor | None = None


class NextPolicy(Protocol):
    """Next-policy rule. An illegal action's probability is 0."""

    @property
    def needs(self) -> frozenset[str]:
        """Subset of ``online_t``, ``target_tm1`` and ``online_tm1`` that the rule reads."""
        ...

    def __call__(self, forwards: Forwards, /) -> tuple[Tensor, Tensor]:
        """Return ``(policy_t [B, A], bonus [B])``, in the values' dtype; both are constants to the gradient."""
        ...


@dataclass(frozen=True)
class GreedyPolicy:
    """Greedy rule: one-hot on the action that ``by`` values highest, without a bonus."""

    by: Literal["target_t", "online_t"]

    @property
    def needs(self) -> frozenset[str]:
        """Values that the rule reads: ``by``, or none where that is ``target_t``."""
        return frozenset({self.by}) - {"target_t"}

    def __call__(self, forwards: Forwards) -> tuple[Tensor, Tensor]:
        """Return the greedy policy and a bonus of 0, as `NextPolicy` describes."""
        q = _needed(self, forwards, self.by)
        return one_hot_greedy(q, forwards.mask_t), torch.zeros_like(forwards.discount_t)


@dataclass(frozen=True, kw_only=True)
class SoftmaxPolicy:
    """Softmax rule of Munchausen reinforcement learning (Vieillard et al. 2020, eq. 2).

    The policy is the softmax of the target network's values over ``tau``. Its bonus is the policy's scaled logarithm,
    ``alpha clip(tau log pi(a_tm1 | s_tm1), clip, 0)``, from the target ``network`` as in the paper or from the online
    one (Clark et al. 2024), and the entropy after the step, ``discount_t tau H(pi_t)``. Of a return of n steps the
    first term is the first step's.
    """

    alpha: float = 0.9
    tau: float = 0.03
    clip: float = -1.0
    network: Literal["target", "online"] = "target"

    @property
    def needs(self) -> frozenset[str]:
        """Values that the rule reads beside ``target_t``: those of ``network`` before the step."""
        return frozenset({f"{self.network}_tm1"})

    def __call__(self, forwards: Forwards) -> tuple[Tensor, Tensor]:
        """Return the softmax policy and Munchausen's bonus, as `NextPolicy` describes."""
        log_policy_t = self._log_policy(forwards.target_t, forwards.mask_t)  # [B, A]
        log_policy_tm1 = self._log_policy(_needed(self, forwards, f"{self.network}_tm1"), forwards.mask_tm1)  # [B, A]
        policy_t = log_policy_t.exp()
        entropy_t = torch.special.entr(policy_t).sum(dim=1)  # [B]
        taken = self.tau * log_policy_tm1.gather(1, forwards.a_tm1.unsqueeze(1)).squeeze(1)  # [B]
        return policy_t, self.alpha * taken.clamp(self.clip, 0.0) + forwards.discount_t * self.tau * entropy_t

    def _log_policy(self, q: Tensor, mask: Tensor | None) -> Tensor:
        return (q if mask is None else q.masked_fill(~mask, -torch.inf)).div(self.tau).log_softmax(dim=1)


def _needed(rule: NextPolicy, forwards: Forwards, name: str) -> Tensor:
    values: Tensor | None = getattr(forwards, name)
    if values is None:
        raise ValueError(f"{rule!r} was called without {name}, which it needs")
    return values


GREEDY_TARGET = GreedyPolicy("target_t")  # Q-learning with a target network (Mnih et al. 2015)
GREEDY_ONLINE = GreedyPolicy("online_t")  # double Q-learning (van Hasselt et al. 2016)
