"""Probability calibration in torch: the maps of specs/calibration.py as modules, for graphs such as ONNX's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torso.nets.specs.calibration import (
    LARGEST_READOUT,
    Calibration,
    IsotonicCalibration,
    PlattScaling,
    TemperatureScaling,
)


class CalibrationModule(nn.Module):
    """A calibration: readout [B, K] float32 to probabilities [B, K] float32, computed in float64.

    Raises:
        TypeError: a calibration of a class that has no such module.
    """

    def __init__(self, calibration: Calibration) -> None:
        super().__init__()
        self.num_classes = calibration.num_classes
        self.map = _map_of(calibration)

    def forward(self, readout: Tensor) -> Tensor:
        """Compute calibrated probabilities, rows sum to 1, as `Calibration.apply` does."""
        logits = readout.double().clamp(-LARGEST_READOUT, LARGEST_READOUT)
        probabilities: Tensor = self.map(logits)
        return probabilities.float()


def _map_of(calibration: Calibration) -> nn.Module:
    if isinstance(calibration, TemperatureScaling):
        return _Temperature(calibration)
    if isinstance(calibration, PlattScaling):
        return _Platt(calibration)
    if isinstance(calibration, IsotonicCalibration):
        return _Isotonic(calibration)
    raise TypeError(f"calibration must be of temperature, platt or isotonic, got {type(calibration).__name__}")


class _Temperature(nn.Module):
    def __init__(self, calibration: TemperatureScaling) -> None:
        super().__init__()
        self.temperature = calibration.temperature

    def forward(self, logits: Tensor) -> Tensor:
        return torch.softmax(logits / self.temperature, dim=1)


class _Platt(nn.Module):
    slopes: Tensor
    intercepts: Tensor

    def __init__(self, calibration: PlattScaling) -> None:
        super().__init__()
        self.register_buffer("slopes", torch.tensor(calibration.slopes, dtype=torch.float64))
        self.register_buffer("intercepts", torch.tensor(calibration.intercepts, dtype=torch.float64))

    def forward(self, logits: Tensor) -> Tensor:
        odds = _class_scores(logits) * self.slopes + self.intercepts  # [B, maps]
        if logits.shape[1] == 2:
            return torch.cat([_log_sigmoid(-odds), _log_sigmoid(odds)], dim=1).exp()
        return torch.softmax(_log_sigmoid(odds), dim=1)


class _Isotonic(nn.Module):
    """All classes' points stand in one row: class m's are those from ``first[m]`` to ``last[m]``."""

    thresholds: Tensor
    scores: Tensor
    values: Tensor
    first: Tensor
    last: Tensor

    def __init__(self, calibration: IsotonicCalibration) -> None:
        super().__init__()
        sizes = torch.tensor([len(points) for points in calibration.scores])
        ends = sizes.cumsum(0)
        longest = int(sizes.max())
        padded = [(*points, *[float("inf")] * (longest - len(points))) for points in calibration.scores]
        self.register_buffer("thresholds", torch.tensor(padded, dtype=torch.float64))  # [maps, longest]
        self.register_buffer("scores", _joined(calibration.scores))
        self.register_buffer("values", _joined(calibration.values))
        self.register_buffer("first", ends - sizes)
        self.register_buffer("last", ends - 1)

    def forward(self, logits: Tensor) -> Tensor:
        scores = _class_scores(logits)  # [B, maps]
        passed = (scores.unsqueeze(2) >= self.thresholds).long().sum(dim=2)  # [B, maps]
        low = torch.maximum(self.first + passed - 1, self.first)
        high = torch.minimum(low + 1, self.last)
        x_low, x_high, y_low, y_high = (points[at] for points in (self.scores, self.values) for at in (low, high))
        width = torch.where(x_high > x_low, x_high - x_low, torch.ones_like(x_low))
        values = y_low + ((scores - x_low) / width).clamp(0.0, 1.0) * (y_high - y_low)
        if logits.shape[1] == 2:
            return torch.cat([1 - values, values], dim=1)
        largest = values.amax(dim=1, keepdim=True)
        shares = torch.where(largest > 0, values / torch.where(largest > 0, largest, 1.0), torch.ones_like(values))
        return shares / shares.sum(dim=1, keepdim=True)


def _joined(rows: tuple[tuple[float, ...], ...]) -> Tensor:
    return torch.tensor([number for row in rows for number in row], dtype=torch.float64)


def _class_scores(readout: Tensor) -> Tensor:
    """Compute each class's log-odds, as `torso.nets.specs.calibration.class_scores`: [B, K], or [B, 1] where K is 2."""
    if readout.shape[1] == 2:
        return readout[:, 1:] - readout[:, :1]
    best = readout.argmax(dim=1, keepdim=True) == torch.arange(readout.shape[1])  # [B, K]
    largest = readout.amax(dim=1, keepdim=True)
    odds = (readout - largest).exp()
    others = torch.where(best, torch.full_like(readout, -3 * LARGEST_READOUT), readout)
    second = others.amax(dim=1, keepdim=True)
    scores_of_others = readout - largest - (odds.sum(dim=1, keepdim=True) - odds).clamp(min=1.0).log()
    score_of_best = largest - second - (others - second).exp().sum(dim=1, keepdim=True).log()
    return torch.where(best, score_of_best, scores_of_others)


def _log_sigmoid(x: Tensor) -> Tensor:
    return x.clamp(max=0.0) - torch.log1p(torch.exp(-x.abs()))
