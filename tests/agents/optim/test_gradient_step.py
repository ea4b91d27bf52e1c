"""Gradient step: arithmetic against equations, settings against their documentation."""

from __future__ import annotations

import copy
import math
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from torso.agents.optim.devices import resolve_precision
from torso.agents.optim.flat import FlatParameters
from torso.agents.optim.gradient_step import GradientStep, select_forward
from torso.agents.optim.optimizers import OPTIMIZERS, make_optimizer, take_step
from torso.agents.optim.schedules import SCHEDULES, scheduled_learning_rate
from torso.errors import ConfigError
from torso.nets import InputSpec, MLPSpec, NetworkSpec, ScalarHeadSpec, build_network
from torso.nets.modules.devices import resolve_device

CPU = torch.device("cpu")


def linear(weights: list[float]) -> nn.Linear:
    layer = nn.Linear(len(weights), 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([weights]))
    return layer


def test_adam_takes_the_steps_of_its_paper() -> None:
    """Kingma & Ba 2015, algorithm 1, by hand, in double precision."""
    network = linear([1.0, -2.0]).double()
    inputs = torch.tensor([[3.0, 0.5]], dtype=torch.float64)
    step = GradientStep(network, make_optimizer(network, learning_rate=0.1, eps=0.01))
    weights, m, v = torch.tensor([1.0, -2.0], dtype=torch.float64), torch.zeros(2), torch.zeros(2)
    for t in range(1, 6):
        value = step(network(inputs).square().sum())
        output = (weights * inputs[0]).sum()
        assert value.item() == pytest.approx(output.item() ** 2)
        gradient = 2 * output * inputs[0]
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        weights = weights - 0.1 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 0.01)
        torch.testing.assert_close(network.weight[0], weights)
    assert not value.requires_grad


def test_a_learning_rate_in_a_tensor_is_set_in_place() -> None:
    """A captured graph reads it where it is."""
    network = linear([1.0])
    rate = torch.tensor(0.5)
    step = GradientStep(network, torch.optim.Adam(network.parameters(), lr=rate, fused=True))
    step.learning_rate = 0.125
    assert step.learning_rate == rate.item() == 0.125
    assert step.optimizer.param_groups[0]["lr"] is rate
    step(network(torch.ones(1, 1)).sum())
    assert network.weight.item() == pytest.approx(1.0 - 0.125)


def test_only_cuda_has_capturable_optimizers() -> None:
    for name in OPTIMIZERS:
        group = make_optimizer(linear([1.0]), name, capturable=True).param_groups[0]
        assert not group.get("capturable", False)
        assert isinstance(group["lr"], float)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["adam", "adamw", "radam"])
def test_capturable_optimizers_on_cuda(name: str) -> None:
    plain, capturable = (linear([1.0, -2.0]).cuda() for _ in range(2))
    optimizers = make_optimizer(plain, name), make_optimizer(capturable, name, capturable=True)
    group = optimizers[1].param_groups[0]
    assert group["capturable"]
    assert group["lr"].is_cuda
    for network, optimizer in zip((plain, capturable), optimizers, strict=True):
        step = GradientStep(network, optimizer)
        for _ in range(30):
            step(network(torch.ones(1, 2, device="cuda")).square().sum())
    torch.testing.assert_close(capturable.weight, plain.weight, atol=1e-3 if name == "radam" else 1e-6, rtol=0.0)


