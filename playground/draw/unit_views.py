"""Views of a unit: its weights, the images that excite it most, and its optimal stimulus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from torso.errors import TorsoError
from torso.playground.draw.network_views import NetworkViews, Plate, planes_of, scaled

if TYPE_CHECKING:
    from torch import Tensor

    from torso.nets import ModelCard, Network

NUM_TOP = 10
MOST_IMAGES = 2_000  # test images that are looked through
SEED = 0  # of the noise from which a stimulus rises


@dataclass(frozen=True, eq=False)
class UnitView:
    """View of one unit. ``plates``: of its weights (-1 to 1 of the largest), its stimulus, and each of its images."""

    layer: str
    unit: int
    num_units: int
    plates: list[Plate]
    drives: list[float]
    """Of the stimulus, and of each image."""
    note: str
    """Why there are no images; empty where there are."""


class UnitViews:
    """Views of the units of networks, and the data sets that they were fitted to. One thread at a time."""

    def __init__(self, networks: NetworkViews) -> None:
        self._networks = networks
        self._images: dict[str, tuple[Tensor | None, str]] = {}
        self._drives: dict[tuple[str, str], Tensor] = {}

    def look(self, model: str, layer: str, unit: int) -> UnitView:
        """Show a unit. Takes a second or so. Raises InputError where there is no such layer, unit, or image input."""
        import torch

        from torso.insight.units.bounds import input_bounds
        from torso.insight.units.layers import find_layer, responses, top_k_drives, unit_weights
        from torso.insight.units.stimulus import optimal_stimulus

        card, network, image = self._networks.load_of_images(model)
        num_units = find_layer(network, layer, unit).num_units
        plates = []
        weights = unit_weights(network, layer, unit)
        if weights is not None:
            values = weights.float().numpy()
            largest = float(np.abs(values).max()) or 1.0
            shown = values.reshape(-1, *(values.shape[1:] or (1, 1)))
            plates.append(Plate("weights", *scaled(shown, -largest, largest), len(values)))
        images, note = self._images_of(model)
        bounds = input_bounds(card.network.input)
        top, start = [], None
        if images is not None:
            if (model, layer) not in self._drives:
                self._drives[model, layer] = responses(network, images, layer)
            found = top_k_drives(self._drives[model, layer][:, unit], NUM_TOP)
            top = [
                (images[row].numpy(), drive)
                for row, drive in zip(found.rows.tolist(), found.drives.tolist(), strict=True)
            ]
            start = images[found.rows[:1]].float()
        stimulus = optimal_stimulus(
            network,
            layer,
            (unit,),
            bounds,
            torch.Generator().manual_seed(SEED),
            start=start,
            max_distance=None if start is None else bounds.distance(start),
        )
        shown_inputs = [("stimulus", stimulus.inputs[0].numpy()), *(("image", pixels) for pixels, _ in top)]
        for name, pixels in shown_inputs:
            planes = planes_of(pixels.astype(np.float32), image, card.network.input.layout)
            plates.append(Plate(name, *scaled(planes, 0.0, image.max_value), len(planes)))
        drives = [float(stimulus.drives[0]), *(drive for _, drive in top)]
        return UnitView(layer, unit, num_units, plates, drives, note)

    def _images_of(self, model: str) -> tuple[Tensor | None, str]:
        """Load test images of a model's own data, [N, *shape], or why there are none; nothing is downloaded."""
        if model not in self._images:
            self._images[model] = _load_images(*self._networks.load(model))
        return self._images[model]


def _load_images(card: ModelCard, network: Network) -> tuple[Tensor | None, str]:
    import torch

    from torso.envs import dataset_names, load_dataset
    from torso.insight.inspect.held_out import load_test_data, source_of
    from torso.nets import Predictor, TorchBackend

    source = source_of(card)
    if source is None:
        return None, "The model does not say which data it was fitted to."
    try:
        is_own = source["name"] in dataset_names()
        data = load_dataset(download=False, **source).test if is_own else load_test_data(card)
        if data is None or not len(data):
            return None, "There are no test images of its data."
        prepared: NDArray[np.generic] = Predictor(card, TorchBackend(network)).prepare(data.inputs[:MOST_IMAGES])
        return torch.from_numpy(prepared.copy()), ""
    except TorsoError as error:
        return None, f"The images that it learned from are not at hand: {error}"
