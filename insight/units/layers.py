"""Inspect a network: its layers by name, their activations and weights, and the inputs that excite their units.

Layers have their usual names: ``conv1``, ``pool1``, ``conv2``, ``dense1``, ..., ``output``. A layer's values
are those after its normalisation and activation function; a pooling is a layer of its own. A *unit* is one feature of
a dense layer or one channel of a convolution. How much an input excites it is its *drive*, or pre-activation: what
goes into its activation function, which still tells inputs apart where a sigmoid saturates and a rectifier is 0; of a
channel, the drive at its best position (Zeiler & Fergus 2014).

Everything runs in evaluation mode and leaves the network as it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torso.errors import InputError
from torso.nets.modules.layers import Dropout
from torso.nets.modules.network import Network

OUTPUT = "output"
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_NOT_SHOWN = (Dropout, nn.Dropout, nn.Dropout2d, nn.Flatten)  # in evaluation mode they pass values on
_BATCH_ROWS = 512  # of one forward


@dataclass(frozen=True)
class Layer:
    """A named layer of a network. ``shape`` is that of its values for one input: (F,), or (C, H, W) of a map."""

    name: str
    shape: tuple[int, ...]

    @property
    def num_units(self) -> int:
        """Number of features or channels."""
        return self.shape[0]

    @property
    def is_map(self) -> bool:
        """Whether its units have a position in the image."""
        return len(self.shape) > 1

    def __str__(self) -> str:
        return f"{self.name} ({' × '.join(map(str, self.shape))})"


class LayerValues(NamedTuple):
    """Activations of a layer for a batch, and its drives, the same before the activation function; [B, *shape] each."""

    values: Tensor
    drives: Tensor


@dataclass(frozen=True)
class FirstLayerWeights:
    """Weights between the input and the first layer that has any.

    ``weights``: [units, C, h, w] where a unit's input is an image (a filter, or the whole image), else [units, F].
    """

    layer: str
    weights: Tensor

    @property
    def are_images(self) -> bool:
        """Whether each unit's weights are an image."""
        return self.weights.dim() == 4


class TopInputs(NamedTuple):
    """Inputs that excite a unit most, best first. ``rows``: int64 [k]; ``drives``: float [k]."""

    rows: Tensor
    drives: Tensor


# -- layers and their values -------------------------------------------------------------------------------------------


def layers(network: Network) -> tuple[Layer, ...]:
    """List the layers from the input to the output."""
    device = network.scaling.scale.device
    obs = torch.zeros((1, *network.spec.input.shape), device=device)
    return tuple(Layer(name, tuple(values.shape[1:])) for name, values in activations(network, obs).items())


def find_layer(network: Network, name: str, unit: int | None = None) -> Layer:
    """Find a layer by its name.

    Raises:
        InputError: no such layer, or (where ``unit`` is given) no such unit in it; the message lists the layers.
    """
    known = layers(network)
    sizes = ", ".join(f"{layer.name} (units 0 to {layer.num_units - 1})" for layer in known)
    for layer in known:
        if layer.name == name:
            if unit is not None and not 0 <= unit < layer.num_units:
                raise InputError("unit", expected=f"one of {sizes}", got=f"{name}:{unit}")
            return layer
    raise InputError("layer", expected=f"one of {sizes}", got=repr(name))


@torch.no_grad()
def activations(network: Network, obs: Tensor) -> dict[str, Tensor]:
    """Compute every layer's activations, in the order of the forward pass.

    obs: [B, *shape] raw, in any dtype. Returns float [B, F] or [B, C, H, W] by layer name; ``output`` is the readout,
    or the output of a binary head that has only one.
    """
    return {name: layer.values for name, layer in layer_values(network, obs).items()}


