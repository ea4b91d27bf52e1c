"""Heads that label or regress: softmax, sigmoid, one-vs-rest, step unit, linear regression."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from torso.nets.modules import losses
from torso.nets.modules.heads import LabelHead, Prediction, TargetHead
from torso.nets.specs.heads import (
    LogitsHeadSpec,
    OneVsRestHeadSpec,
    RegressionHeadSpec,
    SigmoidHeadSpec,
    StepHeadSpec,
)


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