# The weight 1.0 after each of two steps of learning rate 0.1, down these gradients, worked by hand.
TWO_STEPS = {
    "sgd": ({}, (2.0, 1.0), (1 - 0.2, 0.8 - 0.1)),
    "momentum": ({"momentum": 0.5}, (2.0, 1.0), (1 - 0.2, 0.8 - 0.1 * (0.5 * 2 + 1))),
    # the velocities 2 and 2; a step is the gradient and half of the velocity
    "nesterov": ({"momentum": 0.5}, (2.0, 1.0), (1 - 0.1 * (2 + 1), 0.7 - 0.1 * (1 + 1))),
    "adagrad": ({"eps": 2.0}, (3.0, 4.0), (1 - 0.1 * 3 / (3 + 2), 0.94 - 0.1 * 4 / (5 + 2))),
    # the mean squares are 4 and 4
    "rmsprop": ({"rho": 0.75, "eps": 2.0}, (4.0, 2.0), (1 - 0.1 * 4 / (2 + 2), 0.9 - 0.1 * 2 / (2 + 2))),
    # eps 4/3: mean squares of gradients 4 and 7, of steps 0 and a quarter of the first step's 2 squared
    "adadelta": (
        {"rho": 0.75, "eps": 4 / 3},
        (4.0, 4.0),
        (1 - 0.1 * 2, 0.8 - 0.1 * 4 * math.sqrt((1 + 4 / 3) / (7 + 4 / 3))),
    ),
    # the first moments 2 and 2 over 1/2 and 3/4, the second 4 and 4 over 1/4 and 7/16
    "adam": ({"betas": (0.5, 0.75), "eps": 1e-12}, (4.0, 2.0), (1 - 0.1, 0.9 - 0.1 * math.sqrt(7) / 3)),
    "adamw": (
        {"betas": (0.5, 0.75), "eps": 1e-12, "weight_decay": 0.5},
        (4.0, 2.0),
        (0.95 - 0.1, 0.85 * 0.95 - 0.1 * math.sqrt(7) / 3),
    ),
    # too few gradients for the second moment: the first moments 2 and 2 over 1/2 and 3/4
    "radam": ({"betas": (0.5, 0.75)}, (4.0, 2.0), (1 - 0.1 * 4, 0.6 - 0.1 * 8 / 3)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_steps_by_hand(name: str) -> None:
    settings, gradients, expected = TWO_STEPS[name]
    network = linear([1.0]).double()
    step = GradientStep(network, make_optimizer(network, name, learning_rate=0.1, **settings))  # type: ignore[arg-type]
    for gradient, weight in zip(gradients, expected, strict=True):
        step(gradient * network.weight.sum())
        assert network.weight.item() == pytest.approx(weight, rel=1e-12)


def test_radam_rectifies_once_there_are_gradients_enough() -> None:
    """Liu et al. 2020, algorithm 2, over 12 steps; of these the rectified ones begin with the sixth."""
    rng, betas, eps = np.random.default_rng(0), (0.9, 0.999), 1e-8
    network = linear([1.0]).double()
    step = GradientStep(network, make_optimizer(network, "radam", learning_rate=0.1, betas=betas))
    weight, m, v, rectified = 1.0, 0.0, 0.0, []
    longest = 2 / (1 - betas[1]) - 1
    for t in range(1, 13):
        gradient = float(rng.normal())
        m, v = betas[0] * m + (1 - betas[0]) * gradient, betas[1] * v + (1 - betas[1]) * gradient**2
        length = longest - 2 * t * betas[1] ** t / (1 - betas[1] ** t)
        mean = m / (1 - betas[0] ** t)
        if length > 5:
            rectified.append(t)
            share = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
            mean *= math.sqrt(share) * math.sqrt(1 - betas[1] ** t) / (math.sqrt(v) + eps)
        weight -= 0.1 * mean
        step(gradient * network.weight.sum())
        assert network.weight.item() == pytest.approx(weight, rel=1e-12)
    assert rectified == [6, 7, 8, 9, 10, 11, 12]


@pytest.mark.parametrize(
    ("name", "eps"), [("adagrad", 1e-10), ("adadelta", 1e-6), ("rmsprop", 1e-8), ("adam", 1e-8), ("adamw", 1e-8)]
)
def test_eps_is_the_optimizers_own(name: str, eps: float) -> None:
    assert make_optimizer(nn.Linear(1, 1), name).param_groups[0]["eps"] == eps
    assert make_optimizer(nn.Linear(1, 1), name, eps=0.5).param_groups[0]["eps"] == 0.5


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_finds_the_bottom_of_a_bowl(name: str) -> None:
    network = linear([2.0, -3.0])
    rate = {"adagrad": 1.0, "adadelta": 30.0}.get(name, 0.1)
    step = GradientStep(network, make_optimizer(network, name, learning_rate=rate))
    inputs = torch.tensor([[1.0, 0.5], [-0.5, 1.0]])
    losses = [step(network(inputs).square().mean()).item() for _ in range(200)]
    assert losses[-1] < 0.01 * losses[0]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("is_flat", [False, True], ids=["network", "flat"])
def test_every_optimizer_steps_on_another_device(name: str, is_flat: bool) -> None:
    """Fused where torso computes; on a device without fused optimizers, such as ``meta``, unfused."""
    for device in ("cpu", "meta"):
        network = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).to(device)
        flat = FlatParameters(network) if is_flat else None
        optimizer = make_optimizer(flat or network, name)
        step = GradientStep(network, optimizer, max_grad_norm=1.0, flat=flat)
        assert step(network(torch.ones(4, 3, device=device)).square().sum()).device.type == device
        is_fused = name in ("sgd", "momentum", "nesterov", "adam", "adamw") and device == "cpu"
        assert bool(optimizer.param_groups[0].get("fused")) == is_fused


def test_plain_adam_is_pytorchs_to_the_bit() -> None:
    ours, theirs = (nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    reference = torch.optim.Adam(theirs.parameters(), lr=0.01, betas=(0.9, 0.999), eps=1e-5, fused=True)
    steps = (
        GradientStep(ours, make_optimizer(ours, learning_rate=0.01, eps=1e-5)),
        GradientStep(theirs, reference),
    )
    for batch in torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0)):
        for network, step in zip((ours, theirs), steps, strict=True):
            step(network(batch).square().sum())
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize(
    "settings",
    [{}, {"weight_decay": 0.1}, {"maximize": True}, {"amsgrad": True}, {"fused": False}, {"decoupled": 0.1}],
    ids=lambda settings: next(iter(settings), "plain"),
)
def test_a_step_is_the_optimizers_own_to_the_bit(settings: dict[str, Any]) -> None:
    """Of one tensor, as flat parameters are; a rate that changes and a state that is loaded count as well."""
    kind, made = torch.optim.Adam, {"fused": True, **settings}
    if "decoupled" in made:
        kind, made = torch.optim.AdamW, {"fused": True, "weight_decay": made["decoupled"]}
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 99)) for _ in range(2))
    optimizers = [kind([each], lr=0.1, betas=(0.8, 0.9), eps=1e-5, **made) for each in (ours, theirs)]
    for index, gradient in enumerate(torch.randn(8, 99, generator=torch.Generator().manual_seed(0))):
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = 0.1 / (index + 1)
        take_step(optimizers[0])
        optimizers[1].step()
        assert torch.equal(ours, theirs)
        if index == 4:
            optimizers[0].load_state_dict(copy.deepcopy(optimizers[1].state_dict()))
    states = [optimizer.state_dict()["state"][0] for optimizer in optimizers]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("eps", [1e-8, 1e-2])
