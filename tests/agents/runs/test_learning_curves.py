"""Learning curves: every log, however short, gives a plot. (Their look was checked by eye.)"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from torso.agents.runs import learning_curves
from torso.agents.runs.learning_curves import plot_fit, plot_training

FIT = [
    {"step": 1, "loss": 2.1, "validation_accuracy": 0.4, "validation_loss": 1.9, "is_best": True},
    {"step": 2, "loss": 0.6, "validation_accuracy": 0.9, "validation_loss": 0.7, "is_best": True},
    {"step": 3, "loss": 0.3, "validation_accuracy": 0.88, "validation_loss": 0.8, "is_best": False},
]
TRAINING = [
    {"step": 1000, "episodes": 50, "episode_return": 20.0, "loss": None},
    {"step": 2000, "episode_return": 60.0, "loss": 0.5},
    {"step": 2000, "evaluation_return": 80.0, "evaluation_std": 30.0, "is_best": True},
    {"step": 3000, "episode_return": None},
    {"step": 4000, "evaluation_return": 70.0, "evaluation_std": 5.0, "is_best": False},
]


def drawn(run: Path, lines: list[dict[str, Any]], plot: Any) -> np.ndarray:
    (run / "progress.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = plot(run)
    assert path == run / "learning_curve.png"
    return imread(path)[..., :3]


@pytest.mark.parametrize(("plot", "lines"), [(plot_fit, FIT), (plot_training, TRAINING)])
def test_a_run_is_drawn(tmp_path: Path, plot: Any, lines: list[dict[str, Any]]) -> None:
    empty = drawn(tmp_path, [], plot)
    one = drawn(tmp_path, lines[:1], plot)
    whole = drawn(tmp_path, lines, plot)
    assert empty.shape == one.shape == whole.shape
    assert min(whole.shape[:2]) > 300
    inks = [int((image < 0.5).any(axis=2).sum()) for image in (empty, one, whole)]
    assert len(set(inks)) == 3


def test_missing_figures_are_left_out(tmp_path: Path) -> None:
    bare = [{"step": line["step"], "loss": line["loss"], "validation_accuracy": None} for line in FIT]
    drawn(tmp_path, bare, plot_fit)


def test_the_band_of_returns_ends_where_they_do() -> None:
    line = {"evaluation_return": 495.0, "evaluation_std": 15.0, "evaluation_min": 440.0, "evaluation_max": 500.0}
    assert learning_curves._band(line) == (480.0, 500.0)
    assert learning_curves._band({"evaluation_return": 3.0, "evaluation_std": 2.0}) == (1.0, 5.0)  # of a run of before
