"""Oracle for a network's forward in NumPy, float64, written from the definitions and not from torso's code."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0.0),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "gelu": lambda x: x * 0.5 * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "identity": lambda x: x,
}


def dense(x: Array, weight: Array, bias: Array | float = 0.0) -> Array:
    """Fully connected layer. x: [B, I]; weight: [O, I]; bias: [O]. Returns [B, O]."""
    return np.einsum("bi,oi->bo", x, weight) + bias


def layer_norm(x: Array, gain: Array, bias: Array, eps: float = 1e-5) -> Array:
    """Normalise each row to mean 0 and (biased) variance 1 (Ba et al. 2016). x: [B, F]."""
    centred = x - x.mean(axis=1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + eps) * gain + bias


def batch_norm(x: Array, mean: Array, variance: Array, gain: Array, bias: Array, eps: float = 1e-5) -> Array:
    """Normalise each channel by statistics of its own (Ioffe & Szegedy 2015). x: [B, C, ...]; the rest: [C]."""
    mean, variance, gain, bias = (a.reshape(-1, *[1] * (x.ndim - 2)) for a in (mean, variance, gain, bias))
    return (x - mean) / np.sqrt(variance + eps) * gain + bias


def convolve(x: Array, weight: Array, bias: Array | float, stride: int, padding: int) -> Array:
    """Convolution. x: [B, C, H, W]; weight: [O, C, k, k]; bias: [O]. Returns [B, O, h, w]."""
    kernel = weight.shape[2]
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    height, width = ((side - kernel) // stride + 1 for side in x.shape[2:])
    out = np.empty((len(x), len(weight), height, width))
    for row in range(height):
        for column in range(width):
            top, left = row * stride, column * stride
            patch = x[:, :, top : top + kernel, left : left + kernel]
            out[:, :, row, column] = np.einsum("bcij,ocij->bo", patch, weight) + bias
    return out


def pool(x: Array, kind: str, size: int) -> Array:
    """Pool squares without overlap; what is left over at the edge is dropped. x: [B, C, H, W]."""
    height, width = x.shape[2] // size, x.shape[3] // size
    squares = x[:, :, : height * size, : width * size].reshape(*x.shape[:2], height, size, width, size)
    return squares.max(axis=(3, 5)) if kind == "max" else squares.mean(axis=(3, 5))
