"""Network: its forward against the same arithmetic in NumPy, precision, input scaling, and random generators."""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy_layers import ACTIVATIONS, batch_norm, convolve, dense, layer_norm, pool
from torch import nn

from torso.errors import ConfigError, SpecError
from torso.nets import (
    ConvLayerSpec,
    ConvNet,
    ConvNetSpec,
    InputSpec,
    LogitsHeadSpec,
    MLPSpec,
    Network,
    NetworkSpec,
    Predictor,
    ScalarHeadSpec,
    build_network,
    load_model,
    net_spec,
    register_torso,
    save_model,
)
from torso.nets.modules.layers import Dropout, InputScaling
from torso.nets.modules.torsos import round_large_weights
from torso.nets.specs.inputs import INPUT_DTYPES
from torso.nets.specs.torsos import Activation, LayerNormKind

Array = np.ndarray[Any, Any]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(network_input: InputSpec, torso: object, outputs: int = 3, seed: int = 0) -> Network:
    spec = NetworkSpec(input=network_input, torso=torso, head=LogitsHeadSpec(num_classes=outputs))
    return build_network(spec, seeded(seed)).eval()


def weights(network: Network) -> dict[str, Array]:
    return {name: tensor.detach().double().numpy() for name, tensor in network.state_dict().items()}


def output(network: Network, obs: Array) -> Array:
    prediction, state = network(torch.from_numpy(obs))
    assert state == ()
    result: Array = prediction.output.detach().numpy()
    return result


# -- forward -----------------------------------------------------------------------------------------------------------


def test_a_network_worked_by_hand() -> None:
    network = build(InputSpec(shape=(2,), scale=0.5), MLPSpec(hidden=(2,)), outputs=2).double()
    values = {
        "torso.dense.layers.0.weight": [[1.0, -1.0], [2.0, 0.0]],
        "torso.dense.layers.0.bias": [0.5, -3.0],
        "head.linear.weight": [[1.0, 2.0], [-1.0, 0.0]],
        "head.linear.bias": [0.25, 0.75],
    }
    network.load_state_dict({name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()})
    # (6, 2) scaled is (3, 1): hidden (3 - 1 + .5, 6 - 3) = (2.5, 3), output (2.5 + 6 + .25, -2.5 + .75)
    # (0, 4) scaled is (0, 2): hidden relu(-2 + .5, -3) = (0, 0), output the biases
    assert output(network, np.array([[6.0, 2.0], [0.0, 4.0]])).tolist() == [[8.75, -1.75], [0.25, 0.75]]


def scramble(network: Network, std: float = 1.0) -> None:
    """Set other parameters and statistics: a norm's gain of 1, bias of 0, mean of 0 and variance of 1 hide mistakes."""
    generator = seeded(1)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=std, generator=generator)
    for name, statistic in network.named_buffers():
        if name.endswith("running_mean"):
            nn.init.normal_(statistic, generator=generator)
        if name.endswith("running_var"):
            nn.init.uniform_(statistic, 0.5, 2.0, generator=generator)


def normalise(x: Array, w: dict[str, Array], prefix: str, norm: str, kind: str = "image") -> Array:
    """Apply the norm of weights with that prefix; ``kind``: of a layer norm of maps [B, C, H, W]."""
    gain, bias = w[f"{prefix}.weight"], w[f"{prefix}.bias"]
    if norm == "batch":
        return batch_norm(x, w[f"{prefix}.running_mean"], w[f"{prefix}.running_var"], gain, bias)
    if x.ndim == 2:
        return layer_norm(x, gain, bias)
    if kind == "channels":
        pixels = np.moveaxis(x, 1, 3)  # [B, H, W, C]
        flat = layer_norm(pixels.reshape(-1, x.shape[1]), gain, bias, eps=1e-6)
        return np.moveaxis(flat.reshape(pixels.shape), 3, 1)
    flat = layer_norm(x.reshape(len(x), -1), np.array(1.0), np.array(0.0)).reshape(x.shape)
    if kind == "elements":
        return flat * gain + bias
    return flat * gain.reshape(1, -1, 1, 1) + bias.reshape(1, -1, 1, 1)


def norm_of(spec: MLPSpec | ConvNetSpec) -> str:
    return "layer" if spec.layer_norm else "batch" if spec.batch_norm else ""


def dense_by_hand(w: dict[str, Array], spec: MLPSpec | ConvNetSpec, x: Array) -> Array:
    layer = 0
    for _ in spec.hidden:
        prefix = "torso.dense.layers"
        x = dense(x, w[f"{prefix}.{layer}.weight"], w.get(f"{prefix}.{layer}.bias", 0.0))
        if norm_of(spec):
            layer += 1
            x = normalise(x, w, f"{prefix}.{layer}", norm_of(spec))
        x = ACTIVATIONS[spec.activation](x)
        layer += 2
    return dense(x, w["head.linear.weight"], w["head.linear.bias"])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", ["", "layer", "batch"])