def test_radams_step_is_its_own_up_to_rounding(eps: float) -> None:
    """Of several tensors, with a rate that changes; the first steps, without enough gradients, to the bit."""
    shapes = [(7, 3), (7,), (40, 9)]
    generator = torch.Generator().manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    theirs = [nn.Parameter(each.detach().clone()) for each in ours]
    optimizers = [torch.optim.RAdam(each, lr=0.1, betas=(0.8, 0.99), eps=eps) for each in (ours, theirs)]
    kernels = 0
    for index in range(40):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator) * (1 + index % 3)
            other.grad = mine.grad.clone()
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + index)
        with mock.patch.object(optimizers[0], "step", wraps=optimizers[0].step) as own:
            take_step(optimizers[0])
        optimizers[1].step()
        kernels += not own.called
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
    assert kernels == 35  # the sixth step is the first rectified one
    states = [optimizer.state_dict()["state"] for optimizer in optimizers]
    for mine, other in zip(*(each.values() for each in states), strict=True):
        assert mine["step"] == other["step"] == 40
        for name in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(mine[name], other[name], rtol=1e-5, atol=1e-6)


def test_radam_leaves_tensors_of_different_ages_to_torch() -> None:
    young, old = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = torch.optim.RAdam([young, old])
    for step in range(9):
        young.grad = None if step == 0 else torch.ones(3)
        old.grad = torch.ones(3)
        take_step(optimizer)
    assert (optimizer.state[young]["step"], optimizer.state[old]["step"]) == (8, 9)


def test_a_step_without_a_gradient_changes_nothing() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], fused=True)
    weight.grad = torch.ones(3)
    take_step(optimizer)
    before, weight.grad = weight.detach().clone(), None
    take_step(optimizer)
    assert torch.equal(weight, before)
    assert optimizer.state[weight]["step"] == 1


