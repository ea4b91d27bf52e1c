"""The heads: what a network's features mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from torso.nets import losses
from torso.nets.head_specs import (
    LogitsHeadSpec,
    OneVsRestHeadSpec,
    RegressionHeadSpec,
    ScalarHeadSpec,
    SigmoidHeadSpec,
    StepHeadSpec,
)
from torso.nets.registry import register_head
from torso.nets.spec import MLPSpec
from torso.nets.torsos import DenseStack


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


class LogitsHead(LabelHead):
    """One linear layer; its softmax is the probability of each class."""

    def __init__(self, spec: LogitsHeadSpec, num_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_features, spec.num_classes)
        self.label_smoothing = spec.label_smoothing

    def predict(self, features: Tensor, generator: torch.Generator | None) -> Prediction:
        """Logits, [B, K]."""
        return Prediction(self.linear(features))

    def loss(self, prediction: Prediction, labels: Tensor) -> Tensor:
        """Cross-entropy, [B]; labels are smoothed in training alone, so that other figures are cross-entropies."""
        return losses.cross_entropy(prediction.output, labels, self.label_smoothing if self.training else 0.0)

    def readout(self, prediction: Prediction) -> Tensor:
        """The logits, [B, K]."""
        return prediction.output


class OneVsRestHead(LabelHead):
    """One linear layer; each output's sigmoid tells one class from the rest."""

    def __init__(self, spec: OneVsRestHeadSpec, num_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_features, spec.num_classes)
        self.label_smoothing = spec.label_smoothing

    def predict(self, features: Tensor, generator: torch.Generator | None) -> Prediction:
        """One logit a class, [B, K]."""
        return Prediction(self.linear(features))

    def loss(self, prediction: Prediction, labels: Tensor) -> Tensor:
        """The sum of the classes' binary cross-entropies, [B]; labels are smoothed in training alone."""
        return losses.one_vs_rest(prediction.output, labels, self.label_smoothing if self.training else 0.0)

    def readout(self, prediction: Prediction) -> Tensor:
        """Logarithms of the sigmoids, [B, K], of which the softmax is the normalised sigmoids."""
        return -functional.softplus(-prediction.output)  # logsigmoid, which ONNX would make log(0) far below 0


class _OneOutputHead(LabelHead):
    """One output for two classes: where it is above 0, class 1 is the likelier."""

    def __init__(self, _spec: SigmoidHeadSpec | StepHeadSpec, num_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_features, 1)

    def predict(self, features: Tensor, generator: torch.Generator | None) -> Prediction:
        """The one output z, [B]."""
        return Prediction(self.linear(features).squeeze(1))

    def readout(self, prediction: Prediction) -> Tensor:
        """``[0, z]``, [B, 2], of which the softmax is ``[1 - sigmoid(z), sigmoid(z)]``."""
        return torch.stack((torch.zeros_like(prediction.output), prediction.output), dim=1)


class SigmoidHead(_OneOutputHead):
    """One neuron; its sigmoid is the probability of class 1."""

    def __init__(self, spec: SigmoidHeadSpec, num_features: int) -> None:
        super().__init__(spec, num_features)
        self.spec = spec

    def loss(self, prediction: Prediction, labels: Tensor) -> Tensor:
        """Binary cross-entropy or logistic loss, [B]; labels are smoothed in training alone."""
        if self.spec.loss == "logistic":
            return losses.logistic(prediction.output, 2 * labels - 1)
        smoothing = self.spec.label_smoothing if self.training else 0.0
        smoothed = labels.to(prediction.output.dtype) * (1 - smoothing) + smoothing / 2
        return losses.binary_cross_entropy(prediction.output, smoothed)


class StepHead(_OneOutputHead):
    """The perceptron's step unit (Rosenblatt 1958)."""

    def probabilities(self, prediction: Prediction) -> Tensor:
        """What the unit says, as 0 and 1, [B, 2]: it knows no degrees."""
        return functional.one_hot((prediction.output > 0).long(), 2).to(prediction.output.dtype)

    def loss(self, prediction: Prediction, labels: Tensor) -> Tensor:
        """How far each error's output is on the wrong side of 0, [B]."""
        return losses.perceptron(prediction.output, 2 * labels - 1)


class RegressionHead(TargetHead):
    """One linear layer that estimates each target in units of its deviation from its mean."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: RegressionHeadSpec, num_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_features, spec.num_targets)
        # Not in the weights file: the spec holds them. As buffers they follow the network's device and precision.
        mean, std = spec.mean or (0.0,) * spec.num_targets, spec.std or (1.0,) * spec.num_targets
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def predict(self, features: Tensor, generator: torch.Generator | None) -> Prediction:
        """Standardised estimates, [B, K]."""
        return Prediction(self.linear(features))

    def loss(self, prediction: Prediction, targets: Tensor) -> Tensor:
        """The sum of squared errors, in deviations, [B]. targets: [B, K], in their own units."""
        standardised = (targets - self.mean) / self.std  # [B, K]
        return losses.sum_of_squared_errors(prediction.output, standardised.to(prediction.output.dtype))

    def readout(self, prediction: Prediction) -> Tensor:
        """The estimates in the targets' own units, [B, K]."""
        return prediction.output * self.std + self.mean


class _Stream(nn.Module):
    """One of a dueling head's two: hidden layers with relu, then a linear output."""

    def __init__(self, num_features: int, hidden: tuple[int, ...], num_outputs: int) -> None:
        super().__init__()
        self.dense = DenseStack(num_features, MLPSpec(hidden=hidden))
        self.linear = nn.Linear(self.dense.num_features, num_outputs)

    def forward(self, features: Tensor, *, bfloat16: bool) -> Tensor:
        """Features [B, F] to [B, num_outputs]; with ``bfloat16`` the hidden layers' large products are so rounded."""
        hidden = self.dense.mixed(features, None) if bfloat16 else self.dense(features, None)
        output: Tensor = self.linear(hidden)
        return output


class ScalarHead(ValueHead):
    """Each output is an action's expected return (Mnih et al. 2015): one linear layer, or two dueling streams."""

    def __init__(self, spec: ScalarHeadSpec, num_features: int) -> None:
        super().__init__()
        self.huber_delta = spec.huber_delta
        self.dueling = spec.dueling
        if spec.dueling:
            self.value = _Stream(num_features, spec.hidden, 1)
            self.advantage = _Stream(num_features, spec.hidden, spec.num_actions)
        else:
            self.linear = nn.Linear(num_features, spec.num_actions)

    def predict(self, features: Tensor, generator: torch.Generator | None) -> Prediction:
        """Action values, [B, A]."""
        return self._predict(features, bfloat16=False)

    def mixed(self, features: Tensor, generator: torch.Generator | None) -> Prediction:
        """`predict`, with the large products of a dueling head's hidden layers in bfloat16."""
        return self._predict(features, bfloat16=True)

    def _predict(self, features: Tensor, *, bfloat16: bool) -> Prediction:
        if not self.dueling:
            return Prediction(self.linear(features))
        value, advantage = (stream(features, bfloat16=bfloat16) for stream in (self.value, self.advantage))
        return Prediction(losses.dueling(value, advantage))

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
register_head("sigmoid", SigmoidHeadSpec, SigmoidHead)
register_head("one-vs-rest", OneVsRestHeadSpec, OneVsRestHead)
register_head("step", StepHeadSpec, StepHead)
register_head("regression", RegressionHeadSpec, RegressionHead)
register_head("scalar", ScalarHeadSpec, ScalarHead)
