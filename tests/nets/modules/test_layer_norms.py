"""Layer norms after a convolution: values worked by hand, gradients, memory formats, precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy_layers import layer_norm
from torch import Tensor, nn

from torso.nets import ConvLayerSpec, ConvNet, ConvNetSpec, MLPSpec, net_spec
from torso.nets.modules.layers import ChannelLayerNorm, ElementLayerNorm, weights_of
from torso.nets.modules.memory_meter import MemoryMeter
from torso.nets.specs.inputs import InputSpec
from torso.nets.specs.torsos import LAYER_NORM_KINDS

# Mean 4 and deviation 2 over all values; over the channels of a pixel (8, 4) and (4, 0) have deviation 2, (4, 4) has 0.
IMAGE = [[[8.0, 4.0], [4.0, 4.0]], [[4.0, 4.0], [4.0, 0.0]]]
OF_CHANNELS = ([2.0, 10.0], [0.5, -1.0])
OF_ELEMENTS = (
    [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]],
    [[[0.0, 1.0], [2.0, 3.0]], [[4.0, 5.0], [6.0, 7.0]]],
)
BY_HAND = {
    "image": (OF_CHANNELS, [[[4.5, 0.5], [0.5, 0.5]], [[-1.0, -1.0], [-1.0, -21.0]]]),
    "channels": (OF_CHANNELS, [[[2.5, 0.5], [0.5, 2.5]], [[-11.0, -1.0], [-1.0, -11.0]]]),
    "elements": (OF_ELEMENTS, [[[2.0, 1.0], [2.0, 3.0]], [[4.0, 5.0], [6.0, -9.0]]]),
}


def norm_of(kind: Any, shape: tuple[int, int, int], seed: int = 0) -> nn.Module:
    """Return the norm that a convolution of the kind has, for maps of a shape, with a scale and an offset drawn."""
    channels, height, width = shape
    conv = ConvLayerSpec(channels=channels, kernel=1)
    torso = ConvNet(ConvNetSpec(convs=(conv,), layer_norm=True, layer_norm_kind=kind), (1, height, width))
    norm = torso.convs[1]
    generator = torch.Generator().manual_seed(seed)
    for parameter in norm.parameters():
        nn.init.normal_(parameter, generator=generator)
    return norm


def drawn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(1))


def by_oracle(kind: str, x: Tensor, norm: nn.Module) -> np.ndarray[Any, Any]:
    rows, channels = x.numpy(), x.shape[1]
    weight, bias = (each.detach().numpy() for each in norm.parameters())
    if kind == "channels":
        pixels = np.moveaxis(rows, 1, 3)  # [B, H, W, C]
        y = layer_norm(pixels.reshape(-1, channels), weight, bias, eps=1e-6)
        return np.moveaxis(y.reshape(pixels.shape), 3, 1)
    ones, zeros = np.ones(1), np.zeros(1)
    y = layer_norm(rows.reshape(len(rows), -1), ones, zeros, eps=1e-5).reshape(rows.shape)
    return y * weight.reshape(1, channels, *weight.shape[1:] or (1, 1)) + bias.reshape(
        1, channels, *bias.shape[1:] or (1, 1)
    )


@pytest.mark.parametrize("kind", LAYER_NORM_KINDS)
def test_an_image_worked_by_hand(kind: str) -> None:
    (scale, offset), expected = BY_HAND[kind]
    norm = norm_of(kind, (2, 2, 2))
    norm.load_state_dict({"weight": torch.tensor(scale), "bias": torch.tensor(offset)})
    np.testing.assert_allclose(norm(torch.tensor([IMAGE]))[0].detach().numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 1, 1), (5, 1, 3)])
@pytest.mark.parametrize("kind", LAYER_NORM_KINDS)
def test_values_are_the_equations_in_the_memory_format_of_the_input(
    kind: str, shape: tuple[int, int, int], memory_format: torch.memory_format
) -> None:
    norm, x = norm_of(kind, shape).double(), 1e-2 * drawn(6, *shape)  # so small that the epsilon tells
    x = x.to(memory_format=memory_format)
    y = norm(x)
    np.testing.assert_allclose(y.detach().numpy(), by_oracle(kind, x, norm), rtol=1e-10, atol=1e-12)
    assert y.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("kind", LAYER_NORM_KINDS)
def test_gradients_are_those_of_finite_differences(kind: str, memory_format: torch.memory_format) -> None:
    norm = norm_of(kind, (3, 2, 3)).double()
    x = drawn(2, 3, 2, 3).to(memory_format=memory_format).requires_grad_()

    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(run, (x, *norm.parameters()))


def test_each_kind_has_its_parameters_and_begins_as_no_change_of_scale() -> None:
    expected = {"image": (3,), "channels": (3,), "elements": (3, 4, 5)}
    for kind in LAYER_NORM_KINDS:
        spec = ConvNetSpec(convs=(ConvLayerSpec(channels=3, kernel=1),), layer_norm=True, layer_norm_kind=kind)  # type: ignore[arg-type]
        torso = ConvNet(spec, (1, 4, 5))
        assert torso.convs[1].weight.shape == torso.convs[1].bias.shape == expected[kind]
        assert (torso.convs[1].weight == 1).all()
        assert not torso.convs[1].bias.any()
        assert [weight.shape for weight in weights_of(torso)] == [(3, 1, 1, 1)]


@pytest.mark.parametrize("kind", LAYER_NORM_KINDS)
def test_fully_connected_layers_have_one_layer_norm(kind: Any) -> None:
    images = InputSpec(shape=(4, 10, 10), layout="chw")
    torso = ConvNet(net_spec("minatar", images, layer_norm=True, layer_norm_kind=kind), (4, 10, 10))
    assert type(torso.dense.layers[1]) is nn.LayerNorm
    assert torso.dense.layers[1].normalized_shape == (128,)
    assert net_spec("mlp", images, layer_norm=True, layer_norm_kind=kind) == MLPSpec(layer_norm=True)


@pytest.mark.parametrize("kind", LAYER_NORM_KINDS)
def test_bfloat16_is_close_and_norms_compute_in_float32(kind: Any) -> None:
    spec = ConvNetSpec(
        convs=(ConvLayerSpec(channels=8, kernel=3), ConvLayerSpec(channels=6, kernel=3, pool="max")),
        hidden=(16,),
        layer_norm=True,
        layer_norm_kind=kind,
    )
    torch.manual_seed(0)
    torso, obs = ConvNet(spec, (2, 9, 9)), drawn(4, 2, 9, 9, dtype=torch.float32)
    seen = []
    for norm in (torso.convs[1], torso.convs[4]):
        norm.register_forward_hook(lambda _, args, y: seen.append((args[0].dtype, y.dtype)))
    exact, _ = torso(obs, (), None)
    seen.clear()
    rounded, _ = torso.mixed(obs, (), None)
    assert seen == [(torch.float32, torch.float32)] * 2
    assert rounded.dtype == torch.float32
    assert (rounded - exact).norm() <= 0.02 * exact.norm()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("norm", [ChannelLayerNorm(8), ElementLayerNorm(8, 5, 6)], ids=["channels", "elements"])
def test_the_memory_of_a_norm_is_counted_before_it_is_taken(
    norm: nn.Module, memory_format: torch.memory_format
) -> None:
    x = torch.zeros(2, 8, 5, 6).to(memory_format=memory_format)
    with torch.no_grad(), MemoryMeter(1 << 20) as meter:
        y = norm(x)
    assert y.nbytes <= meter.peak <= 3 * y.nbytes


@pytest.mark.parametrize("kind", LAYER_NORM_KINDS)
def test_the_meta_device_computes_shapes(kind: Any) -> None:
    with torch.device("meta"):
        spec = ConvNetSpec(convs=(ConvLayerSpec(channels=4, kernel=3),), layer_norm=True, layer_norm_kind=kind)
        torso = ConvNet(spec, (2, 9, 9))
        features, _ = torso.mixed(torch.empty(5, 2, 9, 9), (), None)
    assert features.shape == (5, 4 * 7 * 7)
    features.sum().backward()
    assert all(weight.grad is not None and weight.grad.shape == weight.shape for weight in torso.parameters())