def layer_values(network: Network, obs: Tensor) -> dict[str, LayerValues]:
    """Compute every layer's activations and drives, with gradients. obs: as in `activations`."""
    calls: list[_Call] = []

    def record_call(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
            calls.append(_Call(module, inputs[0], output))

    layer_names = _layer_names(network.torso)
    with evaluation_mode(network):
        handles = [module.register_forward_hook(record_call) for module in layer_names]
        try:
            prediction, _ = network(obs)
        finally:
            for handle in handles:
                handle.remove()
        found = _group_calls(calls, layer_names)
    output = network.head.readout(prediction)
    if output.shape[1] == 2 * prediction.output.numel() / len(output):  # a binary head with one output
        output = prediction.output.reshape(-1, 1)
    found[OUTPUT] = LayerValues(output, output)
    return found


@contextmanager
def evaluation_mode(network: Network) -> Iterator[None]:
    """Put every module into evaluation mode, and back into its own afterwards."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


class _Call(NamedTuple):
    module: nn.Module
    input: Tensor
    output: Tensor


def _layer_names(torso: nn.Module) -> dict[nn.Module, str]:
    """Map each leaf module to the name of its layer: a convolution or dense layer and what follows it."""
    layer_names: dict[nn.Module, str] = {}
    counts = {"conv": 0, "dense": 0}
    name = None
    for module in torso.modules():
        if any(True for _ in module.children()) or isinstance(module, _NOT_SHOWN):
            continue
        kind = "conv" if isinstance(module, _CONVOLUTIONS) else "dense" if isinstance(module, nn.Linear) else None
        if kind is not None:
            counts[kind] += 1
            name = f"{kind}{counts[kind]}"
        if name is not None:
            layer_names[module] = name
    return layer_names


def _group_calls(calls: Sequence[_Call], layer_names: dict[nn.Module, str]) -> dict[str, LayerValues]:
    """Group the recorded calls of a forward by layer; return each layer's values and drives."""
    order = {name: index for index, name in enumerate(dict.fromkeys(layer_names.values()))}
    by_layer: dict[str, list[_Call]] = {}
    current = ""
    for call in calls:
        name = layer_names[call.module]
        # One activation module may serve several layers: it belongs to the one that is being computed.
        current = name if not current or order[name] > order[current] else current
        by_layer.setdefault(current, []).append(call)
    found: dict[str, LayerValues] = {}
    for name, group in by_layer.items():
        pools = [index for index, call in enumerate(group) if isinstance(call.module, _POOLS)]
        if not pools:
            found[name] = LayerValues(group[-1].output, _drive(group))
            continue
        # A pooling before the activation function computes the same with less work: the layer's values are then those
        # that the function would have returned at every position.
        before, after = group[: pools[0]], group[pools[0] + 1 :]
        values = group[pools[0]].input
        drive = _drive(before) if before else values
        for call in after:
            if not isinstance(call.module, _POOLS):
                values = call.module(values)
        found[name] = LayerValues(values, drive)
        pool = group[pools[0]].module
        pooled = group[-1].output
        found[name.replace("conv", "pool")] = LayerValues(pooled, pool(drive) if _is_max_pool(pool) else pooled)
    return found


def _is_max_pool(pool: nn.Module) -> bool:
    """Whether the pooling is a maximum, whose pooled drives are the drives of the pooled values."""
    return isinstance(pool, (nn.MaxPool2d, nn.AdaptiveMaxPool2d))


def _drive(group: Sequence[_Call]) -> Tensor:
    """Return the input of the activation function, which is the module without parameters."""
    for call in group:
        if not isinstance(call.module, _POOLS) and not any(True for _ in call.module.parameters()):
            return call.input
    return group[-1].output


# -- weights -----------------------------------------------------------------------------------------------------------


def first_layer_weights(network: Network) -> FirstLayerWeights:
    """Return the weights of the first layer; those of the head where the torso has no layers.

    A dense layer's weights are images where the network's input is one. They apply to the scaled input.

    Raises:
        InputError: the first weights are neither a convolution's nor a dense layer's.
    """
    for part, name in ((network.torso, None), (network.head, OUTPUT)):
        for module in part.modules():
            if isinstance(module, nn.Conv2d):
                return FirstLayerWeights(name or "conv1", module.weight.detach())
            if isinstance(module, nn.Linear) and module.in_features == network.spec.input.size:
                return FirstLayerWeights(name or "dense1", _as_images(module.weight.detach(), network))
            if next(module.parameters(recurse=False), None) is not None:
                break
    raise InputError(
        "model",
        expected="a network that begins with a convolution or a dense layer",
        got=f"a {type(network.torso).__name__}, whose first weights have no picture",
    )


def unit_weights(network: Network, layer: str, unit: int) -> Tensor | None:
    """Return the weights of a unit: of a pooling, those of the layer before it.

    [C, h, w] of a convolution, and of a dense layer that sees a map or an image; [F] of other dense layers. None where
    the layer has weights of another kind.

    Raises:
        InputError: no such layer or unit.
    """
    find_layer(network, layer, unit)
    if layer == OUTPUT:
        modules: Iterable[nn.Module] = network.head.modules()
    else:
        names = _layer_names(network.torso)
        modules = (module for module, name in names.items() if name == layer.replace("pool", "conv"))
    found = [module for module in modules if isinstance(module, (nn.Conv2d, nn.Linear))]
    if not found or unit >= len(found[-1].weight):
        return None
    weights = found[-1].weight.detach()[unit]
    if weights.dim() > 1:
        return weights
    known = layers(network)
    before = [each.shape for each in known[: [each.name for each in known].index(layer)]]
    seen = before[-1] if before else network.spec.input.tensor_shape
    return weights.reshape(seen) if len(seen) == 3 and math.prod(seen) == len(weights) else weights


def _as_images(weights: Tensor, network: Network) -> Tensor:
    spec = network.spec.input
    if spec.layout is not None:
        return weights.reshape(-1, *spec.tensor_shape)
    if spec.image is not None:  # a flat input holds a pixel's channels together
        return weights.reshape(-1, spec.image.height, spec.image.width, spec.image.channels).permute(0, 3, 1, 2)
    return weights


# -- units -------------------------------------------------------------------------------------------------------------


def unit_drives(network: Network, obs: Tensor, layer: str) -> Tensor:
    """Compute each unit's drive for each input, with gradients. obs: [B, *shape] raw. Returns [B, units]."""
    drives = layer_values(network, obs)[layer].drives
    return drives.flatten(2).amax(dim=2) if drives.dim() > 2 else drives


@torch.no_grad()
def responses(network: Network, inputs: Tensor, layer: str) -> Tensor:
    """Compute `unit_drives` of many inputs in batches. inputs: [N, *shape] raw. Returns float32 [N, units] on the CPU.

    Raises:
        InputError: no such layer.
    """
    find_layer(network, layer)
    device = network.scaling.scale.device
    return torch.cat(
        [unit_drives(network, part.to(device), layer).float().cpu() for part in torch.split(inputs, _BATCH_ROWS)]
    )


def top_inputs(network: Network, inputs: Tensor, layer: str, unit: int, k: int = 8) -> TopInputs:
    """Find the ``k`` inputs (all of them, where there are fewer) that excite a unit most.

    inputs: [N, *shape] raw.

    Raises:
        InputError: no such layer or unit.
    """
    find_layer(network, layer, unit)
    return top_k_drives(responses(network, inputs, layer)[:, unit], k)


def top_k_drives(drives: Tensor, k: int) -> TopInputs:
    """Select the ``k`` largest of a unit's drives [N], best first, the earlier one among equals."""
    rows = drives.argsort(descending=True, stable=True)[:k]
    return TopInputs(rows, drives[rows])
