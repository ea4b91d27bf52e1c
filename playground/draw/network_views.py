"""Views of a network: the input that it is given for an image, and the activations of each of its layers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from torso.errors import InputError
from torso.image_spec import ImageSpec

if TYPE_CHECKING:
    from torso.nets import ModelCard, Network

MOST_UNITS = 512  # of a layer that are shown


@dataclass(frozen=True, eq=False)
class Plate:
    """Pictures of a layer, or of the input: uint8 [units, height, width].

    0 to 255 stand for ``low`` to ``high``; a unit without a place in the image has one pixel.
    """

    name: str
    pixels: NDArray[np.uint8]
    low: float
    high: float
    num_units: int
    """Of the whole layer; more than there are pictures where it is large."""


class NetworkViews:
    """Networks of model directories by name, loaded when they are first looked into. One thread at a time."""

    def __init__(self, directories: Mapping[str, Path]) -> None:
        self._directories = dict(directories)
        self._loaded: dict[str, tuple[ModelCard, Network]] = {}

    def __contains__(self, model: str) -> bool:
        return model in self._directories

    @property
    def models(self) -> list[str]:
        """Names of the models."""
        return list(self._directories)

    def load(self, model: str) -> tuple[ModelCard, Network]:
        """Load a model's network. Raises TorsoError as `torso.nets.load_model` does."""
        if model not in self._loaded:
            import torch

            from torso.nets import load_model

            torch.set_num_threads(1)  # the server and the browser have the rest
            self._loaded[model] = load_model(self._directories[model])
        return self._loaded[model]

    def load_of_images(self, model: str) -> tuple[ModelCard, Network, ImageSpec]:
        """`load` a network whose inputs are images. Raises InputError for another one."""
        card, network = self.load(model)
        spec = card.network.input
        if spec.image is None:
            raise InputError("model", expected="a network of images", got=f"one of {list(spec.shape)}")
        return card, network, spec.image

    def look(self, model: str, file: bytes, hidden: Collection[str] = ()) -> list[Plate]:
        """Show the input that the network is given for an image file, and its layers in their order.

        ``hidden``: layers whose pictures are left out; they have none, but are named. Raises InputError for an image
        without strokes, or one that cannot be decoded.
        """
        import torch

        from torso.insight.units.layers import OUTPUT, activations
        from torso.nets.prediction.image_inputs import decode_inputs

        card, network, image = self.load_of_images(model)
        spec = card.network.input
        obs = decode_inputs([file], spec, fields=("drawing",))
        planes = planes_of(obs[0].astype(np.float32), image, spec.layout)
        plates = [Plate("input", *scaled(planes, 0.0, image.max_value), len(planes))]
        found = activations(network, torch.from_numpy(obs))
        for name, values in found.items():
            if name != OUTPUT:
                plates.append(_plate(name, values[0].float().numpy(), is_hidden=name in hidden))
        return plates


def planes_of(pixels: NDArray[np.float32], image: ImageSpec, layout: str | None) -> NDArray[np.float32]:
    """Convert an image input of any layout to [channels, height, width]; a flat one has a pixel's channels together."""
    if layout in ("chw", "tchw"):
        return pixels.reshape(image.channels, image.height, image.width)
    return pixels.reshape(image.height, image.width, image.channels).transpose(2, 0, 1)


def _plate(name: str, values: NDArray[np.float32], *, is_hidden: bool) -> Plate:
    values = values.reshape(len(values), *(values.shape[1:] or (1, 1)))
    shown = values[: 0 if is_hidden else MOST_UNITS]
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    return Plate(name, *scaled(shown, low, high), len(values))


def scaled(values: NDArray[np.float32], low: float, high: float) -> tuple[NDArray[np.uint8], float, float]:
    """Scale values to bytes, 0 at ``low`` and 255 at ``high``; return the bounds, too."""
    width = (high - low) or 1.0
    return np.rint(np.clip((values - low) / width, 0.0, 1.0) * 255).astype(np.uint8), low, high
