"""Oracle for forward and backward of a sigmoid MLP, layer by layer in NumPy, float64, by the chain rule alone.

Nothing here uses torso or automatic differentiation. A layer holds ``weight`` [O, I] and ``bias`` [O]; the first layer
takes x_i, hidden layers give h_j = sigmoid(sum_i theta_ij x_i + bias_j), and the last gives logits z.

The formulas, for one example:

- a layer's sigmoid has the slope dh/da = h (1 - h);
- one sigmoid output, y^ = sigmoid(sum_j h_j theta_j) with LL = y log y^ + (1 - y) log(1 - y^):
  dLL/dtheta_j = (y / y^ - (1 - y) / (1 - y^)) y^ (1 - y^) h_j
  dLL/dtheta_ij = (y / y^ - (1 - y) / (1 - y^)) y^ (1 - y^) theta_j h_j (1 - h_j) x_i
- softmax with cross-entropy E: dE/dz_k = y^_k - y_k (Rumelhart et al. 1986 gave the rest).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]


class Layer(NamedTuple):
    """Parameters of a layer, or their gradients. weight: [O, I]; bias: [O]."""

    weight: Array
    bias: Array


def sigmoid(a: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-a))


def softmax(z: Array) -> Array:
    odds = np.exp(z - z.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def forward(layers: list[Layer], x: Array) -> tuple[list[Array], Array]:
    """Forward pass. x: [B, I]. Returns each layer's input, and the logits, [B, O]."""
    taken = [x]
    for layer in layers[:-1]:
        taken.append(sigmoid(taken[-1] @ layer.weight.T + layer.bias))
    return taken, taken[-1] @ layers[-1].weight.T + layers[-1].bias


def backward(layers: list[Layer], taken: list[Array], slope: Array) -> list[Layer]:
    """Compute gradients of a loss, summed over the batch, given its slope by the logits, [B, O]."""
    gradients = []
    for index in reversed(range(len(layers))):
        gradients.append(Layer(slope.T @ taken[index], slope.sum(axis=0)))
        if index:
            h = taken[index]
            slope = (slope @ layers[index].weight) * h * (1 - h)  # by what entered the sigmoid below
    return gradients[::-1]


def binary(layers: list[Layer], x: Array, y: Array) -> tuple[Array, list[Layer]]:
    """Binary cross-entropy of one sigmoid output. y: [B], 0 or 1. Returns -LL, [B], and the gradients of its sum."""
    taken, z = forward(layers, x)
    y_hat = sigmoid(z[:, 0])  # [B]
    log_likelihood = y * np.log(y_hat) + (1 - y) * np.log(1 - y_hat)
    slope = (y / y_hat - (1 - y) / (1 - y_hat)) * y_hat * (1 - y_hat)  # dLL/dz
    return -log_likelihood, backward(layers, taken, -slope[:, np.newaxis])


def categorical(layers: list[Layer], x: Array, y: Array) -> tuple[Array, list[Layer]]:
    """Cross-entropy of softmax outputs. y: [B], the class. Returns the losses, [B], and the gradients of its sum."""
    taken, z = forward(layers, x)
    y_hat, one_hot = softmax(z), np.eye(z.shape[1])[y]
    return -np.log((y_hat * one_hot).sum(axis=1)), backward(layers, taken, y_hat - one_hot)


def one_hidden_layer(theta_ij: Array, theta_j: Array, x: Array, y: float) -> tuple[Array, Array]:
    """The two formulas for one example, no biases, index by index: dLL/dtheta_ij [I, J] and dLL/dtheta_j [J]."""
    num_inputs, num_hidden = theta_ij.shape
    h = [sigmoid(sum(theta_ij[i, j] * x[i] for i in range(num_inputs))) for j in range(num_hidden)]
    y_hat = sigmoid(sum(h[j] * theta_j[j] for j in range(num_hidden)))
    first = y / y_hat - (1 - y) / (1 - y_hat)
    by_output, by_hidden = np.zeros(num_hidden), np.zeros((num_inputs, num_hidden))
    for j in range(num_hidden):
        by_output[j] = first * y_hat * (1 - y_hat) * h[j]
        for i in range(num_inputs):
            by_hidden[i, j] = first * y_hat * (1 - y_hat) * theta_j[j] * h[j] * (1 - h[j]) * x[i]
    return by_hidden, by_output
