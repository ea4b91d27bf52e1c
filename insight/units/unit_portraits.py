"""Unit portraits: select units, find the inputs that drive them most, and their optimal stimuli."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torso.errors import ConfigError
from torso.insight.units.bounds import Bounds
from torso.insight.units.layers import OUTPUT, TopInputs, find_layer, layers, responses, top_k_drives
from torso.insight.units.stimulus import Stimulus, optimal_stimulus
from torso.nets import Network


@dataclass(frozen=True)
class LayerUnits:
    """A selection of units of one layer."""

    layer: str
    units: tuple[int, ...]


@dataclass(frozen=True)
class UnitExcitation:
    """Units of a layer, the inputs that drive each most, and each one's optimal stimulus."""

    layer: str
    units: tuple[int, ...]
    tops: tuple[TopInputs, ...]
    stimuli: Stimulus


def parse_units(network: Network, words: Sequence[str]) -> list[LayerUnits]:
    """Parse units given as ``LAYER:INDEX``, grouped by layer.

    Raises:
        ConfigError: a word of another form.
        InputError: no such layer or unit; the message lists the layers.
    """
    found: dict[str, list[int]] = {}
    for word in words:
        layer, colon, index = word.rpartition(":")
        if not colon or not index.isdecimal():
            available = ", ".join(f"{known.name} ({known.num_units} units)" for known in layers(network))
            raise ConfigError(f"unit must be LAYER:INDEX, such as {OUTPUT}:0, got {word!r}; there are {available}")
        find_layer(network, layer, int(index))
        found.setdefault(layer, []).append(int(index))
    return [LayerUnits(layer, tuple(dict.fromkeys(units))) for layer, units in found.items()]


def most_varying_units(network: Network, inputs: Tensor, count: int) -> list[LayerUnits]:
    """Select the ``count`` units of each layer whose drives deviate most over the inputs; poolings are skipped.

    Of the output, all units are selected, up to ten. inputs: [N, *shape] raw.
    """
    chosen = []
    for layer in layers(network):
        if layer.name.startswith("pool"):
            continue
        if layer.name == OUTPUT:
            chosen.append(LayerUnits(OUTPUT, tuple(range(min(10, layer.num_units)))))
            continue
        spread = responses(network, inputs, layer.name).std(dim=0, correction=0)
        best = spread.argsort(descending=True, stable=True)[:count]
        chosen.append(LayerUnits(layer.name, tuple(best.tolist())))
    return chosen


def find_unit_excitation(
    network: Network,
    chosen: LayerUnits,
    inputs: Tensor,
    bounds: Bounds,
    generator: torch.Generator,
    *,
    k: int,
    same_distance: bool,
) -> UnitExcitation:
    """Find the ``k`` top inputs and the optimal stimulus of each unit of a layer. inputs: [N, *shape] raw.

    With ``same_distance`` a stimulus is no further from the baseline than the unit's best input: of an image, it has no
    more ink.
    """
    drives = responses(network, inputs, chosen.layer)  # [N, units]
    tops = tuple(top_k_drives(drives[:, unit], k) for unit in chosen.units)
    start = torch.stack([inputs[top.rows[0]] for top in tops]).float()  # [U, *shape]
    max_distance = bounds.distance(start) if same_distance else None
    stimuli = optimal_stimulus(
        network, chosen.layer, chosen.units, bounds, generator, start=start, max_distance=max_distance
    )
    return UnitExcitation(chosen.layer, chosen.units, tops, stimuli)
