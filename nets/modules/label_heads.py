"""Classification and regression heads: softmax, sigmoid, one-vs-rest, step unit, linear regression."""

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
from torso.tables import needs_float64


class LogitsHead(LabelHead):
    """Softmax head: one linear layer; its softmax is the probability of each class."""

    def __init__(self, spec: LogitsHeadSpec, num_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_features, spec.num_classes)
        self.label_smoothing = spec.label_smoothing

    def predict(self, features: Tensor, generator: torch.Generator | None) -> Prediction:
        """Compute logits, [B, K]."""
        return Prediction(self.linear(features))

    def loss(self, prediction: Prediction, labels: Tensor) -> Tensor:
        """Compute the cross-entropy, [B]; labels are smoothed in training mode only, so that other losses are exact."""
        return losses.cross_entropy(prediction.output, labels, self.label_smoothing if self.training else 0.0)

    def readout(self, prediction: Prediction) -> Tensor:
        """Return the logits, [B, K]."""
        return prediction.output


class OneVsRestHead(LabelHead):
    """One-vs-rest head: one linear layer; each output's sigmoid tells one class from the rest."""

    def __init__(self, spec: OneVsRestHeadSpec, num_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_features, spec.num_classes)
        self.label_smoothing = spec.label_smoothing

    def predict(self, features: Tensor, generator: torch.Generator | None) -> Prediction:
        """Compute one logit a class, [B, K]."""
        return Prediction(self.linear(features))

    def loss(self, prediction: Prediction, labels: Tensor) -> Tensor:
        """Sum the classes' binary cross-entropies, [B]; labels are smoothed in training mode only."""
        return losses.one_vs_rest(prediction.output, labels, self.label_smoothing if self.training else 0.0)

    def readout(self, prediction: Prediction) -> Tensor:
        """Return the logarithms of the sigmoids, [B, K], whose softmax is the normalised sigmoids."""
        return -functional.softplus(-prediction.output)  # logsigmoid, which ONNX would make log(0) far below 0


class _OneOutputHead(LabelHead):
    """Head with one output for two classes: where it is above 0, class 1 is the likelier."""

    def __init__(self, _spec: SigmoidHeadSpec | StepHeadSpec, num_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_features, 1)

    def predict(self, features: Tensor, generator: torch.Generator | None) -> Prediction:
        """Compute the one output z, [B]."""
        return Prediction(self.linear(features).squeeze(1))

    def readout(self, prediction: Prediction) -> Tensor:
        """Return ``[0, z]``, [B, 2], whose softmax is ``[1 - sigmoid(z), sigmoid(z)]``."""
        return torch.stack((torch.zeros_like(prediction.output), prediction.output), dim=1)


class SigmoidHead(_OneOutputHead):
    """Logistic regression head: one neuron, whose sigmoid is the probability of class 1."""

    def __init__(self, spec: SigmoidHeadSpec, num_features: int) -> None:
        super().__init__(spec, num_features)
        self.spec = spec

    def loss(self, prediction: Prediction, labels: Tensor) -> Tensor:
        """Compute the binary cross-entropy or logistic loss, [B]; labels are smoothed in training mode only."""
        if self.spec.loss == "logistic":
            return losses.logistic(prediction.output, 2 * labels - 1)
        smoothing = self.spec.label_smoothing if self.training else 0.0
        smoothed = labels.to(prediction.output.dtype) * (1 - smoothing) + smoothing / 2
        return losses.binary_cross_entropy(prediction.output, smoothed)


class StepHead(_OneOutputHead):
    """Step-unit head of the perceptron (Rosenblatt 1958)."""

    def probabilities(self, prediction: Prediction) -> Tensor:
        """Return the predicted class one-hot, [B, 2], since a step unit has no probabilities."""
        return functional.one_hot((prediction.output > 0).long(), 2).to(prediction.output.dtype)

    def loss(self, prediction: Prediction, labels: Tensor) -> Tensor:
        """Compute the perceptron loss, [B]: how far a wrong output is from 0."""
        return losses.perceptron(prediction.output, 2 * labels - 1)


class RegressionHead(TargetHead):
    """Linear regression head: one linear layer that estimates standardised targets."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: RegressionHeadSpec, num_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_features, spec.num_targets)
        # Not in the weights file: the spec holds them. As buffers they follow the network's device and precision.
        self.reads_out_float64 = spec.mean is not None and spec.std is not None and needs_float64(spec.mean, spec.std)
        dtype = torch.float64 if self.reads_out_float64 else None
        for name, values, usual in (("mean", spec.mean, 0.0), ("std", spec.std, 1.0)):
            statistics = torch.full((spec.num_targets,), usual) if values is None else torch.tensor(values, dtype=dtype)
            self.register_buffer(name, statistics, persistent=False)

    def predict(self, features: Tensor, generator: torch.Generator | None) -> Prediction:
        """Compute standardised estimates, [B, K]."""
        return Prediction(self.linear(features))

    def loss(self, prediction: Prediction, targets: Tensor) -> Tensor:
        """Sum the squared errors of standardised targets, [B]. targets: [B, K], in their own units."""
        standardised = (targets - self.mean) / self.std  # [B, K]
        return losses.sum_of_squared_errors(prediction.output, standardised.to(prediction.output.dtype))

    def readout(self, prediction: Prediction) -> Tensor:
        """Return the estimates in the targets' own units, [B, K]; in float64 where float32 would blur the targets."""
        return prediction.output * self.std + self.mean