@pytest.mark.parametrize("hidden", [(), (5,), (4, 6, 3)])
def test_an_mlp_is_its_equations(activation: Any, norm: str, hidden: tuple[int, ...]) -> None:
    norms = {"layer_norm": norm == "layer", "batch_norm": norm == "batch"}
    spec = MLPSpec(hidden=hidden, activation=activation, **norms)
    network = build(InputSpec(shape=(7,)), spec).double()
    scramble(network)
    obs = np.random.default_rng(0).normal(size=(9, 7))
    expected = dense_by_hand(weights(network), spec, obs)
    np.testing.assert_allclose(output(network, obs), expected, rtol=1e-12, atol=1e-12)


def test_a_deep_linear_network_is_linear() -> None:
    network = build(InputSpec(shape=(4,)), MLPSpec(hidden=(6, 5), activation="identity")).double()
    one, other = np.random.default_rng(0).normal(size=(2, 3, 4))
    between = output(network, 0.25 * one + 0.75 * other)
    np.testing.assert_allclose(between, 0.25 * output(network, one) + 0.75 * output(network, other), rtol=1e-12)


CONVNETS = {
    "one": ConvNetSpec(convs=(ConvLayerSpec(channels=4, kernel=3),)),
    "strided, padded": ConvNetSpec(
        convs=(ConvLayerSpec(channels=4, kernel=4, stride=2, padding=1), ConvLayerSpec(channels=3, kernel=2)),
        hidden=(5,),
        activation="tanh",
    ),
    "max pool that drops an edge": ConvNetSpec(convs=(ConvLayerSpec(channels=2, kernel=2, pool="max", pool_size=3),)),
    "average pool, then more": ConvNetSpec(
        convs=(ConvLayerSpec(channels=3, kernel=3, padding=1, pool="avg"), ConvLayerSpec(channels=4, kernel=3)),
        hidden=(6, 4),
        activation="sigmoid",
    ),
    "normalised": ConvNetSpec(convs=(ConvLayerSpec(channels=3, kernel=3, pool="max"),), hidden=(4,), layer_norm=True),
    **{
        f"normalised, {kind}": ConvNetSpec(
            convs=(ConvLayerSpec(channels=3, kernel=3, pool="max"), ConvLayerSpec(channels=4, kernel=2)),
            hidden=(4,),
            layer_norm=True,
            layer_norm_kind=kind,
        )
        for kind in get_args(LayerNormKind)
    },
    "normalised by batches": ConvNetSpec(
        convs=(ConvLayerSpec(channels=3, kernel=3, pool="max"), ConvLayerSpec(channels=4, kernel=2)),
        hidden=(4,),
        batch_norm=True,
    ),
    **{
        f"max pool and {activation}": ConvNetSpec(
            convs=(ConvLayerSpec(channels=3, kernel=2, pool="max"),), activation=activation
        )
        for activation in get_args(Activation)
    },
}


def convnet_by_hand(w: dict[str, Array], spec: ConvNetSpec, x: Array) -> Array:
    act, layer = ACTIVATIONS[spec.activation], 0
    for conv in spec.convs:
        prefix = f"torso.convs.{layer}"
        x = convolve(x, w[f"{prefix}.weight"], w.get(f"{prefix}.bias", np.zeros(1)), conv.stride, conv.padding)
        layer += 1
        if norm_of(spec):
            x = normalise(x, w, f"torso.convs.{layer}", norm_of(spec), spec.layer_norm_kind)
            layer += 1
        x = act(x)
        layer += 1
        if conv.pool is not None:
            x = pool(x, conv.pool, conv.pool_size)
            layer += 1
    return dense_by_hand(w, spec, x.reshape(len(x), -1))


