"""Gradient of a plain multi-layer perceptron's action values in closed form: backpropagation, written out.

Layer l has weights W_l [out, in] and biases b_l [out]. It maps x_{l-1} to z_l = x_{l-1} W_l' + b_l and x_l = f(z_l).
x_0 are the scaled observations; the last layer's f is the identity, and x_L = q are the action values. With B rows of
weights w, TD errors e and the loss h of an error, Huber's or half its square, the loss of a minibatch is

    L = 1/B sum_i w_i h(e_i),    e_i = target_i - q_i(a_i).

The chain rule gives its derivative by z_l, delta_l [B, out], from the last layer to the first (Rumelhart et al. 1986):

    delta_L[i, a] = -h'(e_i) w_i / B where a is a_i, else 0
    dL/dW_l = delta_l' x_{l-1},    dL/db_l = sum_i delta_l[i],    delta_{l-1} = delta_l W_l * f'(z_{l-1}).

Autograd computes the same products, from a graph that it builds for each minibatch and in memory that it allocates for
each. With layers of a few hundred units, that costs as much as the products.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from torso.agents.optim.devices import Precision
from torso.agents.optim.flat import FlatParameters
from torso.nets import Network, Prediction
from torso.nets.modules.torsos import LARGE_WEIGHTS, MLP
from torso.nets.modules.value_heads import ScalarHead
from torso.nets.specs.registry import State


def _gelu_derivative(z: Tensor, _x: Tensor) -> Tensor:
    cumulative: Tensor = torch.special.ndtr(z)
    return cumulative + z * torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)


class _Activation(NamedTuple):
    """An activation f: x = f(z), and f'(z) from z and x, all [B, out]; both may overwrite what they are given."""

    f: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor, Tensor], Tensor] | None  # None: 1 everywhere


_ACTIVATIONS: dict[type[nn.Module], _Activation] = {
    nn.Identity: _Activation(lambda z: z, None),
    nn.ReLU: _Activation(torch.relu_, lambda _z, x: x.sign_()),
    nn.LeakyReLU: _Activation(functional.leaky_relu_, lambda _z, x: x.sign_().clamp_(min=0.01)),
    nn.Tanh: _Activation(torch.tanh_, lambda _z, x: 1 - x * x),
    nn.Sigmoid: _Activation(torch.sigmoid_, lambda _z, x: (1 - x) * x),
    nn.GELU: _Activation(functional.gelu, _gelu_derivative),
}


def has_closed_form(network: Network) -> bool:
    """Whether a network is a plain multi-layer perceptron that values actions, all of which is learnt.

    That is fully connected layers and activations, and one scalar an action: no norms, dropout, noise or dueling.
    """
    return _plain_layers(network) is not None


def _plain_layers(network: Network) -> list[tuple[nn.Linear, nn.Module]] | None:
    """List the layers of a plain multi-layer perceptron, each with its activation; None for any other network."""
    torso, head = network.torso, network.head
    if type(torso) is not MLP or type(head) is not ScalarHead or head.dueling:
        return None
    modules = [*torso.dense.layers, head.linear, nn.Identity()]
    layers = list(zip(modules[::2], modules[1::2], strict=False))
    if not all(type(linear) is nn.Linear and type(activation) in _ACTIVATIONS for linear, activation in layers):
        return None
    learnt = [parameter for parameter in network.parameters() if parameter.requires_grad]
    parameters = [parameter for linear, _ in layers for parameter in (linear.weight, linear.bias)]
    return layers if list(map(id, learnt)) == list(map(id, parameters)) else None


