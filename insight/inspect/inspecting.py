"""Workflow of ``torso inspect``: draw all pictures that a model and its test data allow into a directory.

| picture | shows | needs |
|---|---|---|
| weights | the first layer's weights | a first layer that is a convolution or dense |
| activations | every layer's values for one input | a test input, or the caller's |
| units_LAYER | the test inputs that excite units most, and the optimal stimulus | test data |
| adversarial | accuracy under fast gradient sign attacks, and some examples | a classifier, test data |
| surface | the decision surface | a classifier of two features, test data |
| confusion | the confusion matrix and the most confident mistakes | a classifier, test data |
| reliability | the calibration of the probabilities | a classifier that has some, test data |
| scatter | predictions against the truth | a regressor, test data |
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torso.envs import Dataset
from torso.errors import ConfigError, InputError
from torso.files import make_directory
from torso.insight.inspect import answer_views, layer_views
from torso.insight.inspect.settings import InspectionPicture, InspectionSettings
from torso.insight.inspect.subjects import Subject


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """Result of an inspection: the pictures in the order drawn; ``out`` is their directory."""

    out: Path
    drawn: tuple[InspectionPicture, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the pictures' paths and figures as JSON-serialisable data."""
        return {
            "out": str(self.out),
            "pictures": {each.name: str(each.path) for each in self.drawn},
            "figures": {each.name: each.figures for each in self.drawn if each.figures},
        }


def inspect_model(
    model: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    data: Dataset | None = None,
    example: bytes | NDArray[Any] | int | None = None,
    settings: InspectionSettings | None = None,
) -> Inspection:
    """Draw the pictures of a model into ``out``, by default the model's own directory ``inspection``.

    model: a model or run directory. data: test data of the kind that the model was fitted to; without it only the
    pictures that need none are drawn. example: the input whose activations are shown: a row of the test data (by
    default 0), an image file's bytes, or one input as an array.

    Raises:
        ModelNotFoundError, ModelDamagedError, ModelFormatError: see `torso.errors`.
        ConfigError: data or settings that do not fit the model. InputError: an example or a unit that does not.
        StorageError: a picture could not be written.
    """
    settings = InspectionSettings() if settings is None else settings
    subject = Subject.load(model, data)
    chosen = _load_example(subject, example)
    if settings.units and data is None:
        raise ConfigError(f"unit {settings.units[0]} needs test data; give some with data=")
    target = make_directory(Path(model) / "inspection" if out is None else out)
    return Inspection(out=target, drawn=tuple(_draw_all(subject, settings, target, chosen)))


@dataclass(frozen=True)
class _Example:
    """One input, [1, *shape], its name, and its label where that is known."""

    values: NDArray[Any]
    name: str
    truth: str | None = None


def _draw_all(
    subject: Subject, settings: InspectionSettings, out: Path, example: _Example | None
) -> Iterator[InspectionPicture]:
    try:
        yield layer_views.view_weights(subject, out)
    except InputError:
        if example is None and subject.data is None:
            raise  # there is nothing else to draw
    if example is not None:
        yield layer_views.view_activations(subject, out, example.values, example.name, example.truth)
    if subject.data is None or len(subject.data) == 0:
        return
    yield from layer_views.view_units(subject, settings, out)
    if subject.predictor.kind == "regressor":
        yield answer_views.view_scatter(subject, out)
        return
    yield answer_views.view_adversarial(subject, settings, out)
    if subject.predictor.input.size == 2:
        yield answer_views.view_surface(subject, out)
    yield answer_views.view_confusion(subject, out)
    if subject.predictor.probabilistic:
        yield answer_views.view_reliability(subject, out)


def _load_example(subject: Subject, example: bytes | NDArray[Any] | int | None) -> _Example | None:
    predictor = subject.predictor
    if isinstance(example, bytes):
        return _Example(predictor.prepare_images([example], field="input"), "an image")
    if isinstance(example, np.ndarray):
        values = predictor.prepare(example, field="input")
        if len(values) != 1:
            raise InputError("input.shape", expected="that of one input", got=f"{len(values)} rows")
        return _Example(values, "an input")
    if subject.data is None or len(subject.data) == 0:
        if example is not None:
            raise ConfigError(f"input {example} is a row of test data, and there are none; give some with data=")
        return None
    row = 0 if example is None else example
    if not 0 <= row < len(subject.data):
        raise InputError("input", expected=f"a row of the test data, 0 to {len(subject.data) - 1}", got=str(row))
    label = subject.data.labels[row]
    truth = subject.names[int(label)] if predictor.kind == "classifier" else ", ".join(f"{x:.3g}" for x in label)
    return _Example(predictor.prepare(subject.data.inputs[row : row + 1]), f"test input {row}", truth)
