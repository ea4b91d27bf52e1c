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
    The sum over pairs is taken without them: between the places of ``quantile - delta``, ``quantile`` and ``quantile +
    delta`` among the sorted samples it is a polynomial of the quantile, whose coefficients are running sums of the
    samples. That is N log M work instead of N times M, in float64, where such differences lose nothing.
    quantiles: [B, N] float; fractions: [N] or [B, N] in [0, 1]; target: [B, M] float. Returns [B] float.
    """
    quantile, order = quantiles.double().sort(dim=1)  # in order, places are found several times faster
    with torch.no_grad():
        over = fractions.double().expand(quantiles.shape).gather(1, order)  # weight of samples above a quantile
        samples = target.double().sort(dim=1).values
        centre = samples.mean(dim=1, keepdim=True)  # small numbers have small squares
        samples, at = samples - centre, quantile - centre
        if delta is None:
            constant, linear = _quantile_polynomial(samples, at, 1 - over, over)
            quadratic = torch.zeros_like(at)
        else:
            constant, linear, quadratic = _quantile_huber_polynomial(samples, at, 1 - over, over, delta)
    x = quantile - centre
    total = ((quadratic * x + linear) * x + constant).sum(dim=1).clamp(min=0)  # rounding can leave less than nothing
    return total.div(target.shape[1]).to(quantiles.dtype)


def _quantile_polynomial(samples: Tensor, at: Tensor, under: Tensor, over: Tensor) -> tuple[Tensor, Tensor]:
    """Constant and linear coefficient of the quantile loss around ``at`` [B, N]; samples [B, M] ascend."""
    sums = _running_sums(samples)
    n_below, n_up_to = torch.searchsorted(samples, at), torch.searchsorted(samples, at, right=True)
    s_below, s_above = sums.gather(1, n_below), sums[:, -1:] - sums.gather(1, n_up_to)
    n_above = samples.shape[1] - n_up_to
    return over * s_above - under * s_below, under * n_below - over * n_above


def _quantile_huber_polynomial(
    samples: Tensor, at: Tensor, under: Tensor, over: Tensor, delta: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Constant, linear and quadratic coefficient of the quantile Huber loss around ``at`` [B, N]; samples ascend."""
    sums, squares = _running_sums(samples), _running_sums(samples.square())
    places = torch.searchsorted(samples, torch.cat([at - delta, at, at + delta], dim=1))  # samples below each
    n_far, n_under, n_near = places.double().chunk(3, dim=1)  # [B, N]: samples below each of the three places,
    s_far, s_under, s_near = sums.gather(1, places).chunk(3, dim=1)  # their sum,
    q_far, q_under, q_near = squares.gather(1, places).chunk(3, dim=1)  # and that of their squares
    n_beyond, s_beyond = samples.shape[1] - n_near, sums[:, -1:] - s_near
    quadratic = under * (n_under - n_far) + over * (n_near - n_under)
    linear = under * (s_under - s_far) + over * (s_near - s_under)
    constant = under * (q_under - q_far) + over * (q_near - q_under)
    far = under * n_far - over * n_beyond, over * s_beyond - under * s_far  # linear parts: their slope and constant
    constant = 0.5 * constant / delta + far[1] - 0.5 * delta * (under * n_far + over * n_beyond)
    return constant, far[0] - linear / delta, 0.5 * quadratic / delta


def _running_sums(values: Tensor) -> Tensor:
    """Sums of the first 0 to M values of each row, [B, M + 1]."""
    return functional.pad(values.cumsum(dim=1), (1, 0))
