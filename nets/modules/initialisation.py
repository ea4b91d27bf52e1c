"""Weight initialisation: default, zeros, normal, Xavier, He, orthogonal."""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import Tensor, nn

from torso.checks import choice
from torso.nets.modules.layers import NORMS
from torso.nets.modules.noisy import NoisyLinear

Init = Literal["default", "zeros", "normal", "xavier", "he", "orthogonal"]
INITS = ("default", "zeros", "normal", "xavier", "he", "orthogonal")

_NORMAL_STD = 0.01  # Krizhevsky et al. 2012


def initialise(network: nn.Module, method: Init, generator: torch.Generator | None = None) -> None:
    """Initialise a network's weights in place, and its biases to 0.

    default leaves the network as it is (PyTorch's own: uniform within 1 / sqrt(fan in)). zeros: with hidden layers it
    is a demonstration, since units that start equal stay equal. normal: deviation 0.01. xavier: uniform, Glorot &
    Bengio 2010, eq. 16. he: normal, He et al. 2015, eq. 10, for relu; flax's has the same variance and no values beyond
    two deviations. orthogonal: Saxe et al. 2014, with a gain of 1.
    A weight is a parameter of two or more axes; norms keep their gain of 1 and bias of 0, noisy layers the deviations
    of their noise. ``generator`` draws, on the network's device; None is PyTorch's global one.

    Raises:
        ConfigError: an unknown method.

    Warns:
        UserWarning: zeros for a network with hidden layers.
    """
    choice("init", method, INITS)
    if method == "default":
        return
    layers = [module for module in network.modules() if not isinstance(module, NORMS) and _weights(module)]
    if method == "zeros" and len(layers) > 1:
        warnings.warn(
            "weights that all begin at 0 give the units of a hidden layer the same gradient, so that they stay alike "
            "whatever they learn: symmetry is never broken; use init='xavier' or 'he'",
            UserWarning,
            stacklevel=2,
        )
    with torch.no_grad():
        for layer in layers:
            for weight in _weights(layer):
                _fill(weight, method, generator)
            for name, parameter in _parameters(layer):
                if name.startswith("bias"):
                    parameter.zero_()


def _weights(module: nn.Module) -> list[Tensor]:
    return [parameter for _, parameter in _parameters(module) if parameter.dim() > 1]


def _parameters(module: nn.Module) -> list[tuple[str, Tensor]]:
    """List a module's own parameters by name, without the deviations of a noisy layer."""
    stds = module.stds if isinstance(module, NoisyLinear) else frozenset()
    return [(name, each) for name, each in module.named_parameters(recurse=False) if name not in stds]


def _fill(weight: Tensor, method: Init, generator: torch.Generator | None) -> None:
    if method == "zeros":
        weight.zero_()
    elif method == "normal":
        nn.init.normal_(weight, std=_NORMAL_STD, generator=generator)
    elif method == "xavier":
        nn.init.xavier_uniform_(weight, generator=generator)
    elif method == "he":
        nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
    else:
        nn.init.orthogonal_(weight, generator=generator)