class ClosedForm:
    """Loss and gradient of a network that `has_closed_form`; the gradient is written into its flat parameters'.

    In bfloat16 precision the products of large hidden layers are rounded where `Network.mixed` and autograd round them.
    """

    def __init__(self, network: Network, flat: FlatParameters, precision: Precision) -> None:
        head, layers = network.head, _plain_layers(network)
        if layers is None or not isinstance(head, ScalarHead):
            raise ValueError(f"the network must be a plain multi-layer perceptron, got {network.spec!r}")
        self._made_of = network, flat, precision
        self._scaling, self._huber_delta = network.scaling, head.huber_delta
        self._layers: list[_Layer] = []
        gradients = flat.share_gradients()
        for (linear, activation), *gradient in zip(layers, gradients[::2], gradients[1::2], strict=True):
            is_large = linear is not head.linear and linear.weight.numel() >= LARGE_WEIGHTS
            layer = _RoundedLayer if is_large and precision == "bfloat16" else _Layer
            self._layers.append(layer(linear, _ACTIVATIONS[type(activation)], *gradient))

    def __reduce__(self) -> tuple[type[ClosedForm], tuple[Network, FlatParameters, Precision]]:
        """Copy and pickle what this is made of; its tensors are views of the weights, and their copies would not be."""
        return ClosedForm, self._made_of

    @torch.no_grad()
    def __call__(self, obs: Tensor, action: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute a minibatch's loss, a scalar, and write its gradient.

        obs: [B, *shape] raw; action: [B] int64; target, weight: [B] float. Returns the loss, the TD errors [B] and the
        action values [B, A].
        """
        x = self._scaling(obs).flatten(1)  # [B, in]
        for layer in self._layers:
            x = layer.forward(x)
        q, action = x.clone(), action.unsqueeze(1)  # [B, A]; [B, 1]
        error = target - q.gather(1, action).squeeze(1)  # [B]
        limit = self._huber_delta
        slope = error if limit is None else error.clamp(-limit, limit)  # [B], h'(e)
        loss = torch.dot(slope * (error - slope / 2), weight) / len(q)  # of h(e) = h'(e) (e - h'(e) / 2)
        dx = torch.zeros_like(q).scatter_(1, action, (slope * weight / -len(q)).unsqueeze(1))  # [B, A]
        for index in reversed(range(len(self._layers))):
            dx = self._layers[index].backward(dx, is_first=index == 0)
        return loss, error, q

    def predict(
        self, obs: Tensor, state: State = (), generator: torch.Generator | None = None
    ) -> tuple[Prediction, State]:
        """Compute the network's forward without gradient, in the weights' own precision; arguments as `Network`'s."""
        x = self._scaling(obs).flatten(1)
        for layer in self._layers:
            x = layer.predict(x)
        return Prediction(x), state


class _Layer:
    """Fully connected layer with its activation, in memory that is allocated once for minibatches of a size."""

    def __init__(
        self, linear: nn.Linear, activation: _Activation, weight_gradient: Tensor, bias_gradient: Tensor
    ) -> None:
        self._weight = linear.weight.detach()  # [out, in], in the network's memory
        self._bias = linear.bias.detach()  # [out]
        self._weight_gradient, self._bias_gradient = weight_gradient, bias_gradient
        self._activation = activation
        self._allocate(1)

    def _allocate(self, num_rows: int) -> None:
        num_outputs, num_inputs = self._weight.shape
        self._z = self._bias.new_empty(num_rows, num_outputs)
        self._dx_below = self._bias.new_empty(num_rows, num_inputs)

    def forward(self, x_below: Tensor) -> Tensor:
        """Compute x_l [B, out] from x_{l-1} [B, in]."""
        if len(x_below) != len(self._z):
            self._allocate(len(x_below))
        self._x_below = x_below
        self._multiply()
        self._x = self._activation.f(self._z)
        return self._x

    def backward(self, dx: Tensor, *, is_first: bool) -> Tensor:
        """Write the gradients, and return dL/dx_{l-1} [B, in], undefined for the first layer.

        dx: dL/dx_l [B, out], which is overwritten.
        """
        delta = dx
        if self._activation.derivative is not None:
            delta *= self._activation.derivative(self._z, self._x)
        torch.sum(delta, dim=0, out=self._bias_gradient)
        self._multiply_back(delta, is_first=is_first)
        return self._dx_below

    def predict(self, x_below: Tensor) -> Tensor:
        """Compute x_l [B, out] from x_{l-1} [B, in] in the weights' own precision, into memory of its own."""
        return self._activation.f(torch.addmm(self._bias, x_below, self._weight.t()))

    def _multiply(self) -> None:
        torch.addmm(self._bias, self._x_below, self._weight.t(), out=self._z)

    def _multiply_back(self, delta: Tensor, *, is_first: bool) -> None:
        torch.mm(delta.t(), self._x_below, out=self._weight_gradient)
        if not is_first:
            torch.mm(delta, self._weight, out=self._dx_below)


class _RoundedLayer(_Layer):
    """Layer whose three products are in bfloat16: each factor is rounded, and each result."""

    def _allocate(self, num_rows: int) -> None:
        super()._allocate(num_rows)
        tensors = self._z, self._dx_below, self._weight
        self._outputs, self._inputs, self._weights = (torch.empty_like(each, dtype=torch.bfloat16) for each in tensors)
        self._deltas, self._products = torch.empty_like(self._outputs), torch.empty_like(self._weights)

    def _multiply(self) -> None:
        self._inputs.copy_(self._x_below)
        self._weights.copy_(self._weight)
        torch.mm(self._inputs, self._weights.t(), out=self._outputs)
        torch.add(self._outputs, self._bias, out=self._z)

    def _multiply_back(self, delta: Tensor, *, is_first: bool) -> None:
        self._deltas.copy_(delta)
        self._weight_gradient.copy_(torch.mm(self._deltas.t(), self._inputs, out=self._products))
        if not is_first:
            self._dx_below.copy_(torch.mm(self._deltas, self._weights, out=self._inputs))
