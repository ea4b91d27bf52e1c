"""The heads: what a network's features mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Prediction(NamedTuple):
    """What a head says of a batch. ``output``: [B, ...] float; ``draws``: what was drawn to say it, or None."""

    output: Tensor
    draws: Tensor | None = None


class Head(nn.Module, ABC):
    """Features to a prediction, and a prediction to the numbers that serving reads."""

    @abstractmethod
    def predict(self, features: Tensor, generator: torch.Generator | None) -> Prediction:
        """Features [B, F] to a prediction."""

    def mixed(self, features: Tensor, generator: torch.Generator | None) -> Prediction:
        """`predict`, with large products in bfloat16 where the head has any; what it puts out stays in float32.

        features: [B, F] float32.
        """
        return self.predict(features, generator)

    @abstractmethod
    def readout(self, prediction: Prediction) -> Tensor:
        """What a served answer is computed from, [B, K].

        A classifier's scores, of which the softmax is its probabilities; a policy's action values; a regressor's
        targets in their own units.
        """


class LabelHead(Head):
    """A head that labels."""

    @abstractmethod
    def loss(self, prediction: Prediction, labels: Tensor) -> Tensor:
        """One loss a sample. labels: [B] int64. Returns [B]."""

    def probabilities(self, prediction: Prediction) -> Tensor:
        """[B, K] float, rows sum to 1: the readout's softmax."""
        return self.readout(prediction).softmax(dim=1)


class TargetHead(Head):
    """A head that estimates numbers."""

    @abstractmethod
    def loss(self, prediction: Prediction, targets: Tensor) -> Tensor:
        """One loss a sample. targets: [B, K] float, in their own units. Returns [B]."""


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
