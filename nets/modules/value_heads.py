"""Action-value heads: layers that all of torso's share, dueling and noisy or not, and the expected return itself."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

import torch
from torch import Tensor, nn

from torso.nets.modules import losses
from torso.nets.modules.heads import Prediction, ValueHead
from torso.nets.modules.noisy import NoisyLinear, linear_layer
from torso.nets.modules.torsos import DenseStack
from torso.nets.specs.heads import ScalarHeadSpec
from torso.nets.specs.torsos import MLPSpec


class _StreamsSpec(Protocol):
    """Fields of a specification that make the layers of a head."""

    @property
    def num_actions(self) -> int: ...
    @property
    def dueling(self) -> bool: ...
    @property
    def hidden(self) -> tuple[int, ...]: ...
    @property
    def noisy(self) -> bool: ...
    @property
    def noisy_std(self) -> float: ...


class _Stream(nn.Module):
    """Stream of a head: hidden layers with relu, then a linear output."""

    def __init__(self, num_features: int, hidden: tuple[int, ...], num_outputs: int, noisy_std: float | None) -> None:
        super().__init__()
        self.dense = DenseStack(num_features, MLPSpec(hidden=hidden), noisy_std=noisy_std) if hidden else None
        self.linear = linear_layer(noisy_std)(num_features if self.dense is None else hidden[-1], num_outputs)


class StreamsHead(ValueHead):
    """Base class of action-value heads of one stream, or of a dueling head's two, value and advantage.

    ``num_outputs``: of each action, such as its number of quantiles. The layers of the one stream are the head's own:
    ``linear``, and ``dense`` where there are hidden ones.
    """

    def __init__(self, spec: _StreamsSpec, num_features: int, num_outputs: int = 1) -> None:
        super().__init__()
        self.dueling = spec.dueling
        self.is_random = spec.noisy
        noisy_std = spec.noisy_std if spec.noisy else None
        if spec.dueling:
            self.value = _Stream(num_features, spec.hidden, num_outputs, noisy_std)
        of_actions = _Stream(num_features, spec.hidden, spec.num_actions * num_outputs, noisy_std)
        if spec.dueling:
            self.advantage = of_actions
        else:
            self.dense, self.linear = of_actions.dense, of_actions.linear

    def predict(self, features: Tensor, generator: torch.Generator | None) -> Prediction:
        """Compute a prediction whose output is `outputs`."""
        return Prediction(self.outputs(features, generator, bfloat16=False))

    def mixed(self, features: Tensor, generator: torch.Generator | None) -> Prediction:
        """Compute `predict` with the large products of hidden layers in bfloat16."""
        return Prediction(self.outputs(features, generator, bfloat16=True))

    def outputs(self, features: Tensor, generator: torch.Generator | None, *, bfloat16: bool) -> Tensor:
        """Compute the outputs [B, A, ...] from features; ``bfloat16``: with the hidden layers' large products in it."""
        if not self.dueling:
            return self.shaped(_run(self, features, generator, bfloat16=bfloat16))
        value, advantage = (
            self.shaped(_run(stream, features, generator, bfloat16=bfloat16)) for stream in (self.value, self.advantage)
        )
        return losses.dueling(value, advantage)

    @abstractmethod
    def shaped(self, output: Tensor) -> Tensor:
        """Bring a stream's outputs [B, ..., A * num_outputs] into the shape [B, A, ...], A being 1 for the value's."""


def _run(
    stream: _Stream | StreamsHead, features: Tensor, generator: torch.Generator | None, *, bfloat16: bool
) -> Tensor:
    dense, linear = stream.dense, stream.linear
    if dense is not None:
        features = dense.mixed(features, generator) if bfloat16 else dense(features, generator)
    output: Tensor = linear(features, generator) if isinstance(linear, NoisyLinear) else linear(features)
    return output


class ScalarHead(StreamsHead):
    """Action-value head (Mnih et al. 2015): one linear layer, or two dueling streams."""

    def __init__(self, spec: ScalarHeadSpec, num_features: int) -> None:
        super().__init__(spec, num_features)
        self.huber_delta = spec.huber_delta

    def shaped(self, output: Tensor) -> Tensor:
        """Return the output as it is, [B, A]."""
        return output

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