@pytest.mark.parametrize("is_flat", [False, True], ids=["network", "flat"])
@pytest.mark.parametrize("norm", [0.0, 0.1, 0.499999, 0.5, 0.500001, 5.0, 1e6])
def test_clipping_is_pytorchs(norm: float, is_flat: bool) -> None:
    ours, theirs = nn.Linear(7, 3), nn.Linear(7, 3)
    theirs.load_state_dict(ours.state_dict())
    flat = FlatParameters(ours) if is_flat else None
    step = GradientStep(ours, torch.optim.SGD((flat or ours).parameters(), lr=1.0), max_grad_norm=0.5, flat=flat)
    direction = torch.randn(24, generator=torch.Generator().manual_seed(0))
    direction *= norm / direction.norm()
    step(sum(a.dot(b.reshape(-1)) for a, b in zip(direction.split([21, 3]), ours.parameters(), strict=True)))
    for each, gradient in zip(theirs.parameters(), direction.split([21, 3]), strict=True):
        each.grad = gradient.view(each.shape).clone()
    nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
    torch.optim.SGD(theirs.parameters(), lr=1.0).step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_weight_decay_is_adamws_alone() -> None:
    network = nn.Linear(2, 2)
    for name in OPTIMIZERS:
        if name != "adamw":
            with pytest.raises(
                ConfigError, match=r"weight_decay must be 0 unless the optimizer is adamw, got 0.01 with .*l2=0.01"
            ):
                make_optimizer(network, name, weight_decay=0.01)
    with pytest.raises(ConfigError, match="flat parameters"):
        make_optimizer(FlatParameters(network), "adamw", weight_decay=0.01)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sgd", {"learning_rate": 0.0}, "learning_rate must be positive and finite, got 0.0"),
        ("adam", {"learning_rate": math.nan}, "learning_rate"),
        ("momentum", {"momentum": 0.0}, "momentum must lie in .* got 0.0; without momentum it is sgd"),
        ("nesterov", {"momentum": 1.0}, "momentum"),
        ("adam", {"betas": (0.9, 1.0)}, "betas"),
        ("rmsprop", {"rho": -0.1}, "rho"),
        ("adagrad", {"eps": 0.0}, "eps"),
        ("adamw", {"weight_decay": -1.0}, "weight_decay must be at least 0"),
    ],
)
def test_settings_out_of_range(name: str, settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_optimizer(nn.Linear(1, 1), name, **settings)  # type: ignore[arg-type]


def test_a_network_that_is_frozen_whole() -> None:
    with pytest.raises(ConfigError, match="the network must have a trainable parameter, got only frozen ones"):
        make_optimizer(nn.Linear(2, 2).requires_grad_(False), "sgd")


def test_the_gradient_norm_is_clipped() -> None:
    network = linear([0.0, 0.0])
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    GradientStep(network, optimizer, max_grad_norm=0.5)(network(torch.tensor([[3.0, 4.0]])).sum())
    torch.testing.assert_close(network.weight[0], torch.tensor([-0.3, -0.4]))


def test_weight_decay_spares_biases() -> None:
    network = nn.Linear(2, 2)
    nn.init.ones_(network.weight)
    nn.init.ones_(network.bias)
    optimizer = make_optimizer(network, "adamw", learning_rate=0.1, weight_decay=0.5)
    GradientStep(network, optimizer)(0.0 * (network.weight.sum() + network.bias.sum()))
    torch.testing.assert_close(network.weight, torch.full((2, 2), 0.95))
    torch.testing.assert_close(network.bias, torch.ones(2))


def test_weight_decay_spares_norms_of_several_axes() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.LayerNorm((2, 3, 3)))
    nn.init.ones_(network[0].weight)
    optimizer = make_optimizer(network, "adamw", learning_rate=0.1, weight_decay=0.5)
    GradientStep(network, optimizer)(sum(0.0 * each.sum() for each in network.parameters()))
    torch.testing.assert_close(network[0].weight, torch.full((2, 1, 3, 3), 0.95))
    assert (network[1].weight == 1).all()


def test_frozen_parameters_stay() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    network[0].requires_grad_(False)
    before = network[0].weight.clone()
    GradientStep(network, make_optimizer(network))(network(torch.ones(1, 2)).sum())
    assert torch.equal(network[0].weight, before)
    assert network[0].weight.grad is None


