"""The heads: what a network's features mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from torso.nets import losses
from torso.nets.registry import register_head
from torso.nets.spec import LogitsHeadSpec, ScalarHeadSpec


class Prediction(NamedTuple):
    """What a head says of a batch. ``output``: [B, ...] float; ``draws``: what was drawn to say it, or None."""

    output: Tensor
    draws: Tensor | None = None


class Head(nn.Module, ABC):
    """Features to a prediction, and a prediction to the numbers that serving reads."""

    @abstractmethod
    def predict(self, features: Tensor, generator: torch.Generator | None) -> Prediction:
        """Features [B, F] to a prediction."""

    @abstractmethod
    def readout(self, prediction: Prediction) -> Tensor:
        """What a served answer is computed from, [B, K]: a classifier's logits, a policy's action values."""


class LabelHead(Head):
    """A head that labels."""

    @abstractmethod
    def probabilities(self, prediction: Prediction) -> Tensor:
        """[B, K] float, rows sum to 1."""

    @abstractmethod
    def loss(self, prediction: Prediction, labels: Tensor) -> Tensor:
        """One loss a sample. labels: [B] int64. Returns [B]."""


class ValueHead(Head):
    """A head that values actions: where a classifier puts out a probability, this puts out an expectation."""

    @abstractmethod
    def values(self, prediction: Prediction) -> Tensor:
        """The expected return of each action, [B, A]."""

    @abstractmethod
    def target(self, r_t: Tensor, discount_t: Tensor, next_prediction: Prediction, policy_t: Tensor) -> Tensor:
        """What `loss` should regress on, detached. r_t, discount_t: [B]; policy_t: [B, A], rows sum to 1."""

    @abstractmethod
    def loss(self, prediction: Prediction, a_tm1: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """(loss [B], priority [B]). a_tm1: [B] int64; target as `target` made it; the priority is detached."""

    def readout(self, prediction: Prediction) -> Tensor:
        """The action values, [B, A]."""
        return self.values(prediction)


class LogitsHead(LabelHead):
    """One linear layer; its softmax is the probability of each class."""

    def __init__(self, spec: LogitsHeadSpec, num_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_features, spec.num_classes)

    def predict(self, features: Tensor, generator: torch.Generator | None) -> Prediction:
        """Logits, [B, K]."""
        return Prediction(self.linear(features))

    def probabilities(self, prediction: Prediction) -> Tensor:
        """Softmax of the logits, [B, K]."""
        return prediction.output.softmax(dim=1)

    def loss(self, prediction: Prediction, labels: Tensor) -> Tensor:
        """Cross-entropy, [B]."""
        return losses.cross_entropy(prediction.output, labels)

    def readout(self, prediction: Prediction) -> Tensor:
        """The logits, [B, K]."""
        return prediction.output


class ScalarHead(ValueHead):
    """One linear layer; each output is an action's expected return (Mnih et al. 2015)."""

    def __init__(self, spec: ScalarHeadSpec, num_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_features, spec.num_actions)
        self.huber_delta = spec.huber_delta

    def predict(self, features: Tensor, generator: torch.Generator | None) -> Prediction:
        """Action values, [B, A]."""
        return Prediction(self.linear(features))

    def values(self, prediction: Prediction) -> Tensor:
        """The output itself, [B, A]."""
        return prediction.output

    def target(self, r_t: Tensor, discount_t: Tensor, next_prediction: Prediction, policy_t: Tensor) -> Tensor:
        """One-step or n-step return plus the policy's expected value after it, [B]."""
        return losses.bootstrapped_target(r_t, discount_t, next_prediction.output, policy_t)

    def loss(self, prediction: Prediction, a_tm1: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Huber (or squared) loss of the TD error, and the error's size as priority; [B] each."""
        td_error = target - losses.chosen(prediction.output, a_tm1)  # [B]
        delta = self.huber_delta
        loss = losses.squared_error(td_error) if delta is None else losses.huber(td_error, delta)  # [B]
        return loss, td_error.detach().abs()


register_head("logits", LogitsHeadSpec, LogitsHead)
register_head("scalar", ScalarHeadSpec, ScalarHead)
