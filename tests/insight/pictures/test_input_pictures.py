"""Image inputs as pictures: layouts, channels and ranges."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from torso.insight.pictures.input_pictures import are_images, as_pictures
from torso.insight.units.bounds import Bounds, input_bounds
from torso.nets import ImageSpec, InputSpec

Array = NDArray[Any]
RNG = np.random.default_rng(0)


def test_images_of_every_layout_are_pictures() -> None:
    gray = InputSpec(shape=(4, 5), dtype="uint8", layout="hw")
    chw = InputSpec(shape=(3, 4, 5), dtype="uint8", layout="chw")
    hwc = InputSpec(shape=(4, 5, 3), dtype="uint8", layout="hwc")
    flat = InputSpec(shape=(60,), dtype="uint8", image=ImageSpec(channels=3, height=4, width=5))
    colours = RNG.integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)

    def drawn(inputs: Array, spec: InputSpec) -> Array:
        assert are_images(spec)
        low, high = torch.zeros(spec.shape), torch.full(spec.shape, 255.0)
        return as_pictures(inputs, spec, Bounds(low, high, low))

    np.testing.assert_allclose(drawn(colours, hwc), colours / 255)
    np.testing.assert_allclose(drawn(colours.transpose(0, 3, 1, 2), chw), colours / 255)
    np.testing.assert_allclose(drawn(colours.reshape(2, 60), flat), colours / 255)
    np.testing.assert_allclose(drawn(colours[..., 0], gray), colours[..., 0] / 255)
    frames = InputSpec(shape=(4, 4, 5), dtype="uint8", layout="chw")
    stacked = RNG.integers(0, 256, (2, 4, 4, 5), dtype=np.uint8)
    np.testing.assert_allclose(drawn(stacked, frames), stacked.mean(axis=1) / 255)
    assert not are_images(InputSpec(shape=(4,)))


def test_pictures_lie_in_the_range_of_the_input() -> None:
    spec = InputSpec(shape=(1, 3), layout="hw")
    bounds = input_bounds(spec, torch.tensor([[[-1.0, 0.0, 3.0]]]))
    np.testing.assert_allclose(as_pictures(np.array([[[-1.0, 1.0, 9.0]]]), spec, bounds), [[[0, 0.5, 1]]])
    constant = input_bounds(spec, torch.full((1, 1, 3), 7.0))
    assert np.isfinite(as_pictures(np.full((1, 1, 3), 7.0), spec, constant)).all()
