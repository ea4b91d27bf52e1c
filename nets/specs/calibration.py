"""Calibration: how a classifier's readout becomes probabilities that come true as often as they say.

A fitted map from readout to probabilities, as plain data for ``model.json``; agents/supervised/calibration.py fits it.

The maps work on what a class's *score* says: its log-odds under the softmax, ``log(p_k / (1 - p_k))``, which is the
margin between the two readouts where there are two classes. A constant added to a row's readout changes no score.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike

from torso.arrays import Floats
from torso.checks import assign, each, number, positive, whole
from torso.errors import SpecError
from torso.plain import from_fields, plain, shown

CalibrationMethod = Literal["platt", "isotonic", "temperature"]


LARGEST_READOUT = 1e38  # beyond it is cut off, so that scores, thresholds and products with parameters stay finite


@dataclass(frozen=True, kw_only=True)
class Calibration(ABC):
    """A fitted map from a classifier's readout to probabilities.

    Raises:
        SpecError: parameters that make no such map.
    """

    method: ClassVar[CalibrationMethod]
    num_classes: int

    def __post_init__(self) -> None:
        assign(self, num_classes=whole("num_classes", self.num_classes, least=2))

    def apply(self, readout: ArrayLike) -> Floats:
        """Calibrated probabilities. readout: [B, K] of any float dtype; returns [B, K] float64, rows sum to 1.

        A row's probabilities depend on that row alone.

        Raises:
            ValueError: a readout that is not [B, K].
        """
        logits = np.ascontiguousarray(np.clip(np.asarray(readout, np.float64), -LARGEST_READOUT, LARGEST_READOUT))
        if logits.ndim != 2 or logits.shape[1] != self.num_classes:
            raise ValueError(f"readout must have shape [B, {self.num_classes}], got {list(logits.shape)}")
        return self._probabilities(logits)

    @abstractmethod
    def _probabilities(self, logits: Floats) -> Floats:
        """[B, K] finite float64 to [B, K] float64."""

    @property
    def num_maps(self) -> int:
        """How many one-vs-rest maps there are: one a class, and of two classes the second's alone."""
        return 1 if self.num_classes == 2 else self.num_classes

    def to_json(self) -> dict[str, Any]:
        """The map as plain data."""
        data: dict[str, Any] = plain({"method": self.method, **dataclasses.asdict(self)}, "calibration")
        return data

    @staticmethod
    def from_json(data: object) -> Calibration:
        """The map that `to_json` wrote; SpecError for anything else."""
        if not isinstance(data, Mapping):
            raise SpecError(f"a calibration must be an object, got {shown(data)}")
        method = data.get("method")
        if not isinstance(method, str) or method not in _CLASSES:
            raise SpecError(f"a calibration's method must be one of {', '.join(_CLASSES)}; got {shown(method)}")
        fields = {key: value for key, value in data.items() if key != "method"}
        calibration: Calibration = from_fields(_CLASSES[method], fields, f"the {method} calibration")
        return calibration


@dataclass(frozen=True, kw_only=True)
class TemperatureScaling(Calibration):
    """``softmax(readout / temperature)``, which changes no ranking of classes (Guo et al. 2017, eq. 9)."""

    method: ClassVar[CalibrationMethod] = "temperature"
    temperature: float

    def __post_init__(self) -> None:
        super().__post_init__()
        assign(self, temperature=positive("temperature", self.temperature))

    def _probabilities(self, logits: Floats) -> Floats:
        return _softmax(logits / self.temperature)