@pytest.mark.parametrize("name", CONVNETS)
def test_a_convnet_is_its_equations(name: str) -> None:
    spec = CONVNETS[name]
    network = build(InputSpec(shape=(2, 9, 11), layout="chw"), spec).double()
    scramble(network, std=0.5)
    obs = np.random.default_rng(0).normal(size=(3, 2, 9, 11))
    expected = convnet_by_hand(weights(network), spec, obs)
    np.testing.assert_allclose(output(network, obs), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", get_args(LayerNormKind))
def test_a_networks_gradients_are_those_of_finite_differences(kind: LayerNormKind) -> None:
    spec = ConvNetSpec(
        convs=(ConvLayerSpec(channels=2, kernel=2, pool="avg"),),
        hidden=(3,),
        activation="tanh",
        layer_norm=True,
        layer_norm_kind=kind,
    )
    network = build(InputSpec(shape=(5, 5), layout="hw", scale=0.5, mean=(0.25,), std=(2.0,)), spec).double()
    obs = torch.randn(2, 5, 5, dtype=torch.float64, generator=seeded(1), requires_grad=True)
    names = [name for name, _ in network.named_parameters()]

    def loss(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        prediction, _ = torch.func.functional_call(network, dict(zip(names, values, strict=True)), (x,))
        return network.head.loss(prediction, torch.tensor([0, 2]))  # type: ignore[operator,no-any-return]

    assert torch.autograd.gradcheck(loss, (obs, *(p.detach().requires_grad_() for p in network.parameters())))


@pytest.mark.parametrize(("net", "layer_norm"), [("mlp", True), ("cnn", True), ("vgg", False)])
def test_rows_of_a_batch_are_independent(net: str, layer_norm: bool) -> None:
    network_input = InputSpec(shape=(3, 16, 16), layout="chw")
    network = build(network_input, net_spec(net, network_input, layer_norm=layer_norm)).double()
    obs = np.random.default_rng(0).normal(size=(6, 3, 16, 16))
    whole = output(network, obs)
    order = [4, 0, 5]
    np.testing.assert_allclose(output(network, obs[order]), whole[order], rtol=1e-10, atol=1e-12)
    other = obs.copy()
    other[2] = 1e6
    np.testing.assert_allclose(np.delete(output(network, other), 2, 0), np.delete(whole, 2, 0), rtol=1e-10, atol=1e-12)


def test_a_policy_reads_out_its_values() -> None:
    spec = NetworkSpec(input=InputSpec(shape=(4,)), torso=MLPSpec(), head=ScalarHeadSpec(num_actions=2))
    network = build_network(spec, seeded(0))
    obs = torch.randn(3, 4, generator=seeded(1))
    prediction, state = network(obs, network.initial_state(3))
    assert state == ()
    assert prediction.draws is None
    assert torch.equal(network.readout(obs), prediction.output)
    assert network.double().readout(obs).dtype == torch.float32


# -- batch norm --------------------------------------------------------------------------------------------------------

BATCH_NORMED = {
    "dense": MLPSpec(hidden=(5,), batch_norm=True),
    "conv": ConvNetSpec(convs=(ConvLayerSpec(channels=5, kernel=3),), batch_norm=True),
}


@pytest.mark.parametrize("name", BATCH_NORMED)
def test_batch_norm_learns_by_the_minibatch_and_remembers_its_statistics(name: str) -> None:
    network = build(InputSpec(shape=(1, 4, 4), layout="chw"), BATCH_NORMED[name]).double().train()
    obs = np.random.default_rng(0).normal(size=(6, 1, 4, 4))
    w = weights(network)
    if name == "dense":
        prefix, raw = "torso.dense.layers.1", dense(obs.reshape(6, 16), w["torso.dense.layers.0.weight"])
    else:
        prefix, raw = "torso.convs.1", convolve(obs, w["torso.convs.0.weight"], 0.0, 1, 0)
    per_channel = np.moveaxis(raw, 1, 0).reshape(5, -1)  # [C, values]
    mean, variance = per_channel.mean(axis=1), per_channel.var(axis=1)
    features = np.maximum(batch_norm(raw, mean, variance, np.ones(5), np.zeros(5)), 0).reshape(6, -1)
    expected = dense(features, w["head.linear.weight"], w["head.linear.bias"])
    np.testing.assert_allclose(output(network, obs), expected, rtol=1e-10, atol=1e-12)
    after = network.state_dict()
    np.testing.assert_allclose(after[f"{prefix}.running_mean"], 0.1 * mean, rtol=1e-12)
    np.testing.assert_allclose(after[f"{prefix}.running_var"], 0.9 + 0.1 * per_channel.var(axis=1, ddof=1), rtol=1e-12)
    assert int(after[f"{prefix}.num_batches_tracked"]) == 1
    output(network.eval(), obs)
    assert int(network.state_dict()[f"{prefix}.num_batches_tracked"]) == 1


def test_batch_norm_needs_a_minibatch() -> None:
    network = build(InputSpec(shape=(1, 3, 3), layout="chw"), BATCH_NORMED["conv"])  # one pixel is left
    dense_network = build(InputSpec(shape=(4,)), BATCH_NORMED["dense"])
    for model, obs in ((network, torch.zeros(1, 1, 3, 3)), (dense_network, torch.zeros(1, 4))):
        model.readout(obs)
        model.train()
        with pytest.raises(ConfigError, match="must have two rows or more for a batch norm of 5 features, got one row"):
            model(obs)
        model(torch.cat((obs, obs)))
    wide = build(InputSpec(shape=(1, 4, 4), layout="chw"), BATCH_NORMED["conv"]).train()
    wide(torch.zeros(1, 1, 4, 4))  # one row of four pixels has a deviation


@pytest.mark.parametrize("name", BATCH_NORMED)
def test_batch_norms_statistics_stay_in_float32_under_bfloat16(name: str) -> None:
    network_input = InputSpec(shape=(1, 16, 16), layout="chw")
    spec = BATCH_NORMED[name]
    if isinstance(spec, MLPSpec):
        spec = MLPSpec(hidden=(128,), batch_norm=True)  # large enough for bfloat16
    network, exact = (build(network_input, spec).train() for _ in range(2))
    obs = torch.randn(64, 1, 16, 16, generator=seeded(1)) + 3.0
    for _ in range(20):
        prediction, _ = network.mixed(obs)
        exact(obs)
    assert prediction.output.dtype == torch.float32
    state, expected = network.state_dict(), exact.state_dict()
    for key, value in expected.items():
        assert state[key].dtype == value.dtype == (torch.int64 if "num_batches" in key else torch.float32)
        torch.testing.assert_close(state[key], value, rtol=0.01, atol=0.01)
    loss = network.head.loss(prediction, torch.zeros(64, dtype=torch.int64))  # type: ignore[operator]
    loss.mean().backward()
    assert all(
        parameter.grad is not None and parameter.grad.dtype == torch.float32 for parameter in network.parameters()
    )


@pytest.mark.parametrize("batch_norm", [False, True])
def test_large_products_are_rounded_and_their_biases_are_not(batch_norm: bool) -> None:
    network = build(InputSpec(shape=(256,)), MLPSpec(hidden=(128,), activation="identity", batch_norm=batch_norm))
    with torch.no_grad():
        layer = network.torso.dense.layers[1 if batch_norm else 0]
        layer.bias.copy_(torch.arange(128) * 100.0)
    obs = torch.randn(16, 256, generator=seeded(1)) * 0.01
    mixed, _ = network.torso.mixed(obs, (), None)
    exact, _ = network.torso(obs, (), None)
    assert not torch.equal(mixed, exact)
    torch.testing.assert_close(mixed, exact, rtol=0, atol=1e-3)  # in bfloat16, 12,700 would be off by up to 32


# -- convolutions in bfloat16 ------------------------------------------------------------------------------------------

FRAMES: dict[str, Any] = {"shape": (4, 36, 36), "dtype": "uint8", "layout": "chw"}


def q_network(head: Any = None, **fields: Any) -> Network:
    network_input = InputSpec(**{**FRAMES, "scale": 1 / 255, **fields})
    torso = net_spec("nature", network_input, hidden=(64,))
    spec = NetworkSpec(input=network_input, torso=torso, head=head or ScalarHeadSpec(num_actions=3))
    return build_network(spec, seeded(0))


def frames(rows: int = 8) -> torch.Tensor:
    return torch.randint(256, (rows, *FRAMES["shape"]), dtype=torch.uint8, generator=seeded(1))


@pytest.mark.parametrize("name", [name for name, spec in CONVNETS.items() if not spec.layer_norm])
def test_a_convnets_bfloat16_is_autocasts(name: str) -> None:
    spec = replace(CONVNETS[name], hidden=(200,), dropout=0.25)
    network = build(InputSpec(shape=(2, 18, 22), layout="chw"), spec).train()
    other = copy.deepcopy(network)
    obs = torch.randn(6, 2, 18, 22, generator=seeded(1))
    features, _ = network.torso.mixed(obs, (), seeded(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, _ = other.torso(obs, (), seeded(2))
    assert features.dtype == torch.float32
    assert torch.equal(features, expected)
    assert all(
        torch.equal(x, y) for x, y in zip(network.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_a_norm_over_channels_is_computed_in_float32() -> None:
    network = build(InputSpec(shape=(2, 9, 11), layout="chw"), CONVNETS["normalised"])
    scramble(network)
    obs = torch.randn(6, 2, 9, 11, generator=seeded(1))
    mixed, exact = network.mixed(obs)[0].output, network(obs)[0].output
    assert mixed.dtype == torch.float32
    assert not torch.equal(mixed, exact)
    torch.testing.assert_close(mixed, exact, rtol=0.05, atol=0.1)


@pytest.mark.parametrize("fields", [{}, {"shape": (36, 36, 4), "layout": "hwc"}, {"scale": 1.0}])
def test_frames_meet_weights_that_are_scaled_in_their_place(fields: dict[str, Any]) -> None:
    network = q_network(**fields)
    obs = frames() if "shape" not in fields else frames().permute(0, 2, 3, 1).contiguous()
    exact = copy.deepcopy(network).double()
    outputs = [one(obs)[0].output for one in (network.mixed, network, exact)]
    mixed, single, double = (output.double() for output in outputs)
    assert outputs[0].dtype == torch.float32
    assert 0 < (mixed - double).abs().max() < 0.02 * double.abs().max()
    assert (single - double).abs().max() < 1e-4 * double.abs().max()
    for output in outputs:
        (output - 1).square().sum().backward()
    for got, expected in zip(network.parameters(), exact.parameters(), strict=True):
        assert got.grad is not None
        assert expected.grad is not None
        assert got.grad.dtype == torch.float32
    first = [one.torso.convs[0].weight.grad.double() for one in (network, exact)]
    torch.testing.assert_close(*(grad / grad.norm() for grad in first), rtol=0, atol=0.02)


def test_normalised_frames_are_scaled_first() -> None:
    network = q_network(mean=(0.5,) * 4, std=(0.25,) * 4)
    obs = frames()
    expected, _ = network.answer(network.scaling(obs), bfloat16=True)
    assert torch.equal(network.mixed(obs)[0].output, expected.output)
    torch.testing.assert_close(expected.output, network(obs)[0].output, rtol=0, atol=0.02)


def test_a_dueling_heads_streams_are_in_bfloat16_too() -> None:
    head = ScalarHeadSpec(num_actions=3, dueling=True, hidden=(512,))
    network = q_network(head, **{"shape": (4, 84, 84)})
    obs = torch.randint(256, (2, 4, 84, 84), dtype=torch.uint8, generator=seeded(1))
    prediction, _ = network.mixed(obs)
    features, _ = network.torso.mixed(obs, (), None, network.scaling.scale)
    assert torch.equal(prediction.output, network.head.mixed(features, None).output)
    assert not torch.equal(prediction.output, network.head.predict(features, None).output)
    torch.testing.assert_close(prediction.output, network(obs)[0].output, rtol=0, atol=0.01)


def test_a_torso_made_of_ours_computes_in_its_own_way(registries: None) -> None:
    @dataclass(frozen=True)
    class TwiceSpec:
        convs: tuple[ConvLayerSpec, ...] = (ConvLayerSpec(channels=4, kernel=3),)

    class Twice(ConvNet):
        def __init__(self, spec: TwiceSpec, input_shape: tuple[int, ...]) -> None:
            super().__init__(ConvNetSpec(convs=spec.convs, hidden=(8,)), input_shape)

        def forward(self, inputs: torch.Tensor, state: Any, generator: Any) -> Any:
            features, state = super().forward(inputs, state, generator)
            return 2 * features, state

    register_torso("twice", TwiceSpec, Twice)
    network = build(InputSpec(**FRAMES), TwiceSpec())
    torch.testing.assert_close(network.mixed(frames())[0].output, network(frames())[0].output, rtol=0.05, atol=0.5)


@pytest.mark.parametrize("dueling", [False, True])
def test_large_weights_may_be_kept_rounded(dueling: bool) -> None:
    head = ScalarHeadSpec(num_actions=3, dueling=dueling, hidden=(300,) if dueling else ())
    network = q_network(head).requires_grad_(False)
    target, obs = copy.deepcopy(network), frames()
    round_large_weights(target)
    kept = {name for name, parameter in target.named_parameters() if parameter.dtype == torch.bfloat16}
    assert kept == {
        *("torso.convs.2.weight", "torso.convs.4.weight"),
        *(("head.value.dense.layers.0.weight", "head.advantage.dense.layers.0.weight") if dueling else ()),
    }
    assert torch.equal(target.mixed(obs)[0].output, network.mixed(obs)[0].output)
    learnt = build_network(network.spec, seeded(5)).requires_grad_(False)
    torch._foreach_copy_(list(target.parameters()), list(learnt.parameters()))
    assert torch.equal(target.mixed(obs)[0].output, learnt.mixed(obs)[0].output)
    resumed = copy.deepcopy(network)
    round_large_weights(resumed)
    resumed.load_state_dict(target.state_dict())
    assert torch.equal(resumed.mixed(obs)[0].output, learnt.mixed(obs)[0].output)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_a_maximum_is_taken_before_an_activation_that_never_falls(activation: Any) -> None:
    spec = ConvNetSpec(convs=(ConvLayerSpec(channels=2, kernel=3, pool="max"),), activation=activation)
    names = [type(layer).__name__ for layer in build(InputSpec(shape=(8, 8), layout="hw"), spec).torso.convs]
    assert names == (["Conv2d", "MaxPool2d", "ReLU"] if activation == "relu" else ["Conv2d", "GELU", "MaxPool2d"])


# -- input scaling -----------------------------------------------------------------------------------------------------


def test_scaling_by_hand() -> None:
    scaling = InputScaling(InputSpec(shape=(3,), scale=0.5, mean=(1.0, 0.0, -1.0), std=(2.0, 4.0, 0.5)))
    obs = torch.tensor([[4.0, 8.0, 2.0], [0.0, 0.0, 0.0]])
    assert scaling(obs).tolist() == [[0.5, 1.0, 4.0], [-0.5, 0.0, 2.0]]


@pytest.mark.parametrize(
    ("shape", "layout", "channels"), [((5, 7), "hw", 1), ((2, 5, 7), "chw", 2), ((5, 7, 2), "hwc", 2)]
)
def test_layouts_become_channels_first(shape: tuple[int, ...], layout: Any, channels: int) -> None:
    obs = np.random.default_rng(0).integers(256, size=(3, *shape)).astype(np.uint8)
    mean, std = (0.25, 0.5)[:channels], (0.5, 2.0)[:channels]
    scaling = InputScaling(InputSpec(shape=shape, dtype="uint8", layout=layout, scale=1 / 255, mean=mean, std=std))
    images = (np.moveaxis(obs, 3, 1) if layout == "hwc" else obs.reshape(3, channels, 5, 7)) / 255.0  # [B, C, 5, 7]
    per_channel = (1, channels, 1, 1)
    expected = (images - np.reshape(mean, per_channel)) / np.reshape(std, per_channel)
    got = scaling(torch.from_numpy(obs))
    assert got.dtype == torch.float32
    assert got.shape == (3, channels, 5, 7)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(), (1,), (6,), (2, 3)])
def test_without_a_layout_any_shape_is_a_vector(shape: tuple[int, ...]) -> None:
    obs = torch.arange(4.0 * int(np.prod(shape))).reshape(4, *shape)
    scaled = InputScaling(InputSpec(shape=shape))(obs)
    assert torch.equal(scaled, obs.reshape(4, -1))


@pytest.mark.parametrize("dtype", INPUT_DTYPES)
def test_every_dtype_that_the_wire_knows_is_taken(dtype: str) -> None:
    network = build(InputSpec(shape=(2,), dtype=dtype), MLPSpec(hidden=()))
    obs = np.array([[0, 1], [1, 0]]).astype(dtype)
    np.testing.assert_array_equal(output(network, obs), output(network, obs.astype(np.float32)))


def test_scaling_is_within_the_network_and_not_in_its_weights() -> None:
    plain = build(InputSpec(shape=(3,)), MLPSpec())
    scaled = build(InputSpec(shape=(3,), scale=2.0, mean=(1.0, 2.0, 3.0), std=(2.0, 2.0, 4.0)), MLPSpec())
    assert plain.state_dict().keys() == scaled.state_dict().keys()
    obs = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    by_hand = ((obs * 2 - [1, 2, 3]) / [2, 2, 4]).astype(np.float32)
    np.testing.assert_allclose(output(scaled, obs), output(plain, by_hand), rtol=1e-5, atol=1e-6)


# -- input statistics that change --------------------------------------------------------------------------------------

MEAN, STD = (5.0, -1.0, 0.25), (2.0, 4.0, 0.5)


def normalising(outputs: int = 2) -> Network:
    normalised = InputSpec(shape=(3,), scale=0.5, mean=(0.0,) * 3, std=(1.0,) * 3)
    spec = NetworkSpec(input=normalised, torso=MLPSpec(hidden=(4,)), head=ScalarHeadSpec(num_actions=outputs))
    return build_network(spec, seeded(0)).eval()


@pytest.mark.parametrize("form", [list, tuple, np.array, lambda x: np.array(x, np.float32)])
def test_input_statistics_are_set_in_place_and_in_the_spec(form: Any) -> None:
    network, other = normalising(), normalising()
    buffers = {name: buffer.data_ptr() for name, buffer in network.named_buffers()}
    network.set_input_statistics(form(MEAN), form(STD))
    assert {name: buffer.data_ptr() for name, buffer in network.named_buffers()} == buffers
    assert (network.spec.input.mean, network.spec.input.std) == (MEAN, STD)
    assert all(type(value) is float for value in (*network.spec.input.mean, *network.spec.input.std))
    assert network.spec == replace(other.spec, input=replace(other.spec.input, mean=MEAN, std=STD))
    obs = torch.randn(6, 3, generator=seeded(1)) * 5
    by_hand = (obs * 0.5 - torch.tensor(MEAN)) / torch.tensor(STD)
    assert torch.equal(network.scaling(obs), by_hand)
    assert torch.equal(network.readout(obs), other.readout(by_hand * 2))  # whose scale is a half
    assert torch.equal(network.readout(obs), build_like(network).readout(obs))


def build_like(network: Network) -> Network:
    """Build another network with the same specification and weights."""
    made = build_network(network.spec, seeded(7)).eval()
    made.load_state_dict(network.state_dict())
    return made


def test_statistics_of_an_image_are_its_channels() -> None:
    normalised = InputSpec(shape=(2, 4, 4), layout="chw", mean=(0.0, 0.0), std=(1.0, 1.0))
    network = build(normalised, MLPSpec(hidden=()))
    network.set_input_statistics([1.0, 2.0], [2.0, 4.0])
    scaled = network.scaling(torch.full((1, 2, 4, 4), 6.0))
    assert torch.equal(scaled[0, 0], torch.full((4, 4), 2.5))
    assert torch.equal(scaled[0, 1], torch.full((4, 4), 1.0))


def test_a_copied_networks_statistics_are_its_own() -> None:
    network = normalising()
    other = copy.deepcopy(network)
    network.set_input_statistics(MEAN, STD)
    assert other.spec == normalising().spec
    obs = torch.randn(6, 3, generator=seeded(1))
    assert torch.equal(other.readout(obs), normalising().readout(obs))
    other.set_input_statistics((9.0, 9.0, 9.0), STD)
    assert network.spec.input.mean == MEAN
    assert torch.equal(network.readout(obs), build_like(network).readout(obs))


def test_statistics_are_saved_and_served(tmp_path: Path) -> None:
    network = normalising()
    network.set_input_statistics(MEAN, STD)
    save_model(tmp_path, network, kind="policy", onnx=False)
    obs = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32) * 5
    card, loaded = load_model(tmp_path)
    assert card.network == loaded.spec == network.spec
    readout = network.readout(torch.from_numpy(obs)).detach().numpy()
    np.testing.assert_array_equal(Predictor.load(tmp_path).run(obs), readout)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.0, 0.0), STD, "mean must hold 3 values, one a feature or channel, got 2"),
        (MEAN, (1.0,) * 4, "std must hold 3 values, one a feature or channel, got 4"),
        (MEAN, (1.0, 0.0, 1.0), "each of std must be positive, got 0"),
        ((0.0, float("nan"), 0.0), STD, "each of mean must be a finite number, got nan"),
        (None, None, "mean must be a tuple, got None"),
    ],
)
def test_statistics_that_cannot_be_leave_the_network_as_it_was(mean: Any, std: Any, message: str) -> None:
    network = normalising()
    with pytest.raises(SpecError, match=message):
        network.set_input_statistics(mean, std)
    assert network.spec == normalising().spec
    assert network.scaling.mean.tolist() == [0.0] * 3


