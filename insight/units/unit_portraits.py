"""What excites a network's units: which units to look at, the inputs that drive them most, their optimal stimuli."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torso.errors import ConfigError
from torso.insight.units.bounds import Bounds
from torso.insight.units.layers import OUTPUT, TopInputs, find_layer, layers, responses, strongest
from torso.insight.units.stimulus import Stimulus, optimal_stimulus
from torso.nets import Network


@dataclass(frozen=True)
class LayerUnits:
    """Some units of a layer."""

    layer: str
    units: tuple[int, ...]


@dataclass(frozen=True)
class Excitement:
    """Units of a layer, the inputs that drive each most, and each one's optimal stimulus."""

    layer: str
    units: tuple[int, ...]
    tops: tuple[TopInputs, ...]
    stimuli: Stimulus


def parse_units(network: Network, words: Sequence[str]) -> list[LayerUnits]:
    """Units named as ``LAYER:INDEX``, by layer.

    Raises:
        ConfigError: a word that names none.
        InputError: no such layer or unit; the message lists what there is.
    """
    found: dict[str, list[int]] = {}
    for word in words:
        layer, colon, index = word.rpartition(":")
        if not colon or not index.isdecimal():
            there = ", ".join(f"{known.name} ({known.num_units} units)" for known in layers(network))
            raise ConfigError(f"a unit is LAYER:INDEX, such as {OUTPUT}:0, got {word!r}; there are {there}")
        find_layer(network, layer, int(index))
        found.setdefault(layer, []).append(int(index))
    return [LayerUnits(layer, tuple(dict.fromkeys(units))) for layer, units in found.items()]


def telling_units(network: Network, inputs: Tensor, count: int) -> list[LayerUnits]:
    """Of each layer but the poolings the ``count`` units that tell inputs apart most, by their drives' deviation.

    Of the output it is all units, up to ten. inputs: [N, *shape] raw.
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


def excite(
    network: Network,
    chosen: LayerUnits,
    inputs: Tensor,
    bounds: Bounds,
    generator: torch.Generator,
    *,
    k: int,
    same_distance: bool,
) -> Excitement:
    """What excites units of a layer. inputs: [N, *shape] raw, of which the ``k`` best are found.

    With ``same_distance`` a stimulus is no further from the ground than the unit's best input: of an image, it takes no
    more ink.
    """
    drives = responses(network, inputs, chosen.layer)  # [N, units]
    tops = tuple(strongest(drives[:, unit], k) for unit in chosen.units)
    start = torch.stack([inputs[top.rows[0]] for top in tops]).float()  # [U, *shape]
    furthest = bounds.distance(start) if same_distance else None
    stimuli = optimal_stimulus(network, chosen.layer, chosen.units, bounds, generator, start=start, furthest=furthest)
    return Excitement(chosen.layer, chosen.units, tops, stimuli)
