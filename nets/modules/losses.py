"""Losses and bootstrapped targets as pure functions: batch first, one value a sample, nothing averaged."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# -- labels ------------------------------------------------------------------------------------------------------------


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Softmax cross-entropy, exact at logits of any size; its gradient by a logit is probability minus one-hot label.

    ``label_smoothing`` is the share of a label that is spread evenly over all classes (Szegedy et al. 2016, sec. 7).
    logits: [B, K] float; labels: [B] int64 in [0, K). Returns [B] float, at least 0.
    """
    return functional.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)


def binary_cross_entropy(logit: Tensor, label: Tensor) -> Tensor:
    """Binary cross-entropy, ``-y log sigmoid(z) - (1 - y) log(1 - sigmoid(z))``, exact at logits of any size.

    Its gradient by a logit is probability minus label. logit: [B] float; label: [B] in [0, 1], of any dtype. Returns
    [B] float, at least 0. Any other shape will do as well, if both have it.
    """
    label = label.to(logit.dtype)
    return -(label * functional.logsigmoid(logit) + (1 - label) * functional.logsigmoid(-logit))


def logistic(logit: Tensor, sign: Tensor) -> Tensor:
    """Logistic loss, ``log(1 + exp(-sign z))``, exact at any logit: binary cross-entropy for labels of -1 and +1.

    logit: [B] float; sign: [B], -1 or +1, of any dtype. Returns [B] float, at least 0.
    """
    return -functional.logsigmoid(sign.to(logit.dtype) * logit)


def perceptron(logit: Tensor, sign: Tensor) -> Tensor:
    """Perceptron loss, ``max(0, -sign z)``; its gradient step is Rosenblatt's rule (1958): only errors change weights.

    A logit of 0 is an error too, with gradient ``-sign``; otherwise weights that start at 0 would stay there.
    logit: [B] float; sign: [B], -1 or +1, of any dtype. Returns [B] float, at least 0.
    """
    shortfall = -sign.to(logit.dtype) * logit
    return torch.where(shortfall >= 0, shortfall, torch.zeros_like(shortfall))


