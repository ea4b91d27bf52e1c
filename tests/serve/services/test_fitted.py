"""Fitted models on the wire: calibrated probabilities reach the caller; a regressor estimates by V2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
import tritonclient.grpc as triton

from torso.agents import Classifier, ClassifierConfig, RegressorConfig, fit_run
from torso.envs import load_dataset
from torso.errors import InputError
from torso.insight.metrics.scoring import compute_readout
from torso.nets import Predictor, read_card
from torso.serve import Client, ServeConfig


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_a_calibrated_fit_is_served_as_calibrated(
    tmp_path: Path, config: Callable[..., ServeConfig], running: Any, method: Any
) -> None:
    data = load_dataset("breast-cancer")
    fit_run(data, ClassifierConfig(net="logistic", max_epochs=8, calibration=method), seed=0, out=tmp_path / "cancer")
    with running(config(tmp_path / "cancer", backend="torch")) as server, Client(server.address) as client:
        answer = client.classify("cancer", data.test.inputs, top_k=2)
    calibration = read_card(tmp_path / "cancer" / "best").calibration
    assert calibration is not None
    readout = compute_readout(Predictor.load(tmp_path / "cancer"), data.test.inputs)
    served = np.take_along_axis(answer.probabilities, answer.indices.argsort(axis=1), axis=1)
    np.testing.assert_allclose(served, calibration.apply(readout), atol=1e-5)
    assert np.abs(served[:, 1] - 1 / (1 + np.exp(readout[:, 0] - readout[:, 1]))).max() > 0.01
    assert {label for row in answer.labels for label in row} == {"malignant", "benign"}


def test_columns_by_name_and_far_from_0(tmp_path: Path, config: Callable[..., ServeConfig], running: Any) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"time": 1.7e9 + rng.uniform(-1, 1, 200), "noise": rng.normal(size=200)})
    classifier = Classifier(max_epochs=20, random_state=0).fit(frame, frame["time"] > 1.7e9)
    classifier.save(tmp_path / "noon")
    for backend in ("torch", "onnx"):
        with running(config(tmp_path / "noon", backend=backend)) as server, Client(server.address) as client:
            info = client.get_model("noon")
            assert (info.feature_names, info.inputs[0].dtype) == (("time", "noise"), "float64")
            shuffled = frame.assign(comment="text")[["comment", "noise", "time"]]
            labels = [row[0] for row in client.classify("noon", shuffled).labels]
            with pytest.raises(InputError, match="a frame with the columns 'time'"):
                client.classify("noon", frame[["noise"]])
        assert labels == [str(label) for label in classifier.predict(frame)]


def test_a_fitted_regressor_estimates_in_its_targets_units(
    tmp_path: Path, config: Callable[..., ServeConfig], running: Any
) -> None:
    data = load_dataset("diabetes")
    fit_run(data, RegressorConfig(net="linear", max_epochs=1), seed=0, out=tmp_path / "diabetes")
    inputs = data.test.inputs[:3].astype(np.float32)
    expected = Predictor.load(tmp_path / "diabetes").regress(inputs)
    with running(config(tmp_path / "diabetes")) as server, triton.InferenceServerClient(server.address) as client:
        rows = triton.InferInput("tensor", list(inputs.shape), "FP32")
        rows.set_data_from_numpy(inputs)
        estimates = client.infer("diabetes", [rows]).as_numpy("predictions")
    np.testing.assert_allclose(estimates, expected, rtol=1e-4)
    assert 50 < estimates.mean() < 300
