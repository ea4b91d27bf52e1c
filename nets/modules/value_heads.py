"""Action-value heads: the expected return of each action, dueling or not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torso.nets.modules import losses
from torso.nets.modules.heads import Prediction, ValueHead
from torso.nets.modules.torsos import DenseStack
from torso.nets.specs.heads import (
    ScalarHeadSpec,
)
from torso.nets.specs.torsos import MLPSpec


class _Stream(nn.Module):
    """Stream of a dueling head: hidden layers with relu, then a linear output."""

    def __init__(self, num_features: int, hidden: tuple[int, ...], num_outputs: int) -> None:
        super().__init__()
        self.dense = DenseStack(num_features, MLPSpec(hidden=hidden))
        self.linear = nn.Linear(self.dense.num_features, num_outputs)

    def forward(self, features: Tensor, *, bfloat16: bool) -> Tensor:
        """Map features [B, F] to [B, num_outputs]; ``bfloat16``: with the hidden layers' large products in it."""
        hidden = self.dense.mixed(features, None) if bfloat16 else self.dense(features, None)
        output: Tensor = self.linear(hidden)
        return output


class ScalarHead(ValueHead):
    """Action-value head (Mnih et al. 2015): one linear layer, or two dueling streams."""

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
        """Compute action values, [B, A]."""
        return self._predict(features, bfloat16=False)

    def mixed(self, features: Tensor, generator: torch.Generator | None) -> Prediction:
        """Compute `predict` with the large products of a dueling head's hidden layers in bfloat16."""
        return self._predict(features, bfloat16=True)

    def _predict(self, features: Tensor, *, bfloat16: bool) -> Prediction:
        if not self.dueling:
            return Prediction(self.linear(features))
        value, advantage = (stream(features, bfloat16=bfloat16) for stream in (self.value, self.advantage))
        return Prediction(losses.dueling(value, advantage))

    def values(self, prediction: Prediction) -> Tensor:
        """Return the output itself, [B, A]."""
        return prediction.output

    def target(self, r_t: Tensor, discount_t: Tensor, next_prediction: Prediction, policy_t: Tensor) -> Tensor:
        """Compute the one-step or n-step return plus the policy's expected value after it, [B]."""
        return losses.bootstrapped_target(r_t, discount_t, next_prediction.output, policy_t)

    def figures(self, prediction: Prediction, target: Tensor) -> dict[str, Tensor]:
        """Compute ``max_q``, as all heads do, and the mean ``target``."""
        return {**super().figures(prediction, target), "target": target.mean()}

    def loss(self, prediction: Prediction, a_tm1: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the Huber (or squared) loss of the TD error, and the error's size as priority; [B] each."""
        td_error = target - losses.chosen(prediction.output, a_tm1)  # [B]
        delta = self.huber_delta
        loss = losses.squared_error(td_error) if delta is None else losses.huber(td_error, delta)  # [B]
        return loss, td_error.detach().abs()
