"""torso's gradients against backpropagation by hand: ``tests/oracles/sigmoid_mlp.py``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sigmoid_mlp import Layer, binary, categorical, one_hidden_layer
from torch import nn

from torso.nets import (
    InputSpec,
    LogitsHeadSpec,
    MLPSpec,
    Network,
    NetworkSpec,
    SigmoidHeadSpec,
    build_network,
)

Array = np.ndarray[Any, Any]

NUM_INPUTS = 5
DEPTHS = [(), (4,), (6, 3), (5, 4, 3, 3, 4)]


def network_of(hidden: tuple[int, ...], head: Any, seed: int = 0) -> Network:
    spec = NetworkSpec(
        input=InputSpec(shape=(NUM_INPUTS,)), torso=MLPSpec(hidden=hidden, activation="sigmoid"), head=head
    )
    network = build_network(spec, torch.Generator().manual_seed(seed)).double().train()
    generator = torch.Generator().manual_seed(seed + 1)
    for parameter in network.parameters():  # larger than first weights, so that every sigmoid bends
        nn.init.normal_(parameter, generator=generator)
    return network


def linears(network: Network) -> list[nn.Linear]:
    return [module for module in network.modules() if isinstance(module, nn.Linear)]


def layers_of(network: Network) -> list[Layer]:
    return [Layer(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in linears(network)]


def loss_and_gradients(network: Network, x: Array, y: Array) -> tuple[Array, list[Layer]]:
    prediction, _ = network(torch.from_numpy(x))
    loss = network.head.loss(prediction, torch.from_numpy(y))
    loss.sum().backward()
    gradients = []
    for layer in linears(network):
        assert layer.weight.grad is not None
        assert layer.bias.grad is not None
        gradients.append(Layer(layer.weight.grad.numpy(), layer.bias.grad.numpy()))
    return loss.detach().numpy(), gradients


def examples(num_classes: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(20, NUM_INPUTS)), rng.integers(num_classes, size=20)


def equal(got: list[Layer], expected: list[Layer]) -> None:
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert np.abs(other.weight).max() > 1e-3, "gradients of 0 would prove nothing"
        np.testing.assert_allclose(one.weight, other.weight, rtol=0, atol=1e-10)
        np.testing.assert_allclose(one.bias, other.bias, rtol=0, atol=1e-10)


@pytest.mark.parametrize("hidden", DEPTHS)
@pytest.mark.parametrize("loss", ["cross-entropy", "logistic"])
def test_one_sigmoid_output(hidden: tuple[int, ...], loss: Any) -> None:
    network = network_of(hidden, SigmoidHeadSpec(loss=loss))
    x, y = examples(2)
    got, gradients = loss_and_gradients(network, x, y)
    expected, by_hand = binary(layers_of(network), x, y)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10)
    equal(gradients, by_hand)


@pytest.mark.parametrize("hidden", DEPTHS)
def test_softmax_with_cross_entropy(hidden: tuple[int, ...]) -> None:
    network = network_of(hidden, LogitsHeadSpec(num_classes=4))
    x, y = examples(4)
    got, gradients = loss_and_gradients(network, x, y)
    expected, by_hand = categorical(layers_of(network), x, y)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10)
    equal(gradients, by_hand)


@pytest.mark.parametrize("y", [0, 1])
def test_one_hidden_layer_and_one_example_index_by_index(y: int) -> None:
    network = network_of((4,), SigmoidHeadSpec())
    hidden, output = linears(network)
    for layer in (hidden, output):
        nn.init.zeros_(layer.bias)  # which the formulas leave out
    theta_ij, theta_j = hidden.weight.detach().numpy().T.copy(), output.weight.detach().numpy()[0].copy()
    x = np.random.default_rng(1).normal(size=NUM_INPUTS)
    _, gradients = loss_and_gradients(network, x[np.newaxis], np.array([y]))
    by_hidden, by_output = one_hidden_layer(theta_ij, theta_j, x, y)
    np.testing.assert_allclose(-gradients[0].weight.T, by_hidden, rtol=0, atol=1e-10)  # the loss is -LL
    np.testing.assert_allclose(-gradients[1].weight[0], by_output, rtol=0, atol=1e-10)
    assert np.abs(by_hidden).max() > 1e-3


def test_the_oracle_is_the_slope_of_its_own_loss() -> None:
    layers = layers_of(network_of((4, 3), LogitsHeadSpec(num_classes=3)))
    x, y = examples(3)
    _, gradients = categorical(layers, x, y)
    step = 1e-6
    for layer, gradient in zip(layers, gradients, strict=True):
        for array, slope in zip(layer, gradient, strict=True):
            for index in np.ndindex(array.shape):
                kept = array[index]
                array[index] = kept + step
                above, _ = categorical(layers, x, y)
                array[index] = kept - step
                below, _ = categorical(layers, x, y)
                array[index] = kept
                assert (above.sum() - below.sum()) / (2 * step) == pytest.approx(slope[index], abs=1e-6)
