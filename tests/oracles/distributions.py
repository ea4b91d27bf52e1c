"""Oracles for distributional reinforcement learning, in NumPy and double precision: loops, as the papers write them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def softmax(x: Array) -> Array:
    """Softmax over the last axis."""
    odds = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=-1, keepdims=True))


def atoms(v_min: float, v_max: float, num_atoms: int) -> Array:
    """Atoms of a categorical distribution."""
    return np.array([v_min + i * (v_max - v_min) / (num_atoms - 1) for i in range(num_atoms)])


def categorical_algorithm(
    reward: float, discount: float, probabilities: Array, v_min: float, v_max: float
) -> list[float]:
    """Algorithm 1 of Bellemare et al. 2017: the target's probabilities for one transition."""
    num_atoms = len(probabilities)
    gap = (v_max - v_min) / (num_atoms - 1)
    m = [0.0] * num_atoms
    for j in range(num_atoms):
        moved = min(max(reward + discount * (v_min + j * gap), v_min), v_max)
        b = min(max((moved - v_min) / gap, 0.0), num_atoms - 1.0)
        lower, upper = math.floor(b), math.ceil(b)
        if lower == upper:  # which the paper's algorithm forgets
            m[lower] += probabilities[j]
        else:
            m[lower] += probabilities[j] * (upper - b)
            m[upper] += probabilities[j] * (b - lower)
    return m


def divergence_and_gradient(target: Sequence[float], logits: Array) -> tuple[float, Array]:
    """Kullback-Leibler divergence of the logits' softmax from a target, and its gradient by the logits."""
    p = softmax(logits)
    loss = sum(m * (math.log(m) - math.log(q)) for m, q in zip(target, p, strict=True) if m > 0)
    return loss, p - np.asarray(target)


def quantile_huber_and_gradient(
    quantiles: Array, fractions: Array, targets: Array, kappa: float | None
) -> tuple[float, Array]:
    """Quantile Huber loss of one transition (Dabney et al. 2018), and its gradient by the quantiles."""
    loss, gradient = 0.0, np.zeros(len(quantiles))
    for i, (theta, tau) in enumerate(zip(quantiles, fractions, strict=True)):
        for target in targets:
            u = target - theta
            weight = 1 - tau if u < 0 else tau
            if kappa is None:
                size, slope = abs(u), float(np.sign(u))
            elif abs(u) <= kappa:
                size, slope = u * u / 2 / kappa, u / kappa
            else:
                size, slope = abs(u) - kappa / 2, float(np.sign(u))
            loss += weight * size / len(targets)
            gradient[i] -= weight * slope / len(targets)
    return loss, gradient


def munchausen(
    rewards: Sequence[float],
    gamma: float,
    ended: bool,
    q_tm1: Array,
    a_tm1: int,
    q_t: Array,
    outcomes_t: Array,
    *,
    alpha: float,
    tau: float,
    clip: float,
) -> tuple[float, Array, Array]:
    """Munchausen's target of one transition of n steps: reward with its bonuses, discount times policy, outcomes.

    outcomes_t: [A, N], such as each action's quantiles, so that the target is ``reward + weights @ outcomes``.
    Returns (reward, weights [A], target [N]).
    """

    def log_policy(q: Array) -> Array:
        scaled = [value / tau for value in q]
        most = max(scaled)
        total = most + math.log(sum(math.exp(value - most) for value in scaled))
        return np.array([value - total for value in scaled])

    reward = sum(gamma**k * each for k, each in enumerate(rewards))
    reward += alpha * min(max(tau * log_policy(q_tm1)[a_tm1], clip), 0.0)
    log_pi = log_policy(q_t)
    discount = 0.0 if ended else gamma ** len(rewards)
    weights = np.array([discount * math.exp(each) for each in log_pi])
    reward -= sum(weight * tau * each for weight, each in zip(weights, log_pi, strict=True))
    return reward, weights, reward + weights @ outcomes_t


def noisy_layer(
    x: Array, weight: Array, weight_std: Array, bias: Array, bias_std: Array, noise_in: Array, noise_out: Array
) -> Array:
    """Noisy layer of one row by eq. 9 to 11 of Fortunato et al. 2018. noise_in [p], noise_out [q]: standard normal."""

    def f(value: float) -> float:
        return math.copysign(math.sqrt(abs(value)), value)

    y = np.zeros(len(bias))
    for j in range(len(bias)):
        y[j] = bias[j] + bias_std[j] * f(noise_out[j])
        for i in range(len(x)):
            y[j] += (weight[j, i] + weight_std[j, i] * f(noise_in[i]) * f(noise_out[j])) * x[i]
    return y


def implicit_quantiles(features: Array, fraction: float, w: Mapping[str, Any], num_cosines: int) -> Array:
    """Quantile of each action at one fraction, for one row's features: eq. 4 of Dabney et al. 2018 (IQN).

    w: weights by name, of an embedding, of hidden layers with relu, and of one output layer.
    """
    cosines = np.array([math.cos(math.pi * i * fraction) for i in range(num_cosines)])
    x = features * np.maximum(w["embedding.weight"] @ cosines + w["embedding.bias"], 0)
    hidden = sorted({name.rpartition(".")[0] for name in w if name.startswith("dense.")})
    for layer in hidden:
        x = np.maximum(w[f"{layer}.weight"] @ x + w[f"{layer}.bias"], 0)
    return np.asarray(w["linear.weight"] @ x + w["linear.bias"])