def test_a_network_that_does_not_normalise_has_no_statistics() -> None:
    network = build(InputSpec(shape=(3,)), MLPSpec())
    with pytest.raises(SpecError, match=r"must normalise its inputs.*InputSpec with mean and std"):
        network.set_input_statistics(MEAN, STD)


# -- dropout -----------------------------------------------------------------------------------------------------------


def test_dropout_keeps_the_expectation_and_scales_what_stays() -> None:
    dropped = Dropout(0.3).train()(torch.full((400, 500), 2.0), seeded(0))
    assert dropped.unique().tolist() == [0.0, pytest.approx(2 / 0.7)]
    share = float((dropped == 0).double().mean())
    assert abs(share - 0.3) < 5 * (0.3 * 0.7 / 200_000) ** 0.5  # five standard errors
    assert float(dropped.mean()) == pytest.approx(2.0, abs=0.02)


def test_dropouts_mask_is_the_generators() -> None:
    layer, x = Dropout(0.5).train(), torch.ones(1000)
    before = torch.get_rng_state()
    generator = seeded(3)
    first, second = layer(x, generator), layer(x, generator)
    assert torch.equal(first, layer(x, seeded(3)))
    assert not torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before), "the global generator was drawn from"


def test_dropout_is_nothing_in_evaluation() -> None:
    x, generator = torch.ones(10), seeded(0)
    state = generator.get_state()
    assert Dropout(0.5).eval()(x, generator) is x
    assert Dropout(0.0).train()(x, generator) is x
    assert torch.equal(generator.get_state(), state)


