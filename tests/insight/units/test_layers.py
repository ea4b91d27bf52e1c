"""Layers by name, their activations, their weights, and the inputs that excite their units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from torso.errors import InputError
from torso.insight.units.layers import (
    activations,
    evaluation_mode,
    find_layer,
    first_layer_weights,
    layer_values,
    layers,
    responses,
    top_inputs,
    top_k_drives,
    unit_drives,
)
from torso.nets import (
    ConvLayerSpec,
    ConvNetSpec,
    ImageSpec,
    InputSpec,
    LogitsHeadSpec,
    MLPSpec,
    Network,
    NetworkSpec,
    RegressionHeadSpec,
    ScalarHeadSpec,
    SigmoidHeadSpec,
    StepHeadSpec,
    build_network,
    net_spec,
    register_torso,
)

TABLE = InputSpec(shape=(5,), mean=(1.0, 2.0, 3.0, 4.0, 5.0), std=(2.0,) * 5)
SCAN = InputSpec(shape=(8, 8), dtype="uint8", layout="hw", scale=1 / 16)
IMAGE = InputSpec(shape=(28, 28), dtype="uint8", layout="hw", scale=1 / 255)


def network(spec_input: InputSpec, torso: Any, head: Any = None, seed: int = 0) -> Network:
    spec = NetworkSpec(input=spec_input, torso=torso, head=head or LogitsHeadSpec(num_classes=3))
    return build_network(spec, torch.Generator().manual_seed(seed))


def inputs_of(spec: InputSpec, count: int, seed: int = 1) -> Tensor:
    rng = np.random.default_rng(seed)
    if spec.dtype == "uint8":
        return torch.from_numpy(rng.integers(0, 17, (count, *spec.shape), dtype=np.uint8))
    return torch.from_numpy(rng.normal(3, 2, (count, *spec.shape)).astype(np.float32))


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec_input", "torso", "expected"),
    [
        (TABLE, MLPSpec(hidden=()), {"output": (3,)}),
        (TABLE, MLPSpec(hidden=(7, 4)), {"dense1": (7,), "dense2": (4,), "output": (3,)}),
        (TABLE, MLPSpec(hidden=(7,), batch_norm=True, dropout=0.5), {"dense1": (7,), "output": (3,)}),
        (TABLE, MLPSpec(hidden=(7,), layer_norm=True, activation="identity"), {"dense1": (7,), "output": (3,)}),
        (
            IMAGE,
            net_spec("lenet", IMAGE),
            {
                "conv1": (6, 28, 28),
                "pool1": (6, 14, 14),
                "conv2": (16, 10, 10),
                "pool2": (16, 5, 5),
                "dense1": (120,),
                "dense2": (84,),
                "output": (3,),
            },
        ),
        (
            SCAN,
            net_spec("cnn", SCAN),
            {"conv1": (32, 8, 8), "conv2": (64, 8, 8), "pool2": (64, 4, 4), "dense1": (128,), "output": (3,)},
        ),
    ],
    ids=["linear", "mlp", "batch norm", "layer norm", "lenet", "cnn"],
)
def test_layers_have_the_names_that_people_use(
    spec_input: InputSpec, torso: Any, expected: dict[str, tuple[int, ...]]
) -> None:
    found = layers(network(spec_input, torso))
    assert {layer.name: layer.shape for layer in found} == expected
    assert [layer.name for layer in found] == list(expected)
    assert [layer.is_map for layer in found] == [len(shape) == 3 for shape in expected.values()]
    assert [layer.num_units for layer in found] == [shape[0] for shape in expected.values()]


@pytest.mark.parametrize(
    ("head", "units"),
    [
        (SigmoidHeadSpec(), 1),
        (StepHeadSpec(), 1),
        (LogitsHeadSpec(num_classes=2), 2),
        (ScalarHeadSpec(num_actions=2), 2),
        (RegressionHeadSpec(num_targets=1, mean=(100.0,), std=(7.0,)), 1),
    ],
)
def test_the_output_is_the_readout_or_the_one_output_that_tells_two_classes_apart(head: Any, units: int) -> None:
    net = network(TABLE, MLPSpec(hidden=(4,)), head)
    obs = inputs_of(TABLE, 6)
    output = activations(net, obs)["output"]
    assert output.shape == (6, units)
    assert torch.equal(output, net.readout(obs).detach()[:, -units:])


@dataclass(frozen=True)
class SharingSpec:
    width: int = 4


class Sharing(nn.Module):
    """Two layers that share one activation module, and a functional one after the second."""

    def __init__(self, spec: SharingSpec, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.first = nn.Linear(input_shape[0], spec.width)
        self.act = nn.Tanh()
        self.second = nn.Linear(spec.width, spec.width + 1)
        self.num_features = spec.width + 1

    def forward(self, inputs: Tensor, state: Any, generator: torch.Generator | None) -> tuple[Tensor, Any]:
        return self.act(self.second(self.act(self.first(inputs)))), state


@dataclass(frozen=True)
class RecurrentSpec:
    width: int = 4


class Recurrent(nn.Module):
    def __init__(self, spec: RecurrentSpec, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.cell = nn.LSTM(input_shape[0], spec.width, batch_first=True)
        self.num_features = spec.width

    def forward(self, inputs: Tensor, state: Any, generator: torch.Generator | None) -> tuple[Tensor, Any]:
        return self.cell(inputs.unsqueeze(1))[0][:, 0], state


@pytest.mark.usefixtures("registries")
def test_a_torso_of_ones_own_has_named_layers_too() -> None:
    register_torso("sharing", SharingSpec, Sharing)
    net = network(TABLE, SharingSpec())
    obs = inputs_of(TABLE, 3)
    found = activations(net, obs)
    torso: Any = net.torso
    first = torch.tanh(torso.first(net.scaling(obs)))
    assert list(found) == ["dense1", "dense2", "output"]
    torch.testing.assert_close(found["dense1"], first.detach())
    torch.testing.assert_close(found["dense2"], torch.tanh(torso.second(first)).detach())


@pytest.mark.usefixtures("registries")
def test_a_torso_that_is_no_stack_of_layers_still_has_an_output_and_no_picture_of_its_weights() -> None:
    register_torso("recurrent", RecurrentSpec, Recurrent)
    net = network(TABLE, RecurrentSpec())
    assert [layer.name for layer in layers(net)] == ["output"]
    with pytest.raises(InputError, match="begins with a convolution or a dense layer, got a Recurrent"):
        first_layer_weights(net)


def test_what_is_not_there_is_refused_with_what_is() -> None:
    net = network(TABLE, MLPSpec(hidden=(7,)))
    assert find_layer(net, "dense1", 6).name == "dense1"
    with pytest.raises(InputError, match=r"dense1 \(units 0 to 6\), output \(units 0 to 2\), got 'dense2'"):
        find_layer(net, "dense2")
    with pytest.raises(InputError, match=r"dense1 \(units 0 to 6\), output \(units 0 to 2\), got dense1:7"):
        top_inputs(net, inputs_of(TABLE, 4), "dense1", 7)
    with pytest.raises(InputError, match="got output:-1"):
        find_layer(net, "output", -1)


# -- values ------------------------------------------------------------------------------------------------------------

FUNCTIONS = {"relu": torch.relu, "tanh": torch.tanh, "gelu": functional.gelu, "sigmoid": torch.sigmoid}


@pytest.mark.parametrize("norm", ["none", "layer", "batch"])
@pytest.mark.parametrize(("pool", "activation"), [("max", "relu"), ("max", "gelu"), ("avg", "tanh"), (None, "sigmoid")])
def test_values_and_drives_are_those_of_the_layers_written_out(norm: str, pool: Any, activation: Any) -> None:
    spec = ConvNetSpec(
        convs=(ConvLayerSpec(channels=4, kernel=3, padding=1, pool=pool),),
        hidden=(6,),
        activation=activation,
        dropout=0.5,
        layer_norm=norm == "layer",
        batch_norm=norm == "batch",
    )
    net = network(SCAN, spec)
    with torch.no_grad():
        for parameter in net.parameters():  # norms that do something
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)) * 0.1)
    obs = inputs_of(SCAN, 5)
    weights = net.state_dict()
    act = FUNCTIONS[activation]

    def normed(x: Tensor, name: str) -> Tensor:
        if norm == "none":
            return x
        gain, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        if norm == "layer":
            one = functional.group_norm(x.reshape(len(x), -1, 1), 1)
            one = one.reshape(x.shape)
        else:
            mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
            one = functional.batch_norm(x, mean, variance)
        shape = (1, -1) + (1,) * (x.dim() - 2)
        return one * gain.reshape(shape) + bias.reshape(shape)

    x = obs.float().unsqueeze(1) / 16
    drive = normed(
        functional.conv2d(x, weights["torso.convs.0.weight"], weights.get("torso.convs.0.bias"), padding=1),
        "torso.convs.1",
    )
    conv = act(drive)
    pooled = {"max": functional.max_pool2d, "avg": functional.avg_pool2d, None: lambda y, _: y}[pool](conv, 2)
    dense_drive = normed(
        functional.linear(
            pooled.flatten(1), weights["torso.dense.layers.0.weight"], weights.get("torso.dense.layers.0.bias")
        ),
        "torso.dense.layers.1",
    )
    output = functional.linear(act(dense_drive), weights["head.linear.weight"], weights["head.linear.bias"])

    found = layer_values(net, obs)
    expected = {"conv1": (conv, drive), "dense1": (act(dense_drive), dense_drive), "output": (output, output)}
    if pool is not None:
        expected["pool1"] = (pooled, functional.max_pool2d(drive, 2) if pool == "max" else pooled)
    assert set(found) == set(expected)
    for name, (values, drives) in expected.items():
        torch.testing.assert_close(found[name].values, values, msg=name)
        torch.testing.assert_close(found[name].drives, drives, msg=f"drives of {name}")
    torch.testing.assert_close(found["output"].values, net.eval().readout(obs))


def test_looking_changes_nothing() -> None:
    net = network(TABLE, MLPSpec(hidden=(6, 6), batch_norm=True, dropout=0.5))
    net.train()
    net.torso.eval()  # a frozen part
    modes = [module.training for module in net.modules()]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    obs = inputs_of(TABLE, 8)
    first, second = activations(net, obs), activations(net, obs)
    assert all(torch.equal(first[name], second[name]) for name in first)  # no dropout
    assert not any(value.requires_grad for value in first.values())
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())


def test_a_refused_input_leaves_no_hook_behind() -> None:
    net = network(TABLE, MLPSpec(hidden=(6,)))
    net.train()
    with pytest.raises(RuntimeError):
        activations(net, torch.zeros(2, 9))
    assert net.training
    assert not any(module._forward_hooks for module in net.modules())


def test_evaluation_mode_ends_with_an_error_too() -> None:
    net = network(TABLE, MLPSpec(hidden=(6,)))
    net.train()

    def fail() -> None:
        with evaluation_mode(net):
            assert not any(module.training for module in net.modules())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert all(module.training for module in net.modules())


# -- weights -----------------------------------------------------------------------------------------------------------

FLAT_IMAGE = ImageSpec(channels=3, height=4, width=5)


@pytest.mark.parametrize(
    "spec",
    [
        InputSpec(shape=(4, 5), dtype="uint8", layout="hw", scale=0.5),
        InputSpec(shape=(3, 4, 5), dtype="uint8", layout="chw"),
        InputSpec(shape=(4, 5, 3), dtype="uint8", layout="hwc"),
        InputSpec(shape=(60,), dtype="uint8", image=FLAT_IMAGE),
    ],
    ids=["hw", "chw", "hwc", "flat"],
)
@pytest.mark.parametrize("hidden", [(7,), ()])
def test_dense_weights_are_images_as_the_network_sees_them(spec: InputSpec, hidden: tuple[int, ...]) -> None:
    net = network(spec, MLPSpec(hidden=hidden, activation="identity"))
    found = first_layer_weights(net)
    assert found.are_images
    assert found.layer == ("dense1" if hidden else "output")
    obs = inputs_of(spec, 3)
    raw = obs.float() * spec.scale
    channels_first = {
        "hw": lambda: raw.unsqueeze(1),
        "chw": lambda: raw,
        "hwc": lambda: raw.permute(0, 3, 1, 2),
        None: lambda: raw.reshape(-1, 4, 5, 3).permute(0, 3, 1, 2),
    }[spec.layout]()
    looked = torch.einsum("bchw,uchw->bu", channels_first, found.weights)
    drives = activations(net, obs)[found.layer]
    torch.testing.assert_close(looked - looked[:1], drives - drives[:1], rtol=1e-3, atol=1e-3)  # but for the bias


def test_weights_of_a_convolution_and_of_a_table() -> None:
    net = network(SCAN, net_spec("cnn", SCAN))
    found = first_layer_weights(net)
    assert (found.layer, found.are_images) == ("conv1", True)
    assert torch.equal(found.weights, net.state_dict()["torso.convs.0.weight"])
    table = first_layer_weights(network(TABLE, MLPSpec(hidden=(7,))))
    assert (table.layer, table.are_images, table.weights.shape) == ("dense1", False, (7, 5))
    assert not table.weights.requires_grad


# -- units -------------------------------------------------------------------------------------------------------------


def test_top_inputs_are_those_of_brute_force() -> None:
    net = network(SCAN, net_spec("cnn", SCAN))
    obs = inputs_of(SCAN, 600)  # more than one forward
    for layer, unit in (("conv2", 5), ("pool2", 3), ("dense1", 17), ("output", 2)):
        alone = []
        for row in obs:
            drives = layer_values(net, row.unsqueeze(0))[layer].drives[0, unit]
            alone.append(float(drives.detach().max()))
        found = top_inputs(net, obs, layer, unit, k=6)
        assert found.rows.tolist() == sorted(range(600), key=lambda row: -alone[row])[:6]
        assert found.drives.tolist() == pytest.approx(sorted(alone, reverse=True)[:6], rel=1e-4)


def test_equals_come_in_their_order_and_k_may_be_too_large() -> None:
    found = top_k_drives(torch.tensor([1.0, 3.0, 3.0, 2.0, 3.0]), 8)
    assert found.rows.tolist() == [1, 2, 4, 3, 0]
    assert found.drives.tolist() == [3.0, 3.0, 3.0, 2.0, 1.0]


def test_responses_are_the_drives_of_all_inputs_whatever_the_batch() -> None:
    net = network(TABLE, MLPSpec(hidden=(7,), activation="sigmoid"))
    obs = inputs_of(TABLE, 1100)
    found = responses(net, obs, "dense1")
    assert (found.shape, found.dtype, found.requires_grad) == ((1100, 7), torch.float32, False)
    torch.testing.assert_close(found[1030:], unit_drives(net, obs[1030:], "dense1").detach())
    with pytest.raises(InputError, match="layer must be one of"):
        responses(net, obs, "conv1")
