"""Subject of an inspection: a loaded model with its network, and test data for it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from torso.arrays import Array
from torso.envs import Dataset
from torso.errors import ConfigError, InputError
from torso.insight.inspect.held_out import of_known_labels
from torso.insight.metrics.scoring import compute_readout, require_known_labels
from torso.insight.pictures.canvas import display_name, short_names
from torso.insight.pictures.input_pictures import are_images, as_pictures
from torso.insight.units.bounds import Bounds, input_bounds
from torso.nets import Network, Predictor, TorchBackend, find_model, load_model

_MAX_EXAMPLES = 2_000  # test inputs for units and attacks


@dataclass(frozen=True, eq=False)
class Subject:
    """Model to inspect, and test data for it where there is any; ``name`` heads its pictures."""

    name: str
    predictor: Predictor
    network: Network
    data: Dataset | None

    @classmethod
    def load(cls, model: str | os.PathLike[str], data: Dataset | None) -> Subject:
        """Load a model or run directory, and check that the test data fit it.

        Raises:
            ModelNotFoundError, ModelDamagedError, ModelFormatError: see `torso.errors`.
            ConfigError: data of another task, or with other labels.
            InputError: data of another shape.
        """
        card, network = load_model(find_model(model))
        predictor = Predictor(card, TorchBackend(network))
        if data is not None:
            _check_data(predictor, data)
            if predictor.kind == "classifier" and len(data.label_names) > predictor.num_outputs:
                data = of_known_labels(data, predictor.num_outputs)
        provenance = card.provenance
        config = provenance.get("config") if isinstance(provenance.get("config"), dict) else {}
        task = provenance.get("dataset") or provenance.get("env_id") or (None if data is None else data.name)
        parts = (task, (config or {}).get("net"))
        name = " · ".join(str(part) for part in parts if part is not None)
        name = display_name(name, limit=100)
        return cls(name or Path(os.path.abspath(model)).name, predictor, network, data)  # noqa: PTH100 - "." has no name

    @property
    def is_image(self) -> bool:
        """Whether the network's inputs are images."""
        return are_images(self.predictor.input)

    @property
    def names(self) -> list[str]:
        """Names of the outputs for pictures, long ones shortened: classes, actions or targets."""
        start = self.predictor.card.action_start if self.predictor.kind == "policy" else 0
        if self.predictor.card.labels is None:
            return [str(start + index) for index in range(self.predictor.num_outputs)]
        return short_names(self.predictor.labels)

    @property
    def feature_names(self) -> list[str]:
        """Names of a table's features for pictures, long ones shortened; x0, x1, ... where they have none."""
        names = self.predictor.card.feature_names
        if names is None and self.data is not None:
            names = self.data.feature_names
        if names is not None:
            return short_names(names, 32)
        return [f"x{index}" for index in range(self.predictor.input.size)]

    @property
    def test(self) -> Dataset:
        """Test data; ConfigError where there is none."""
        if self.data is None or len(self.data) == 0:
            raise ConfigError("no test data to inspect the model with; give some with data=")
        return self.data

    @cached_property
    def examples(self) -> Tensor:
        """First test inputs, up to 2,000, raw: [N, *shape] in the model's dtype."""
        return torch.from_numpy(self.predictor.prepare(self.test.inputs[:_MAX_EXAMPLES]).copy())

    @cached_property
    def labels(self) -> Tensor:
        """Labels of `examples`, [N] int64."""
        return torch.from_numpy(np.array(self.test.labels[: len(self.examples)]))

    @cached_property
    def bounds(self) -> Bounds:
        """Bounds of the input; of anything but a described image those of `examples`."""
        spec = self.predictor.input
        return input_bounds(spec) if spec.image is not None else input_bounds(spec, self.examples)

    @cached_property
    def readout(self) -> Array:
        """Readout of the network for all test data, [N, K]."""
        return compute_readout(self.predictor, self.test.inputs)

    @cached_property
    def probabilities(self) -> Array:
        """Probabilities of the model for all test data, [N, K]."""
        return self.predictor.probabilities(self.readout)

    def pictures(self, inputs: Array | Tensor) -> Array:
        """Convert raw inputs [N, *shape] of images to pictures, [N, H, W] or [N, H, W, 3] in [0, 1]."""
        rows, spec = np.asarray(inputs), self.predictor.input
        range_known = spec.image is not None or self.data is not None
        return as_pictures(rows, spec, self.bounds if range_known else input_bounds(spec, torch.tensor(rows)))


def _check_data(predictor: Predictor, data: Dataset) -> None:
    kind = "regressor" if data.task == "regression" else "classifier"
    if predictor.kind != kind:
        raise ConfigError(f"the model is a {predictor.kind}, {data.name} is data for a {kind}")
    require_known_labels(predictor, data)
    if len(data):
        try:
            predictor.prepare(data.inputs[:1], field=data.name)
        except InputError as error:
            raise ConfigError(f"{error}; the model was fitted to other data") from error