@pytest.mark.parametrize("torso", [MLPSpec(hidden=(50,), dropout=0.5), CONVNETS["one"]])
def test_a_training_networks_draws_come_from_the_generator(torso: Any) -> None:
    if isinstance(torso, ConvNetSpec):
        torso = ConvNetSpec(convs=torso.convs, hidden=(20,), dropout=0.5)
    network = build(InputSpec(shape=(6, 6), layout="hw"), torso)
    obs = torch.randn(4, 6, 6, generator=seeded(0))
    quiet, _ = network(obs)
    network.train()
    same, again, other = (network(obs, (), seeded(seed))[0].output for seed in (1, 1, 2))
    assert torch.equal(same, again)
    assert not torch.equal(same, other)
    assert not torch.equal(same, quiet.output)


def test_dropouts_gradient_flows_through_what_stayed() -> None:
    x = torch.ones(100, dtype=torch.float64, requires_grad=True)
    y = Dropout(0.5).train()(x, seeded(0))
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())


# -- initial weights ---------------------------------------------------------------------------------------------------


def same_weights(one: Network, other: Network) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_initial_weights_are_a_function_of_the_generator() -> None:
    network_input = InputSpec(shape=(8, 8), layout="hw")
    spec = net_spec("cnn", network_input)
    torch.manual_seed(5)
    one = build(network_input, spec, seed=1)
    torch.manual_seed(6)
    assert same_weights(one, build(network_input, spec, seed=1))
    assert not same_weights(one, build(network_input, spec, seed=2))
    generator = seeded(1)
    network_spec = NetworkSpec(input=network_input, torso=spec, head=LogitsHeadSpec(num_classes=3))
    assert same_weights(one, build_network(network_spec, generator))
    assert not same_weights(one, build_network(network_spec, generator)), "the generator must have moved on"


