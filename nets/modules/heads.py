"""Head interfaces: from features to predictions, losses and readouts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Prediction(NamedTuple):
    """Prediction of a batch. ``output``: [B, ...] float; ``draws``: the random values it was drawn with, or None."""

    output: Tensor
    draws: Tensor | None = None


class Head(nn.Module, ABC):
    """Base class of heads: features to a prediction, and a prediction to the readout that is served."""

    @abstractmethod
    def predict(self, features: Tensor, generator: torch.Generator | None) -> Prediction:
        """Compute a prediction from features [B, F].

        A head that draws does so from ``generator``. None, as in evaluation and in a served model, draws nothing:
        noise is at its mean, fractions are fixed.
        """

    def mixed(self, features: Tensor, generator: torch.Generator | None) -> Prediction:
        """Compute `predict` with large products in bfloat16 where the head has any; its output stays in float32.

        features: [B, F] float32.
        """
        return self.predict(features, generator)

    @abstractmethod
    def readout(self, prediction: Prediction) -> Tensor:
        """Compute the readout, from which a served prediction is made; [B, K].

        A classifier's scores, whose softmax is its probabilities; a policy's action values; a regressor's
        targets in their own units.
        """


class LabelHead(Head):
    """Base class of classification heads."""

    @abstractmethod
    def loss(self, prediction: Prediction, labels: Tensor) -> Tensor:
        """Compute one loss a sample. labels: [B] int64. Returns [B]."""

    def probabilities(self, prediction: Prediction) -> Tensor:
        """Compute probabilities, the readout's softmax: [B, K] float, rows sum to 1."""
        return self.readout(prediction).softmax(dim=1)


class TargetHead(Head):
    """Base class of regression heads."""

    @abstractmethod
    def loss(self, prediction: Prediction, targets: Tensor) -> Tensor:
        """Compute one loss a sample. targets: [B, K] float, in their own units. Returns [B]."""


class ValueHead(Head):
    """Base class of action-value heads: an expected return an action, where a classifier has a probability a class."""

    is_random: bool = False
    """Whether `predict` draws from its generator; a learner then predicts for each minibatch apart."""

    @abstractmethod
    def values(self, prediction: Prediction) -> Tensor:
        """Compute the expected return of each action, [B, A]."""

    @abstractmethod
    def target(self, r_t: Tensor, discount_t: Tensor, next_prediction: Prediction, policy_t: Tensor) -> Tensor:
        """Compute the target for `loss`, detached. r_t, discount_t: [B]; policy_t: [B, A], rows sum to 1."""

    @abstractmethod
    def loss(self, prediction: Prediction, a_tm1: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Compute (loss [B], priority [B]). a_tm1: [B] int64; target: as from `target`; the priority is detached."""

    def figures(self, prediction: Prediction, target: Tensor) -> dict[str, Tensor]:
        """Compute what a training's log shows of rows and their targets, as `loss` takes them; scalars by name.

        ``max_q``: the best action's value, a mean over the rows (Mnih et al. 2013 track it).
        """
        return {"max_q": self.values(prediction).amax(dim=1).mean()}

    def readout(self, prediction: Prediction) -> Tensor:
        """Return the action values, [B, A]."""
        return self.values(prediction)