@dataclass(frozen=True, kw_only=True)
class PlattScaling(Calibration):
    """``sigmoid(slope * score + intercept)`` for each class (Platt 1999), normalised (Zadrozny & Elkan 2002).

    ``slopes`` and ``intercepts`` hold one number a class; of two classes, one number for the second.
    """

    method: ClassVar[CalibrationMethod] = "platt"
    slopes: tuple[float, ...]
    intercepts: tuple[float, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        slopes, intercepts = (each(name, getattr(self, name), number) for name in ("slopes", "intercepts"))
        assign(self, slopes=slopes, intercepts=intercepts)
        _one_a_map(self, slopes=slopes, intercepts=intercepts)

    def _probabilities(self, logits: Floats) -> Floats:
        odds = class_scores(logits) * np.array(self.slopes) + np.array(self.intercepts)  # [B, maps], log-odds
        if self.num_classes == 2:
            return np.exp(np.hstack([_log_sigmoid(-odds), _log_sigmoid(odds)]))
        return _softmax(_log_sigmoid(odds))  # normalised in logarithms: sigmoids that are all tiny keep their ratios


@dataclass(frozen=True, kw_only=True)
class IsotonicCalibration(Calibration):
    """A rising piecewise linear map of each class's score (Zadrozny & Elkan 2002), normalised.

    ``scores[m]`` rises strictly, ``values[m]`` holds the probability at each and never falls; outside of them the
    nearest value holds. One such pair a class; of two classes, one pair for the second. A row whose classes all have
    value 0 is uniform.
    """

    method: ClassVar[CalibrationMethod] = "isotonic"
    scores: tuple[tuple[float, ...], ...]
    values: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        scores, values = (each(name, getattr(self, name), _numbers) for name in ("scores", "values"))
        assign(self, scores=scores, values=values)
        _one_a_map(self, scores=scores, values=values)
        for index, (xs, ys) in enumerate(zip(scores, values, strict=True)):
            if not xs or len(xs) != len(ys):
                raise SpecError(f"scores[{index}] and values[{index}] must be of one length above 0")
            if (np.diff(xs) <= 0).any():
                raise SpecError(f"scores[{index}] must rise strictly, got {shown(xs)}")
            if (np.diff(ys) < 0).any() or ys[0] < 0 or ys[-1] > 1:
                raise SpecError(f"values[{index}] must be probabilities that never fall, got {shown(ys)}")

    def _probabilities(self, logits: Floats) -> Floats:
        scores = class_scores(logits)  # [B, maps]
        maps = zip(scores.T, self.scores, self.values, strict=True)
        # Interpolation may round beyond its end points.
        values = np.stack([np.clip(np.interp(score, xs, ys), ys[0], ys[-1]) for score, xs, ys in maps], axis=1)
        if self.num_classes == 2:
            return np.hstack([1 - values, values])
        largest = values.max(axis=1, keepdims=True)
        shares = np.divide(values, largest, out=np.ones_like(values), where=largest > 0)
        probabilities: Floats = shares / _row_sums(shares)
        return probabilities


_CLASSES: dict[str, type[Calibration]] = {
    each_class.method: each_class for each_class in (PlattScaling, IsotonicCalibration, TemperatureScaling)
}
CALIBRATION_METHODS: tuple[str, ...] = tuple(_CLASSES)


def class_scores(readout: Floats) -> Floats:
    """Each class's log-odds under the softmax: ``readout_k - logsumexp of the others``; of two classes, the second's.

    readout: [B, K] float64, finite. Returns [B, K] float64, or [B, 1] where K is 2.
    """
    if readout.shape[1] == 2:
        margin: Floats = readout[:, 1:] - readout[:, :1]
        return margin
    rows = np.arange(len(readout))
    best = readout.argmax(axis=1)
    largest = readout[rows, best]
    odds = np.exp(readout - largest[:, np.newaxis])  # [B, K]; the best one's is 1
    # What the others add up to: safe to take off a sum that also holds the best's 1, for all but the best itself.
    rest = np.maximum(_row_sums(odds) - odds, 1.0)
    scores: Floats = readout - largest[:, np.newaxis] - np.log(rest)
    others = readout.copy()
    others[rows, best] = -np.inf
    second = others.max(axis=1)
    with_second = np.exp(others - second[:, np.newaxis])
    scores[rows, best] = largest - second - np.log(_row_sums(with_second)[:, 0])
    return scores


def _softmax(logits: Floats) -> Floats:
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Floats = odds / _row_sums(odds)
    return probabilities


def _row_sums(values: Floats) -> Floats:
    sums: Floats = values.sum(axis=1, keepdims=True)
    return sums


def _log_sigmoid(x: Floats) -> Floats:
    logarithm: Floats = -np.logaddexp(0.0, -x)
    return logarithm


def _numbers(name: str, values: object) -> tuple[float, ...]:
    return each(name, values, number)


def _one_a_map(calibration: Calibration, **parameters: tuple[Any, ...]) -> None:
    for name, values in parameters.items():
        if len(values) != calibration.num_maps:
            wanted = f"{calibration.num_maps} items for {calibration.num_classes} classes"
            raise SpecError(f"{name} must have {wanted}, got {len(values)}")