def test_building_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    build(InputSpec(shape=(4,)), MLPSpec())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_building_leaves_cudas_generator_alone() -> None:
    torch.cuda.manual_seed_all(123)
    before = torch.cuda.get_rng_state()
    build(InputSpec(shape=(4,)), MLPSpec())
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_without_a_generator_the_global_one_decides() -> None:
    spec = NetworkSpec(input=InputSpec(shape=(4,)), torso=MLPSpec(), head=ScalarHeadSpec(num_actions=2))
    torch.manual_seed(1)
    one = build_network(spec)
    torch.manual_seed(1)
    assert same_weights(one, build_network(spec))
    assert not same_weights(one, build_network(spec))


def test_networks_built_in_several_threads_are_those_of_one() -> None:
    spec = MLPSpec(hidden=(64, 64))
    expected = [build(InputSpec(shape=(16,)), spec, seed=seed) for seed in range(4)]
    before = torch.get_rng_state()
    wrong: list[int] = []

    def work(seed: int) -> None:
        for _ in range(50):
            if not same_weights(build(InputSpec(shape=(16,)), spec, seed=seed), expected[seed]):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert torch.equal(torch.get_rng_state(), before)


# -- sizes -------------------------------------------------------------------------------------------------------------


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_lenet_has_the_published_parameters() -> None:
    network_input = InputSpec(shape=(28, 28), dtype="uint8", layout="hw", scale=1 / 255)
    network = build(network_input, net_spec("lenet", network_input), outputs=10)
    assert num_parameters(network) == 61_706  # LeNet-5 on 28x28, counted by hand: 156 + 2416 + 48120 + 10164 + 850
    assert tuple(network.torso.dense.layers[0].weight.shape) == (120, 16 * 5 * 5)


