"""Result types of client calls, and descriptions of models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torso.image_spec import is_atari_stack
from torso.space_spec import Interface, SpaceSpec


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassifyResult:
    """Top-k labels of each row, best first."""

    labels: tuple[tuple[str, ...], ...]
    """[B][k]; numbers arrive as text."""
    indices: NDArray[np.int64]
    """[B, k]: each label's index in the model's labels."""
    probabilities: NDArray[np.float32]
    """[B, k]."""
    version: str
    """Version of the model that answered."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ActResult:
    """Greedy action of each row."""

    actions: NDArray[np.int64]
    """[B], as the environment expects them."""
    values: NDArray[np.float32]
    """[B, A]: the value of each action."""
    state: tuple[NDArray[Any], ...]
    """Recurrent state, [B, ...] each, to be sent with the next observations; empty for other models."""
    version: str
    """Version of the model that answered."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StepResult:
    """Result of one step of an episode."""

    action: int
    """As the environment expects it."""
    values: NDArray[np.float32]
    """[A]: the value of each action."""
    version: str
    """Version of the model that answered."""


@dataclass(frozen=True, kw_only=True)
class ModelSummary:
    """Entry of the list of served models. ``kind`` is "classifier", "policy" or "regressor"."""

    name: str
    version: str
    kind: str


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Specification of a model's input or output tensor; ``shape`` is without the batch axis."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ImageInput:
    """Preprocessing of image files on the server."""

    channels: int
    height: int
    width: int
    polarity: str
    centring: str
    max_value: float


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Description of a model. ``kind`` is "classifier", "policy" or "regressor".

    ``image`` is None where it takes no image files.
    """

    name: str
    version: str
    kind: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...]
    image: ImageInput | None
    provenance: Mapping[str, str]
    backend: str
    observation_space: SpaceSpec | None = None
    """The env's own space, where a policy's input is flattened observations, which the client flattens."""
    action_start: int | None = None
    """The env's number for a policy's first action; None where the server does not say."""
    feature_names: tuple[str, ...] | None = None
    """Names of the input's columns, in order; None where the model knows none."""

    @property
    def provenance_data(self) -> dict[str, Any]:
        """Provenance with objects and lists parsed: on the wire, values that are not text are JSON."""
        return {name: _from_wire(text) for name, text in self.provenance.items()}

    @property
    def interface(self) -> Interface | None:
        """Interface of a policy, as an env has one: observations and actions; None for other models."""
        if self.kind != "policy" or not self.inputs or not self.outputs:
            return None
        return Interface(
            shape=self.inputs[0].shape,
            dtype=self.inputs[0].dtype,
            num_actions=self.outputs[0].shape[0],
            action_start=self.action_start,
            space=self.observation_space,
        )

    @property
    def takes_frames(self) -> bool:
        """Whether it observes stacks of frames, such as Atari's, so that a stream may send it raw ones."""
        return any(is_atari_stack(spec.shape, spec.dtype) for spec in self.inputs)


def _from_wire(text: str) -> Any:
    if text[:1] in ("{", "["):
        with suppress(ValueError):
            return json.loads(text)
    return text
