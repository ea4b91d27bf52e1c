"""What a client's calls answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torso.nets.specs.inputs import is_atari_stack


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassifyResult:
    """The best labels of each row, best first."""

    labels: tuple[tuple[str, ...], ...]
    """[B][k]; numbers arrive as text."""
    indices: NDArray[np.int64]
    """[B, k]: where each label stands in the model's labels."""
    probabilities: NDArray[np.float32]
    """[B, k]."""
    version: str
    """Which version of the model answered."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ActResult:
    """The greedy action of each row."""

    actions: NDArray[np.int64]
    """[B], as the environment expects them."""
    values: NDArray[np.float32]
    """[B, A]: the value of each action."""
    state: tuple[NDArray[Any], ...]
    """What a recurrent model wants back with the next observations; others have none."""
    version: str
    """Which version of the model answered."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StepResult:
    """One step of an episode."""

    action: int
    """As the environment expects it."""
    values: NDArray[np.float32]
    """[A]: the value of each action."""
    version: str
    """Which version of the model answered."""


@dataclass(frozen=True, kw_only=True)
class ModelSummary:
    """One line of what is served. ``kind`` is "classifier" or "policy"."""

    name: str
    version: str
    kind: str


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """What goes into a model or comes out; ``shape`` leaves the batch out."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ImageInput:
    """How the server makes an input of an image file."""

    channels: int
    height: int
    width: int
    polarity: str
    centring: str
    max_value: float


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A model's description. ``kind`` is "classifier" or "policy"; ``image`` is None where it takes no image files."""

    name: str
    version: str
    kind: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...]
    image: ImageInput | None
    provenance: Mapping[str, str]
    backend: str

    @property
    def takes_frames(self) -> bool:
        """Whether it observes stacks of frames, such as Atari's, so that a stream may send it raw ones."""
        return any(is_atari_stack(spec.shape, spec.dtype) for spec in self.inputs)