def test_the_vgg_net_has_its_parameters() -> None:
    network_input = InputSpec(shape=(28, 28), dtype="uint8", layout="hw", scale=1 / 255)
    network = build(network_input, net_spec("vgg", network_input), outputs=10)
    convs = 9 * (1 * 32 + 32 * 64 + 64 * 64 + 64 * 128 + 128 * 128)  # without biases, which the norms have
    norms = 2 * (32 + 64 + 64 + 128 + 128)
    assert num_parameters(network) == convs + norms + (128 * 3 * 3 + 1) * 10


@pytest.mark.parametrize("num_actions", [4, 18])
def test_the_nature_network_has_the_published_parameters(num_actions: int) -> None:
    network_input = InputSpec(shape=(4, 84, 84), dtype="uint8", layout="chw", scale=1 / 255)
    spec = NetworkSpec(
        input=network_input, torso=net_spec("nature", network_input), head=ScalarHeadSpec(num_actions=num_actions)
    )
    network = build_network(spec, seeded(0))
    # 8 * 8 * 4 * 32 + 32, 4 * 4 * 32 * 64 + 64, 3 * 3 * 64 * 64 + 64, 7 * 7 * 64 * 512 + 512
    assert num_parameters(network.torso) == 8_224 + 32_832 + 36_928 + 1_606_144 == 1_684_128
    assert num_parameters(network) == 1_684_128 + 513 * num_actions


