"""Distributional heads: each action's return as a distribution, whose expectation is the action's value.

Each is dueling, for each atom or quantile apart, and noisy where its specification says so. The priority of a
transition is its loss (Hessel et al. 2018, section 4).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from torso.nets.modules import losses
from torso.nets.modules.heads import Prediction
from torso.nets.modules.torsos import linear_product
from torso.nets.modules.value_heads import StreamsHead
from torso.nets.specs.heads import CategoricalHeadSpec, ImplicitQuantileHeadSpec, QuantileHeadSpec


class CategoricalHead(StreamsHead):
    """Categorical head (Bellemare et al. 2017): each action's return as probabilities of fixed atoms.

    A prediction's output is their logits, [B, A, K].
    """

    atoms: Tensor

    def __init__(self, spec: CategoricalHeadSpec, num_features: int) -> None:
        super().__init__(spec, num_features, spec.num_atoms)
        self.num_atoms, self.v_min, self.v_max = spec.num_atoms, spec.v_min, spec.v_max
        atoms = torch.linspace(spec.v_min, spec.v_max, spec.num_atoms)
        self.register_buffer("atoms", atoms, persistent=False)

    def shaped(self, output: Tensor) -> Tensor:
        """Reshape [B, A * K] to [B, A, K]."""
        return output.view(-1, output.shape[1] // self.num_atoms, self.num_atoms)

    def values(self, prediction: Prediction) -> Tensor:
        """Compute the expectation of each action's distribution, [B, A]."""
        return prediction.output.softmax(dim=2) @ self.atoms

    def target(self, r_t: Tensor, discount_t: Tensor, next_prediction: Prediction, policy_t: Tensor) -> Tensor:
        """Compute the policy's mixture of distributions, moved by the return and projected onto the atoms, [B, K]."""
        probabilities = (policy_t.unsqueeze(2) * next_prediction.output.softmax(dim=2)).sum(dim=1)  # [B, K]
        returns = r_t.unsqueeze(1) + discount_t.unsqueeze(1) * self.atoms  # [B, K]
        return losses.categorical_projection(returns, probabilities, self.v_min, self.v_max).detach()

    def figures(self, prediction: Prediction, target: Tensor) -> dict[str, Tensor]:
        """Compute ``max_q``, as all heads do, and the mean ``target``."""
        return {**super().figures(prediction, target), "target": (target @ self.atoms).mean()}

    def loss(self, prediction: Prediction, a_tm1: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the Kullback-Leibler divergence of the action's distribution from the target, also as priority."""
        log_probabilities = losses.chosen(prediction.output, a_tm1).log_softmax(dim=1)  # [B, K]
        loss = losses.kullback_leibler(target, log_probabilities)  # [B]
        return loss, loss.detach()


class QuantileHead(StreamsHead):
    """Quantile head (QR-DQN, Dabney et al. 2018): each action's return as quantiles at the midpoints of even fractions.

    A prediction's output is the quantiles, [B, A, N].
    """

    fractions: Tensor

    def __init__(self, spec: QuantileHeadSpec, num_features: int) -> None:
        super().__init__(spec, num_features, spec.num_quantiles)
        self.num_quantiles, self.huber_delta = spec.num_quantiles, spec.huber_delta
        self.register_buffer("fractions", midpoints(spec.num_quantiles), persistent=False)  # eq. 9

    def shaped(self, output: Tensor) -> Tensor:
        """Reshape [B, A * N] to [B, A, N]."""
        return output.view(-1, output.shape[1] // self.num_quantiles, self.num_quantiles)

    def values(self, prediction: Prediction) -> Tensor:
        """Compute the mean of each action's quantiles, [B, A]."""
        return prediction.output.mean(dim=2)

    def target(self, r_t: Tensor, discount_t: Tensor, next_prediction: Prediction, policy_t: Tensor) -> Tensor:
        """Compute the policy's mixture of quantiles at equal fractions, moved by the return, [B, N]."""
        return losses.quantile_target(r_t, discount_t, next_prediction.output, policy_t)

    def figures(self, prediction: Prediction, target: Tensor) -> dict[str, Tensor]:
        """Compute ``max_q``, as all heads do, and the mean ``target``."""
        return {**super().figures(prediction, target), "target": target.mean()}

    def loss(self, prediction: Prediction, a_tm1: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the quantile Huber loss of the action's quantiles, also as priority; [B] each."""
        fractions = self.fractions if prediction.draws is None else prediction.draws
        loss = losses.quantile_huber(losses.chosen(prediction.output, a_tm1), fractions, target, self.huber_delta)
        return loss, loss.detach()


class ImplicitQuantileHead(QuantileHead):
    """Implicit quantile head (IQN, Dabney et al. 2018): each action's return as quantiles at any fractions.

    A generator draws ``num_fractions`` for each row, uniform in [0, 1]; without one they are the midpoints of
    ``num_fixed_fractions`` equal parts. A prediction's output is the quantiles, [B, A, N], its draws the fractions,
    [B, N]. The hidden layers come after the product of features and a fraction's embedding (eq. 4).
    """

    multiples: Tensor

    def __init__(self, spec: ImplicitQuantileHeadSpec, num_features: int) -> None:
        StreamsHead.__init__(self, spec, num_features)
        self.is_random = True
        self.huber_delta = spec.huber_delta
        self.num_fractions = spec.num_fractions
        self.register_buffer("fractions", midpoints(spec.num_fixed_fractions), persistent=False)
        self.register_buffer("multiples", torch.arange(spec.num_cosines).float(), persistent=False)
        self.embedding = nn.Linear(spec.num_cosines, num_features)

    def shaped(self, output: Tensor) -> Tensor:
        """Transpose [B, N, A] to [B, A, N]."""
        return output.transpose(1, 2)

    def predict(self, features: Tensor, generator: torch.Generator | None) -> Prediction:
        """Compute the quantiles [B, A, N] at fractions [B, N], which are the prediction's draws."""
        return self._predict(features, generator, bfloat16=False)

    def mixed(self, features: Tensor, generator: torch.Generator | None) -> Prediction:
        """Compute `predict` with the large products of embedding and hidden layers in bfloat16."""
        return self._predict(features, generator, bfloat16=True)

    def _predict(self, features: Tensor, generator: torch.Generator | None, *, bfloat16: bool) -> Prediction:
        if generator is None:
            fractions = self.fractions.unsqueeze(0)  # [1, N]: embedded once for all rows
        else:
            size, like = (features.shape[0], self.num_fractions), self.multiples
            fractions = torch.rand(size, generator=generator, device=like.device, dtype=like.dtype)  # [B, N]
        cosines = torch.cos(math.pi * fractions.unsqueeze(2) * self.multiples)  # [., N, cosines]
        embedding = linear_product(cosines, self.embedding, bfloat16=bfloat16).relu()  # [., N, F]
        output = self.outputs(features.unsqueeze(1) * embedding, generator, bfloat16=bfloat16)  # [B, A, N]
        return Prediction(output, fractions.expand(features.shape[0], -1))


def midpoints(num_parts: int) -> Tensor:
    """Midpoints of equal parts of [0, 1], [num_parts] float32."""
    return (torch.arange(num_parts) + 0.5) / num_parts
