"""Columns and targets far from 0: what float32 would blur is centred in float64, wherever a model answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd  # type: ignore[import-untyped]
import pytest
import torch

from torso.agents import Classifier, ClassifierConfig, Regressor, RegressorConfig, fit_run
from torso.envs import load_dataset
from torso.nets import Predictor
from torso.tables import as_floats

SECONDS_1970 = 1.7e9


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


def timed(num: int, offset: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a time of day and noise; whether it is after noon."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, size=(num, 2))
    return X + np.array([offset, 0.0]), (X[:, 0] > 0).astype(int)


@pytest.mark.parametrize("offset", [SECONDS_1970, -1e10])
def test_a_column_far_from_0_is_a_column(tmp_path: Path, offset: float) -> None:
    X, y = timed(300, offset)
    classifier = Classifier(max_epochs=20, random_state=0).fit(X, y)
    assert classifier.network_.spec.input.dtype == "float64"
    assert classifier.score(X, y) >= 0.97
    classifier.save(tmp_path / "model")
    assert np.array_equal(Classifier.load(tmp_path / "model").predict(X), classifier.predict(X))
    predictor = Predictor.load(tmp_path / "model")
    prepared = predictor.prepare(X)
    readout = predictor.run(prepared)
    assert readout.dtype == np.float32
    assert ((readout[:, 1] > 0) == y).mean() >= 0.97
    [by_onnx] = onnxruntime.InferenceSession(tmp_path / "model" / "model.onnx").run(None, {"obs": prepared})
    np.testing.assert_allclose(by_onnx, readout, atol=1e-4)


def test_columns_near_0_stay_float32() -> None:
    X, y = timed(100, 100.0)
    constant = np.column_stack([X, np.full(100, 1e9)])
    for inputs in (X, constant, X.astype(np.float32)):
        assert Classifier(max_epochs=1, random_state=0).fit(inputs, y).network_.spec.input.dtype == "float32"


@pytest.mark.parametrize("offset", [1e8, -1e12])
def test_a_target_far_from_0_is_a_target(tmp_path: Path, offset: float) -> None:
    X, _ = timed(300, 0.0)
    y = 3 * X[:, 0] + offset
    regressor = Regressor(max_epochs=30, random_state=0).fit(X, y)
    assert regressor.score(X, y) >= 0.95
    regressor.save(tmp_path / "model")
    predictor = Predictor.load(tmp_path / "model")
    readout = predictor.run(predictor.prepare(X))
    np.testing.assert_allclose(readout[:, 0] - offset, regressor.predict(X) - offset, atol=1e-3)
    session = onnxruntime.InferenceSession(tmp_path / "model" / "model.onnx")
    [by_onnx] = session.run(None, {"obs": X.astype(np.float32)})
    np.testing.assert_allclose(by_onnx - offset, readout - offset, atol=1e-3)


@pytest.mark.parametrize("suffix", ["csv", "npz"])
def test_files_far_from_0(tmp_path: Path, suffix: str) -> None:
    X, y = timed(200, SECONDS_1970)
    target = 2 * X[:, 1] + 1e8
    for labels, config, figure in (
        (y, ClassifierConfig(max_epochs=30), "test_accuracy"),
        (target, RegressorConfig(max_epochs=60), "test_r2"),
    ):
        path = tmp_path / f"data.{suffix}"
        if suffix == "csv":
            pd.DataFrame({"time": X[:, 0], "noise": X[:, 1], "y": labels}).to_csv(path, index=False)
        else:
            np.savez(path, X=X, y=labels)
        data = load_dataset(path)
        assert data.train.inputs.dtype == np.float64
        summary = fit_run(data, config, seed=0, out=tmp_path / figure).summary
        assert summary is not None
        assert summary[figure] >= 0.9


def test_tiny_columns_are_standardised() -> None:
    X, y = timed(200, 0.0)
    assert Classifier(max_epochs=20, random_state=0).fit(X * 1e-14, y).score(X * 1e-14, y) >= 0.97


def test_a_row_alone_keeps_its_digits() -> None:
    row = np.array([[SECONDS_1970 + 0.25, 0.5]])
    assert as_floats(row).tolist() == row.tolist()
    assert as_floats(np.array([[0.1, 2.0]])).dtype == np.float32