def test_the_nips_network_has_its_parameters() -> None:
    network_input = InputSpec(shape=(4, 84, 84), dtype="uint8", layout="chw", scale=1 / 255)
    network = build(network_input, net_spec("nips", network_input), outputs=6)
    # 8 * 8 * 4 * 16 + 16, 4 * 4 * 16 * 32 + 32, 9 * 9 * 32 * 256 + 256
    assert num_parameters(network.torso) == 4_112 + 8_224 + 663_808
    assert num_parameters(network) == 676_144 + 257 * 6


@pytest.mark.parametrize(("net", "least"), [("lenet", 12), ("nature", 36), ("nips", 20), ("cnn", 2)])
def test_images_that_do_not_fit_are_refused_with_the_least_that_do(net: str, least: int) -> None:
    def built(height: int, width: int) -> Network:
        network_input = InputSpec(shape=(1, height, width), layout="chw")
        return build(network_input, net_spec(net, network_input))

    with pytest.raises(SpecError, match=f"{least - 1}x99 pixels is too small .* at least {least}x{least}"):
        built(least - 1, 99)
    with pytest.raises(SpecError, match=f"99x{least - 1} pixels is too small .* at least {least}x{least}"):
        built(99, least - 1)
    fitting = built(least, least + 7)
    assert output(fitting, np.zeros((2, 1, least, least + 7), dtype=np.float32)).shape == (2, 3)


def test_a_vector_does_not_fit_a_convolutional_torso() -> None:
    with pytest.raises(SpecError, match=r"takes images .* this input is a vector of 12 values; use net='mlp'"):
        build(InputSpec(shape=(12,)), CONVNETS["one"])
