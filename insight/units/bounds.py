"""The range that a network's inputs come from, and moving about within it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torso.errors import InputError
from torso.nets.specs.inputs import InputSpec


@dataclass(frozen=True)
class Bounds:
    """The least and the largest value of each feature, in the input's own units.

    ``low``, ``high``: float [*shape]. ``ground``: what an empty input is, float [*shape]: the paper of a drawing, the
    middle of any other feature's range.
    """

    low: Tensor
    high: Tensor
    ground: Tensor

    @property
    def span(self) -> Tensor:
        """The width of each feature's range, float [*shape]; 0 for a feature that never varied."""
        return self.high - self.low

    def clip(self, inputs: Tensor) -> Tensor:
        """Bring inputs [B, *shape] back into the range."""
        return torch.minimum(torch.maximum(inputs, self.low), self.high)

    def distance(self, inputs: Tensor) -> Tensor:
        """How far inputs [B, *shape] are from the ground: the Euclidean norm in widths of the range, [B]."""
        span = torch.where(self.span > 0, self.span, torch.ones_like(self.span))
        norms: Tensor = torch.linalg.vector_norm(((inputs - self.ground) / span).flatten(1), dim=1)
        return norms

    def draw_near(self, inputs: Tensor, furthest: Tensor | float) -> Tensor:
        """Move inputs [B, *shape] straight towards the ground until they are at most so far from it."""
        share = (furthest / self.distance(inputs).clamp_min(1e-12)).clamp(max=1.0)
        return self.ground + (inputs - self.ground) * share.reshape(-1, *[1] * (inputs.dim() - 1))


def input_bounds(spec: InputSpec, inputs: Tensor | None = None) -> Bounds:
    """The range of an input: an image's is known, from 0 to its lightest value; any other is that of ``inputs``.

    inputs: [N, *shape] raw; of images without a description, all pixels count as one feature.

    Raises:
        InputError: an input that does not describe itself, and no ``inputs`` to read its range off.
    """
    shape = spec.shape
    if spec.image is not None:
        low, high = torch.zeros(shape), torch.full(shape, spec.image.max_value)
        grounds = {"light-on-dark": low, "dark-on-light": high}
        return Bounds(low, high, grounds.get(spec.image.polarity, (low + high) / 2))
    if inputs is None or len(inputs) == 0:
        raise InputError("inputs", expected="some inputs, to read the range of each feature off", got="none")
    values = inputs.float().cpu()
    if spec.layout is None:
        low, high = values.amin(dim=0), values.amax(dim=0)
    else:
        low, high = values.amin().expand(shape).clone(), values.amax().expand(shape).clone()
    return Bounds(low, high, (low + high) / 2)
