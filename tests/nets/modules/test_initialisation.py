"""Weight initialisation: the distribution that each method draws from, and its generator."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torso.errors import ConfigError
from torso.nets import (
    INITS,
    ConvLayerSpec,
    ConvNetSpec,
    InputSpec,
    LogitsHeadSpec,
    MLPSpec,
    Network,
    NetworkSpec,
    build_network,
    initialise,
    net_spec,
)

IMAGE = InputSpec(shape=(3, 16, 16), layout="chw")
CONVS = ConvNetSpec(
    convs=(ConvLayerSpec(channels=64, kernel=3, padding=1), ConvLayerSpec(channels=32, kernel=5, pool="max")),
    hidden=(200,),
    layer_norm=True,
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(init: Any, seed: int = 0, torso: Any = CONVS) -> Network:
    spec = NetworkSpec(input=IMAGE, torso=torso, head=LogitsHeadSpec(num_classes=10))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of zeros
        return build_network(spec, seeded(seed), init)


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in network.named_parameters() if p.dim() > 1}


def fans(weight: Tensor) -> tuple[int, int]:
    field = math.prod(weight.shape[2:])
    return weight.shape[1] * field, weight.shape[0] * field


def test_every_layer_is_drawn_by_its_fans() -> None:
    assert len(weights(build("he"))) == 4
    for name, weight in weights(build("he")).items():
        fan_in, _ = fans(weight)
        assert float(weight.std()) == pytest.approx(math.sqrt(2 / fan_in), rel=5 / math.sqrt(weight.numel())), name
        assert abs(float(weight.mean())) < 5 * math.sqrt(2 / fan_in / weight.numel())
        assert float(weight.abs().max()) > 2 * math.sqrt(2 / fan_in)  # normal, not uniform
    for name, weight in weights(build("xavier")).items():
        bound = math.sqrt(6 / sum(fans(weight)))
        assert float(weight.abs().max()) <= bound, name
        assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=5 / math.sqrt(weight.numel()))
    for name, weight in weights(build("normal")).items():
        assert float(weight.std()) == pytest.approx(0.01, rel=5 / math.sqrt(weight.numel())), name


def test_orthogonal_weights_keep_lengths() -> None:
    for name, weight in weights(build("orthogonal")).items():
        matrix = weight.flatten(1).double().numpy()  # [out, in]
        product = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
        np.testing.assert_allclose(product, np.eye(len(product)), atol=1e-5, err_msg=name)


@pytest.mark.parametrize("init", [init for init in INITS if init != "default"])
def test_biases_begin_at_0_and_norms_are_left(init: str) -> None:
    for torso in (CONVS, replace(CONVS, layer_norm_kind="elements"), net_spec("vgg", IMAGE)):
        network, untouched = build(init, torso=torso), build("default", torso=torso).state_dict()
        for name, tensor in network.state_dict().items():
            module = network.get_submodule(name.rpartition(".")[0])
            if not isinstance(module, (nn.Linear, nn.Conv2d)):
                assert torch.equal(tensor, untouched[name]), name
            elif name.endswith("bias"):
                assert not tensor.any(), name


@pytest.mark.parametrize("init", INITS)
def test_the_generator_draws_and_no_other(init: str) -> None:
    before = torch.get_rng_state()
    one, again, other = (weights(build(init, seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    for name, weight in one.items():
        assert torch.equal(weight, again[name])
        assert torch.equal(weight, other[name]) == (init == "zeros")


def test_the_default_is_the_network_as_it_was() -> None:
    spec = NetworkSpec(input=IMAGE, torso=CONVS, head=LogitsHeadSpec(num_classes=10))
    one, other = build_network(spec, seeded(3)).state_dict(), build("default", 3).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    network = build("default", 3)
    initialise(network, "default", seeded(0))
    assert all(torch.equal(one[name], value) for name, value in network.state_dict().items())


def test_zeros_are_all_zeros_and_never_break_symmetry() -> None:
    spec = NetworkSpec(input=InputSpec(shape=(4,)), torso=MLPSpec(hidden=(5,)), head=LogitsHeadSpec(num_classes=3))
    with pytest.warns(UserWarning, match=r"symmetry is never broken; use init='xavier' or 'he'"):
        network = build_network(spec, seeded(0), "zeros")
    assert not any(weight.any() for weight in weights(network).values())
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    obs, labels = torch.randn(64, 4, generator=seeded(1)), torch.randint(3, (64,), generator=seeded(2))
    for _ in range(20):
        prediction, _ = network(obs)
        optimizer.zero_grad()
        network.head.loss(prediction, labels).mean().backward()  # type: ignore[operator]
        optimizer.step()
    units = network.torso.dense.layers[0].weight
    assert torch.equal(units, units[:1].expand_as(units))


@pytest.mark.filterwarnings("error")
def test_zeros_are_a_good_start_for_one_layer() -> None:
    linear = NetworkSpec(input=InputSpec(shape=(4,)), torso=MLPSpec(hidden=()), head=LogitsHeadSpec(num_classes=3))
    assert not any(parameter.any() for parameter in build_network(linear, seeded(0), "zeros").parameters())


def test_layers_of_ones_own_are_initialised_too() -> None:
    module = nn.Sequential(nn.LSTM(4, 8), nn.LayerNorm((2, 8)), nn.Embedding(3, 4))
    with torch.no_grad():
        module[1].weight.fill_(0.5)
    initialise(module, "xavier", seeded(0))
    lstm, norm, embedding = module
    assert not lstm.bias_ih_l0.any()
    assert float(lstm.weight_hh_l0.detach().abs().max()) <= math.sqrt(6 / (32 + 8))
    assert (norm.weight == 0.5).all()
    assert float(embedding.weight.detach().abs().max()) <= math.sqrt(6 / 7)


@pytest.mark.parametrize("init", ["glorot", "", None])
def test_an_unknown_method_is_refused_with_the_known_ones(init: Any) -> None:
    with pytest.raises(ConfigError, match="init must be one of default, zeros, normal, xavier, he, orthogonal; got"):
        build(init)