@pytest.mark.parametrize("wide", [128, 8])
def test_bfloat16_rounds_large_products_and_nothing_else(wide: int) -> None:
    """The wide layer as if its factors were rounded, the rest exact."""
    spec = NetworkSpec(
        input=InputSpec(shape=(4,)), torso=MLPSpec(hidden=(wide, wide)), head=ScalarHeadSpec(num_actions=2)
    )
    network = build_network(spec, torch.Generator().manual_seed(0))
    obs = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    first, second = (layer for layer in network.torso.dense.layers if isinstance(layer, nn.Linear))
    hidden = torch.relu(obs @ first.weight.T + first.bias)
    rounded = hidden.bfloat16().double() @ second.weight.bfloat16().double().T if wide == 128 else None
    product = hidden @ second.weight.T if rounded is None else rounded.bfloat16().float()
    expected = network.head.linear(torch.relu(product + second.bias))
    output = select_forward(network, "bfloat16")(obs)[0].output
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, expected, rtol=1e-3, atol=1e-4 if rounded is None else 5e-3)
    exact = select_forward(network, "float32")(obs)[0].output
    assert torch.allclose(output, exact, rtol=1e-6) == (rounded is None)
    GradientStep(network, make_optimizer(network))(output.square().sum())
    assert all(p.dtype == torch.float32 and p.grad is not None for p in network.parameters())


def test_flat_parameters_take_the_same_steps() -> None:
    spec = NetworkSpec(input=InputSpec(shape=(3,)), torso=MLPSpec(hidden=(5,)), head=ScalarHeadSpec(num_actions=2))
    plain, viewed = (build_network(spec, torch.Generator().manual_seed(0)) for _ in range(2))
    flat = FlatParameters(viewed)
    steps = (
        GradientStep(plain, make_optimizer(plain, learning_rate=0.1), max_grad_norm=0.5),
        GradientStep(viewed, make_optimizer(flat, learning_rate=0.1), max_grad_norm=0.5, flat=flat),
    )
    obs = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))
    for _ in range(4):
        for network, step in zip((plain, viewed), steps, strict=True):
            step(network(obs)[0].output.square().mean())
    for (name, a), b in zip(plain.named_parameters(), viewed.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)


def test_schedules() -> None:
    def rates(name: str) -> list[float]:
        return [scheduled_learning_rate(name, 2.0, step, 10) for step in range(11)]

    assert rates("constant") == [2.0] * 11
    assert rates("cosine") == pytest.approx([1 + math.cos(math.pi * step / 10) for step in range(11)])
    in_eighths = [scheduled_learning_rate("step", 2.0, step, 8) for step in range(9)]
    assert in_eighths == pytest.approx([2.0] * 4 + [0.2] * 2 + [0.02] * 3)
    one_cycle = rates("one-cycle")
    assert one_cycle[0] == pytest.approx(2 / 25)
    assert one_cycle[3] == pytest.approx(2.0)
    assert one_cycle[10] == pytest.approx(0.0)
    assert one_cycle[:4] == sorted(one_cycle[:4])
    assert one_cycle[3:] == sorted(one_cycle[3:], reverse=True)
    assert scheduled_learning_rate("cosine", 2.0, 15, 10) == pytest.approx(0.0)
    for name in SCHEDULES:  # no total yet, and a run that goes on past its end
        assert 0 <= scheduled_learning_rate(name, 2.0, 0, 0) <= 2.0
        assert scheduled_learning_rate(name, 2.0, 99, 10) == rates(name)[-1]


def test_names_that_are_unknown() -> None:
    network = nn.Linear(1, 1)
    with pytest.raises(ConfigError, match=r"optimizer.*'adma'"):
        make_optimizer(network, "adma")
    with pytest.raises(ConfigError, match=r"schedule.*'cosinus'"):
        scheduled_learning_rate("cosinus", 1.0, 0, 1)
    with pytest.raises(ConfigError, match=r"precision.*'float8'"):
        resolve_precision("float8", CPU, pays=True)
    for device in ("gpu", "mps", "meta", "cuda:99"):
        with pytest.raises(ConfigError, match=device):
            resolve_device(device)


def test_precision_is_resolved_once() -> None:
    assert resolve_precision("auto", CPU, pays=False) == "float32"
    assert resolve_precision("auto", CPU, pays=True) in ("float32", "bfloat16")
    assert resolve_precision("bfloat16", CPU, pays=False) == "bfloat16"
    assert resolve_device("cpu") == CPU
    assert resolve_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