def one_vs_rest(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """One-vs-rest loss: the sum, over the classes, of the binary cross-entropy of that class against the rest.

    ``label_smoothing`` is the share of a label that is spread evenly over all classes, as in `cross_entropy`.
    logits: [B, K] float; labels: [B] int64 in [0, K). Returns [B] float, at least 0.
    """
    num_classes = logits.shape[1]
    target = functional.one_hot(labels, num_classes).to(logits.dtype)  # [B, K]
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / num_classes
    return binary_cross_entropy(logits, target).sum(dim=1)


# -- numbers -----------------------------------------------------------------------------------------------------------


def sum_of_squared_errors(output: Tensor, target: Tensor) -> Tensor:
    """Sum of squared errors of a sample's outputs. output, target: [B, K] float. Returns [B] float."""
    return torch.square(output - target).sum(dim=1)


# -- returns -----------------------------------------------------------------------------------------------------------


def huber(td_error: Tensor, delta: float) -> Tensor:
    """Huber loss: x^2 / 2 within ``delta`` of 0, ``delta (|x| - delta / 2)`` beyond (Huber 1964, eq. 4).

    Its gradient is the error clipped to [-delta, delta], which is Mnih et al. 2015's "error clipping".
    td_error: [B] float. Returns [B] float.
    """
    return functional.huber_loss(td_error, torch.zeros_like(td_error), reduction="none", delta=delta)


def bootstrapped_target(r_t: Tensor, discount_t: Tensor, q_t: Tensor, policy_t: Tensor) -> Tensor:
    """Bootstrapped target, ``r_t + discount_t sum_a policy_t(a) q_t(a)``: Q-learning's for a one-hot greedy policy.

    Greedy by the target network itself is Mnih et al. 2015; by the online network it is van Hasselt et al. 2016, eq. 4.
    r_t, discount_t: [B]; q_t, policy_t: [B, A] float. Returns [B] float, detached.
    """
    return (r_t + discount_t * (policy_t * q_t).sum(dim=1)).detach()


def dueling(value: Tensor, advantage: Tensor) -> Tensor:
    """Dueling sum, ``V + A - mean(A)``, so that the advantages' mean does not matter (Wang et al. 2016, eq. 9).

    value: [B, 1] float; advantage: [B, A] float. Returns [B, A] float. Of a distribution both have further axes, its
    atoms or quantiles, each of which is summed apart (Hessel et al. 2018, section 3).
    """
    return value + (advantage - advantage.mean(dim=1, keepdim=True))


def chosen(q: Tensor, action: Tensor) -> Tensor:
    """Select what belongs to each row's action. q: [B, A] or [B, A, K]; action: [B] int64. Returns [B] or [B, K]."""
    if q.dim() == 2:
        return q.gather(1, action.unsqueeze(1)).squeeze(1)
    return q.gather(1, action.view(-1, 1, 1).expand(-1, 1, q.shape[2])).squeeze(1)


def squared_error(td_error: Tensor) -> Tensor:
    """Half the squared error, whose gradient is the error itself. td_error: [B] float. Returns [B] float."""
    return 0.5 * torch.square(td_error)


# -- distributions of returns ------------------------------------------------------------------------------------------


def categorical_projection(values: Tensor, probabilities: Tensor, v_min: float, v_max: float) -> Tensor:
    """Project a distribution onto K even atoms from ``v_min`` to ``v_max`` (Bellemare et al. 2017, eq. 7).

    Each value's probability goes to the two atoms beside it, the nearer one getting more; a value beyond the ends goes
    to the end. values, probabilities: [B, K] float. Returns [B, K] float, detached, whose rows sum to what theirs do.
    """
    num_atoms = values.shape[1]
    place = ((values - v_min) * ((num_atoms - 1) / (v_max - v_min))).clamp(0, num_atoms - 1)  # [B, K], b of the paper
    atom = torch.arange(num_atoms, dtype=values.dtype, device=values.device).view(1, -1, 1)
    distance = (place.detach().unsqueeze(1) - atom).abs_()  # [B, K atoms, K values], in place: it is large
    share = distance.neg_().add_(1).clamp_(min=0)
    return torch.bmm(share, probabilities.detach().unsqueeze(2)).squeeze(2)


def kullback_leibler(target: Tensor, log_probabilities: Tensor) -> Tensor:
    """Kullback-Leibler divergence of a distribution from a target, ``sum_k m_k (log m_k - log p_k)``.

    Its gradient is that of the cross-entropy, which is larger by the target's entropy. target, log_probabilities:
    [B, K] float, rows of the target sum to 1. Returns [B] float, 0 where they are equal.
    """
    return functional.kl_div(log_probabilities, target, reduction="none").sum(dim=1)


def quantile_target(r_t: Tensor, discount_t: Tensor, quantiles_t: Tensor, policy_t: Tensor) -> Tensor:
    """Bootstrapped target of each quantile, ``r_t + discount_t sum_a policy_t(a) quantiles_t(a)``.

    r_t, discount_t: [B]; quantiles_t: [B, A, N]; policy_t: [B, A] float. Returns [B, N] float, detached.
    """
    mixed = (policy_t.unsqueeze(2) * quantiles_t).sum(dim=1)  # [B, N]
    return (r_t.unsqueeze(1) + discount_t.unsqueeze(1) * mixed).detach()


def quantile_huber(quantiles: Tensor, fractions: Tensor, target: Tensor, delta: float | None) -> Tensor:
    """Quantile Huber loss: summed over quantiles, averaged over samples of the target (Dabney et al. 2018, eq. 10).

    Errors below 0 count ``1 - fraction``, others ``fraction``. ``delta`` None is the quantile loss, linear everywhere;
    else the Huber loss is divided by delta, so that both agree far from 0 (IQN, Dabney et al. 2018, eq. 3).
    quantiles: [B, N] float; fractions: [N] or [B, N] in [0, 1]; target: [B, M] float. Returns [B] float.
    """
    shape = (*quantiles.shape, target.shape[1])
    own, other = quantiles.unsqueeze(2).expand(shape), target.unsqueeze(1).expand(shape)  # [B, N, M], without copies
    if delta is None:
        size, scale = functional.l1_loss(own, other, reduction="none"), 1.0
    else:
        size, scale = functional.huber_loss(own, other, reduction="none", delta=delta), delta
    fraction = fractions.unsqueeze(-1)
    weight = torch.where(other < own, 1 - fraction, fraction)  # [B, N, M]
    total: Tensor = torch.linalg.vecdot(weight.flatten(1), size.flatten(1))
    return total / (scale * target.shape[1])
