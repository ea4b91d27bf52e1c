"""Trainers of points of the plane, for tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from torso.playground.plane.plane_settings import PlaneSettings
from torso.playground.plane.plane_trainer import PlaneTrainer
from torso.playground.plane.points import (
    PlanePoints,
    ready_set,
)

NO_POINTS = PlanePoints(np.zeros((0, 2), dtype=np.float32), np.zeros(0, dtype=np.int64))
TOO_FAST = {"optimizer": "sgd", "learning_rate": 10, "regularisation": "l2", "strength": 0.3}


def trainer_of(name: str, **settings: Any) -> PlaneTrainer:
    points = ready_set(name)
    return PlaneTrainer(PlaneSettings(num_classes=points.num_classes, **settings), points)
