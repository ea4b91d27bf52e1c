"""Noisy layers: noise by hand and by an oracle, one draw a call, none without a generator, learnt deviations."""

from __future__ import annotations

import distributions as oracle
import pytest
import torch

from torso.nets import (
    CategoricalHeadSpec,
    ImplicitQuantileHeadSpec,
    InputSpec,
    MLPSpec,
    NetworkSpec,
    QuantileHeadSpec,
    ScalarHeadSpec,
    build_network,
    initialise,
)
from torso.nets.modules.noisy import NoisyLinear
from torso.nets.modules.torsos import LARGE_WEIGHTS, round_large_weights


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_first_weights_are_the_papers() -> None:
    torch.manual_seed(0)
    layer = NoisyLinear(100, 50, std=0.5)
    bound = 1 / 100**0.5
    for mean in (layer.weight, layer.bias):
        assert mean.abs().max() <= bound
        assert mean.abs().max() > 0.9 * bound
    for std in (layer.weight_std, layer.bias_std):
        assert torch.equal(std, torch.full_like(std, 0.05))


def test_a_noisy_layer_by_hand() -> None:
    layer = NoisyLinear(1, 1, std=1.0).double()
    with torch.no_grad():
        for value, parameter in zip(
            (2.0, 1.0, 0.5, 0.25), (layer.weight, layer.bias, layer.weight_std, layer.bias_std), strict=True
        ):
            parameter.fill_(value)
    noise = torch.randn(2, dtype=torch.float64, generator=seeded(3))
    f_in, f_out = (each.sign() * each.abs().sqrt() for each in noise)
    x = torch.tensor([[3.0], [-1.0]], dtype=torch.float64)
    expected = (2.0 + 0.5 * f_in * f_out) * x + 1.0 + 0.25 * f_out
    torch.testing.assert_close(layer(x, seeded(3)), expected)
    torch.testing.assert_close(layer(x), 2.0 * x + 1.0)


def test_values_and_gradients_agree_with_an_oracle() -> None:
    layer = NoisyLinear(5, 3, std=0.5).double()
    with torch.no_grad():
        for index, parameter in enumerate(layer.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=seeded(index)))
    x = torch.randn(4, 5, dtype=torch.float64, generator=seeded(9), requires_grad=True)
    noise = torch.randn(8, dtype=torch.float64, generator=seeded(7)).numpy()
    weights = [each.detach().numpy() for each in (layer.weight, layer.weight_std, layer.bias, layer.bias_std)]
    got = layer(x, seeded(7))
    for row, y in zip(x.detach().numpy(), got, strict=True):
        expected = oracle.noisy_layer(row, *weights, noise[:5], noise[5:])
        torch.testing.assert_close(y, torch.tensor(expected), rtol=1e-12, atol=1e-12)

    names = [name for name, _ in layer.named_parameters()]

    def call(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x, seeded(7)))

    assert torch.autograd.gradcheck(call, (x, *(p.detach().requires_grad_() for p in layer.parameters())))


def test_noise_is_one_draw_a_call_with_mean_0() -> None:
    layer = NoisyLinear(6, 4, std=0.5).double()
    rows = torch.ones(3, 6, dtype=torch.float64)
    generator = seeded(0)
    drawn = torch.stack([layer(rows, generator) for _ in range(4_000)])
    assert torch.equal(drawn[:, 0], drawn[:, 1])
    assert not torch.equal(drawn[0], drawn[1])
    torch.testing.assert_close(drawn.mean(dim=0), layer(rows), rtol=0, atol=0.05)


@pytest.mark.parametrize("spec", [ScalarHeadSpec, CategoricalHeadSpec, QuantileHeadSpec, ImplicitQuantileHeadSpec])
@pytest.mark.parametrize("dueling", [False, True])
def test_every_layer_of_a_noisy_head_is_noisy_but_the_embedding(spec: type, dueling: bool) -> None:
    head = spec(num_actions=3, noisy=True, noisy_std=0.25, dueling=dueling, hidden=(5,))
    network = build_network(NetworkSpec(input=InputSpec(shape=(2,)), torso=MLPSpec(hidden=(4,)), head=head), seeded())
    linear = {name: each for name, each in network.head.named_modules() if isinstance(each, torch.nn.Linear)}
    noisy = {name for name, each in linear.items() if isinstance(each, NoisyLinear)}
    assert set(linear) - noisy == ({"embedding"} if spec is ImplicitQuantileHeadSpec else set())
    assert len(noisy) == (4 if dueling else 2)
    assert network.head.is_random
    for name in noisy:
        assert linear[name].weight_std.flatten()[0].item() == pytest.approx(0.25 / linear[name].in_features ** 0.5)
    obs = torch.randn(3, 2, generator=seeded(1))
    generator = seeded(2)
    first, second = (network(obs, (), generator)[0].output for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(network(obs)[0].output, network(obs)[0].output)
    assert torch.equal(network(obs, (), seeded(2))[0].output, first)


def test_initialisations_leave_deviations_as_they_are() -> None:
    head = ScalarHeadSpec(num_actions=3, noisy=True, hidden=(4,))
    spec = NetworkSpec(input=InputSpec(shape=(2,)), torso=MLPSpec(hidden=(4,)), head=head)
    for method in ("normal", "xavier", "he", "orthogonal"):
        network = build_network(spec, seeded())
        initialise(network, method, seeded(1))  # type: ignore[arg-type]
        assert torch.equal(network.head.linear.weight_std, torch.full((3, 4), 0.25))
        assert torch.equal(network.head.linear.bias_std, torch.full((3,), 0.25))
        assert not network.head.linear.bias.any()


def test_a_target_networks_noise_is_added_before_rounding() -> None:
    head = ScalarHeadSpec(num_actions=2, noisy=True, hidden=(256,))
    spec = NetworkSpec(input=InputSpec(shape=(2,)), torso=MLPSpec(hidden=(LARGE_WEIGHTS // 256,)), head=head)
    network = build_network(spec, seeded())
    obs = torch.randn(8, 2, generator=seeded(1))
    before = network.mixed(obs, (), seeded(2))[0].output
    round_large_weights(network)
    assert torch.equal(network.mixed(obs, (), seeded(2))[0].output, before)
