"""Probability calibration: fitted maps from a classifier's readout to probabilities.

A calibrated probability of 0.8 is right 8 times in 10. A map is plain data for ``model.json``;
agents/supervised/calibration.py fits it.

The maps work on a class's *score*: its log-odds under the softmax, ``log(p_k / (1 - p_k))``, which is the
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


LARGEST_READOUT = (
    1e38  # readouts are clipped to it, so that scores, thresholds and products with parameters stay finite
)


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
        """Compute calibrated probabilities. readout: [B, K] of any float dtype; returns [B, K] float64, rows sum to 1.

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
        """Map finite logits, [B, K] float64, to probabilities, [B, K] float64."""

    @property
    def num_maps(self) -> int:
        """Number of one-vs-rest maps: one a class; of two classes, one for the second."""
        return 1 if self.num_classes == 2 else self.num_classes

    def to_json(self) -> dict[str, Any]:
        """Return the map as plain data."""
        data: dict[str, Any] = plain({"method": self.method, **dataclasses.asdict(self)}, "calibration")
        return data

    @staticmethod
    def from_json(data: object) -> Calibration:
        """Build the map that `to_json` wrote; SpecError for anything else."""
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
    """Temperature scaling: ``softmax(readout / temperature)``; no ranking changes (Guo et al. 2017, eq. 9)."""

    method: ClassVar[CalibrationMethod] = "temperature"
    temperature: float

    def __post_init__(self) -> None:
        super().__post_init__()
        assign(self, temperature=positive("temperature", self.temperature))

    def _probabilities(self, logits: Floats) -> Floats:
        return _softmax(logits / self.temperature)


@dataclass(frozen=True, kw_only=True)
class PlattScaling(Calibration):
    """Platt scaling: ``sigmoid(slope * score + intercept)`` a class (Platt 1999), normalised (Zadrozny & Elkan 2002).

    ``slopes`` and ``intercepts`` hold one number a class; of two classes, one number for the second.
    """

    method: ClassVar[CalibrationMethod] = "platt"
    slopes: tuple[float, ...]
    intercepts: tuple[float, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        slopes, intercepts = (each(name, getattr(self, name), number) for name in ("slopes", "intercepts"))
        assign(self, slopes=slopes, intercepts=intercepts)
        _check_num_maps(self, slopes=slopes, intercepts=intercepts)

    def _probabilities(self, logits: Floats) -> Floats:
        odds = class_scores(logits) * np.array(self.slopes) + np.array(self.intercepts)  # [B, maps], log-odds
        if self.num_classes == 2:
            return np.exp(np.hstack([_log_sigmoid(-odds), _log_sigmoid(odds)]))
        return _softmax(_log_sigmoid(odds))  # normalised in logarithms: sigmoids that are all tiny keep their ratios


@dataclass(frozen=True, kw_only=True)
class IsotonicCalibration(Calibration):
    """Isotonic calibration: a rising piecewise linear map a class (Zadrozny & Elkan 2002), normalised.

    ``scores[m]`` rises strictly, ``values[m]`` holds the probability at each and never falls; outside of them the
    nearest value is used. One such pair a class; of two classes, one pair for the second. A row whose classes all have
    value 0 is uniform.
    """

    method: ClassVar[CalibrationMethod] = "isotonic"
    scores: tuple[tuple[float, ...], ...]
    values: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        scores, values = (each(name, getattr(self, name), _numbers) for name in ("scores", "values"))
        assign(self, scores=scores, values=values)
        _check_num_maps(self, scores=scores, values=values)
        for index, (xs, ys) in enumerate(zip(scores, values, strict=True)):
            if not xs or len(xs) != len(ys):
                raise SpecError(
                    f"scores[{index}] and values[{index}] must be of one length above 0, got {len(xs)} and {len(ys)}"
                )
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
    """Compute each class's log-odds: ``readout_k - logsumexp of the others``; of two classes, the second's.

    readout: [B, K] float64, finite. Returns [B, K] float64, or [B, 1] where K is 2.
    """
    if readout.shape[1] == 2:
        margin: Floats = readout[:, 1:] - readout[:, :1]
        return margin
    rows = np.arange(len(readout))
    best = readout.argmax(axis=1)
    largest = readout[rows, best]
    odds = np.exp(readout - largest[:, np.newaxis])  # [B, K]; the best one's is 1
    # The sum of the others by subtraction: safe for all but the best, as the sum also holds the best's 1.
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


def _check_num_maps(calibration: Calibration, **parameters: tuple[Any, ...]) -> None:
    for name, values in parameters.items():
        if len(values) != calibration.num_maps:
            expected = f"{calibration.num_maps} items for {calibration.num_classes} classes"
            raise SpecError(f"{name} must have {expected}, got {len(values)}")
