"""Input bounds: the range of each input feature, clipping to it, and distance from a baseline input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torso.errors import InputError
from torso.nets.specs.inputs import InputSpec


@dataclass(frozen=True)
class Bounds:
    """Lower and upper bound of each feature, in the input's own units.

    ``low``, ``high``: float [*shape]. ``baseline``: an empty input, float [*shape]: the background of a
    drawing, the middle of any other feature's range.
    """

    low: Tensor
    high: Tensor
    baseline: Tensor

    @property
    def span(self) -> Tensor:
        """Width of each feature's range, float [*shape]; 0 for a feature that never varied."""
        return self.high - self.low

    def clip(self, inputs: Tensor) -> Tensor:
        """Clip inputs [B, *shape] to the range."""
        return torch.minimum(torch.maximum(inputs, self.low), self.high)

    def distance(self, inputs: Tensor) -> Tensor:
        """Distance of inputs [B, *shape] from the baseline: the Euclidean norm in widths of the range, [B]."""
        span = torch.where(self.span > 0, self.span, torch.ones_like(self.span))
        norms: Tensor = torch.linalg.vector_norm(((inputs - self.baseline) / span).flatten(1), dim=1)
        return norms

    def limit_distance(self, inputs: Tensor, max_distance: Tensor | float) -> Tensor:
        """Move inputs [B, *shape] straight towards the baseline until their distance is at most ``max_distance``."""
        share = (max_distance / self.distance(inputs).clamp_min(1e-12)).clamp(max=1.0)
        return self.baseline + (inputs - self.baseline) * share.reshape(-1, *[1] * (inputs.dim() - 1))


def input_bounds(spec: InputSpec, inputs: Tensor | None = None) -> Bounds:
    """Derive the bounds of an input: an image's from its description (0 to its maximum), any other's from ``inputs``.

    inputs: [N, *shape] raw; of images without a description, all pixels count as one feature.

    Raises:
        InputError: an input without a description of its image, and no ``inputs`` to take its range from.
    """
    shape = spec.shape
    if spec.image is not None:
        low, high = torch.zeros(shape), torch.full(shape, spec.image.max_value)
        baselines = {"light-on-dark": low, "dark-on-light": high}
        return Bounds(low, high, baselines.get(spec.image.polarity, (low + high) / 2))
    if inputs is None or len(inputs) == 0:
        raise InputError("inputs", expected="given, to take the range of each feature from", got="none")
    values = inputs.float().cpu()
    if spec.layout is None:
        low, high = values.amin(dim=0), values.amax(dim=0)
    else:
        low, high = values.amin().expand(shape).clone(), values.amax().expand(shape).clone()
    return Bounds(low, high, (low + high) / 2)
