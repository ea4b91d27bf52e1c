"""`Regressor`: one target and several, accuracy reached, saving and loading, and its run directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_squared_error, r2_score
from sklearn.model_selection import GridSearchCV

from torso.agents import Classifier, ClassifierConfig, Regressor, RegressorConfig, fit_run
from torso.agents.runs.trackers import read_jsonl
from torso.agents.supervised.fitting import BatchDone, FitEvent
from torso.envs import Dataset, Splits, load_dataset
from torso.errors import ConfigError, InputError
from torso.nets import Predictor, read_card

QUICK: dict[str, Any] = {"hidden": (8,), "max_epochs": 4, "random_state": 0}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


def waves(num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two targets of very different sizes, neither a line."""
    X = np.random.default_rng(seed).uniform(-2, 2, size=(num, 2))
    return X, np.stack([1e4 + 500 * np.sin(2 * X[:, 0]), 1e-3 * X[:, 0] * X[:, 1]], axis=1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_learns_diabetes(seed: int) -> None:
    data = load_dataset("diabetes")
    X, y = data.train.inputs, data.train.labels[:, 0]
    regressor = Regressor(net="linear", random_state=seed).fit(X, y)
    by_equations = LinearRegression().fit(X, y)
    validation = data.validation.inputs, data.validation.labels[:, 0]
    assert regressor.score(*validation) >= 0.35
    assert regressor.score(*validation) == pytest.approx(by_equations.score(*validation), abs=0.06)
    deep = Regressor(hidden=(32,), random_state=seed).fit(X, y)
    assert deep.score(*validation) >= 0.35


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_learns_two_targets_at_once(seed: int) -> None:
    (X, y), (X_test, y_test) = waves(400, 0), waves(200, 1)
    regressor = Regressor(learning_rate=0.01, random_state=seed).fit(X, y)
    predicted = regressor.predict(X_test)
    assert predicted.shape == (200, 2)
    assert (r2_score(y_test, predicted, multioutput="raw_values") >= 0.95).all()
    assert regressor.score(X_test, y_test) == pytest.approx(r2_score(y_test, predicted))
    assert LinearRegression().fit(X, y).score(X_test, y_test) < 0.6


def test_shapes_are_those_of_the_targets() -> None:
    X, y = waves(60, 0)
    for targets, shape in ((y[:, 0], (60,)), (y, (60, 2)), (y[:, 0].tolist(), (60,))):
        regressor = Regressor(**QUICK).fit(X, targets)
        assert regressor.predict(X).shape == shape
        assert regressor.predict(X).dtype == np.float64
        assert regressor.predict(X[:1]).shape == (1, *shape[1:])
    column = Regressor(**QUICK).fit(X, y[:, :1])
    assert column.predict(X).shape == (60,)
    assert np.array_equal(column.predict(X), Regressor(**QUICK).fit(X, y[:, 0]).predict(X))
    assert Regressor(**QUICK).fit(X, np.arange(60) % 7).predict(X).shape == (60,)  # whole numbers are numbers


def test_targets_are_learnt_in_deviations_and_answered_in_their_own_units() -> None:
    X, y = waves(100, 0)
    plain = Regressor(**QUICK, validation_fraction=0.0).fit(X, y)
    scaled = Regressor(**QUICK, validation_fraction=0.0).fit(X, y.astype(np.float32) * np.float32(4))
    head = plain.network_.spec.head
    np.testing.assert_allclose(head.mean, y.mean(axis=0), rtol=1e-5)  # type: ignore[attr-defined]
    np.testing.assert_allclose(head.std, y.std(axis=0), rtol=1e-4)  # type: ignore[attr-defined]
    assert plain.loss_curve_[0] == pytest.approx(2, rel=0.5)  # two targets, a squared deviation each
    np.testing.assert_allclose(scaled.predict(X) / 4, plain.predict(X), rtol=1e-2)
    constant = Regressor(**QUICK).fit(X, np.full(100, 7.0))
    np.testing.assert_allclose(constant.predict(X), 7.0, atol=1)


def test_a_share_is_held_out_to_choose_the_best_epoch_by() -> None:
    X, y = waves(105, 0)
    noise = np.random.default_rng(0).normal(size=105)
    regressor = Regressor(learning_rate=0.05, patience=5, random_state=0).fit(X, noise)
    assert regressor.n_iter_ == regressor.best_epoch_ + 5 < 60
    scores = regressor.validation_scores_
    assert regressor.best_epoch_ == 1 + scores.index(max(scores))
    assert max(scores) < 0  # minus a mean of squared deviations
    whole = Regressor(**QUICK, validation_fraction=0.0).fit(X, y)
    some = Regressor(**QUICK).fit(X, y)
    assert whole.network_.spec.head.mean == pytest.approx(y.astype(np.float32).mean(axis=0))  # type: ignore[attr-defined]
    assert some.network_.spec.head.mean != whole.network_.spec.head.mean  # type: ignore[attr-defined]
    assert (whole.validation_scores_, len(some.validation_scores_)) == ([], 4)


def test_copies_are_held_out_together() -> None:
    """Targets that are noise are learnt by heart, which must not count as validation."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(120, 8)), rng.normal(size=120)
    settings = {"hidden": (64,), "learning_rate": 0.01, "max_epochs": 100, "patience": None, "validation_fraction": 0.2}
    regressor = Regressor(**settings, random_state=0)
    for found in (
        clone(regressor).fit(np.tile(X, (4, 1)), np.tile(y, 4)),
        clone(regressor).fit(X, y, sample_weight=np.full(120, 2)),
    ):
        assert found.loss_curve_[-1] < 0.3
        assert max(found.validation_scores_) < -0.5


def test_rows_do_not_depend_on_one_another() -> None:
    X, y = waves(200, 0)
    regressor = Regressor(**QUICK).fit(X, y)
    predicted = regressor.predict(X)
    assert np.array_equal(predicted, np.concatenate([regressor.predict(X[:7]), regressor.predict(X[7:])]))


def test_it_learns_from_images() -> None:
    """Regress the brightness of the upper half, whatever the lower."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(300, 8, 8)).astype(np.uint8)
    images[:, :4] //= rng.integers(1, 6, size=(300, 1, 1)).astype(np.uint8)
    y = images[:, :4].mean(axis=(1, 2))
    regressor = Regressor(net="cnn", dropout=0.0, max_epochs=15, random_state=0).fit(images[:200], y[:200])
    assert regressor.network_.spec.input.dtype == "uint8"
    assert regressor.score(images[200:], y[200:]) >= 0.9


@pytest.mark.parametrize("num_targets", [1, 2])
def test_a_saved_regressor_is_the_same(tmp_path: Path, num_targets: int) -> None:
    X, y = waves(80, 0)
    y = y[:, 0] if num_targets == 1 else y
    regressor = Regressor(**QUICK, dropout=0.1, init="he").fit(X, y)
    regressor.save(tmp_path / "waves")
    loaded = Regressor.load(tmp_path / "waves")
    assert loaded.get_params() == regressor.get_params()
    assert np.array_equal(loaded.predict(X), regressor.predict(X))
    assert loaded.n_features_in_ == 2
    card = read_card(tmp_path / "waves")
    assert (card.kind, card.network.num_outputs) == ("regressor", num_targets)

    inputs = X.astype(np.float32)
    expected = regressor.predict(X).reshape(80, num_targets)
    session = onnxruntime.InferenceSession(tmp_path / "waves" / "model.onnx", providers=["CPUExecutionProvider"])
    for answers in (
        Predictor.load(tmp_path / "waves").regress(X),
        session.run(None, {session.get_inputs()[0].name: inputs})[0],
    ):
        assert answers.dtype == np.float32
        size = np.abs(expected).max(axis=0)
        np.testing.assert_allclose(answers / size, expected / size, rtol=1e-5, atol=1e-6)

    before = loaded.predict(X)
    loaded.partial_fit(X, y)  # a loaded one goes on
    assert loaded.predict(X).shape == before.shape
    assert not np.array_equal(loaded.predict(X), before)
    assert np.array_equal(loaded.fit(X, y).predict(X), regressor.predict(X))


def test_kinds_are_not_mixed_up(tmp_path: Path) -> None:
    X, y = waves(60, 0)
    Regressor(**QUICK).fit(X, y).save(tmp_path / "numbers")
    Classifier(**QUICK).fit(X, X[:, 0] > 0).save(tmp_path / "labels")
    with pytest.raises(ConfigError, match=r"numbers must hold a classifier, got a regressor; use Regressor\.load"):
        Classifier.load(tmp_path / "numbers")
    with pytest.raises(ConfigError, match=r"labels must hold a regressor, got a classifier; use Classifier\.load"):
        Regressor.load(tmp_path / "labels")
    with pytest.raises(InputError, match=r"use regress\(\)"):
        Predictor.load(tmp_path / "numbers").classify(X)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (np.full(60, np.nan), "NaN"),
        (np.full(60, 1e39), "finite float32 numbers, got larger ones"),
        (np.zeros((60, 1, 1)), "Found array with dim 3"),
        (np.zeros(59), "inconsistent numbers"),
        (["a"] * 60, "string|convert"),
        (None, "requires y to be passed"),
    ],
    ids=["NaN", "huge", "cube", "short", "text", "None"],
)
def test_targets_that_cannot_be_learnt(targets: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Regressor(**QUICK).fit(waves(60, 0)[0], targets)


# -- in a run directory ------------------------------------------------------------------------------------------------


def diabetes() -> Splits:
    splits = load_dataset("diabetes")
    assert splits.train.task == "regression"
    return splits


def test_what_a_fit_leaves_behind(tmp_path: Path) -> None:
    data, config = diabetes(), RegressorConfig(hidden=(16,), max_epochs=6)
    events: list[FitEvent] = []
    result = fit_run(data, config, seed=0, out=tmp_path / "run", on_event=events.append)
    summary = json.loads((tmp_path / "run" / "summary.json").read_bytes())
    assert result.summary == summary
    assert sum(isinstance(event, BatchDone) for event in events) == 6 * -(-len(data.train) // 32)
    progress = read_jsonl(tmp_path / "run" / "progress.jsonl")
    losses = [line["validation_loss"] for line in progress]
    assert summary["best_epoch"] == 1 + losses.index(min(losses))
    assert summary["validation_r2"] == progress[summary["best_epoch"] - 1]["validation_r2"]
    assert summary["validation_accuracy"] is None

    predictor = Predictor.load(tmp_path / "run")
    predicted = predictor.regress(data.test.inputs)
    assert summary["num_test"] == len(data.test)
    assert summary["test_r2"] == pytest.approx(r2_score(data.test.labels, predicted), rel=1e-5)
    assert summary["test_rmse"] == pytest.approx(mean_squared_error(data.test.labels, predicted) ** 0.5, rel=1e-5)
    card = read_card(tmp_path / "run" / "best")
    assert (card.kind, card.labels) == ("regressor", data.train.label_names)
    assert card.provenance["source"] == {"name": "diabetes"}
    np.testing.assert_allclose(Regressor.load(tmp_path / "run").predict(data.test.inputs), predicted[:, 0], rtol=1e-5)
    assert (tmp_path / "run" / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_stopped_fit_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    config = RegressorConfig(hidden=(8,), max_epochs=3, batch_norm=True, optimizer="rmsprop")
    fit_run(diabetes(), config, seed=0, out=tmp_path / "whole")
    for stop_at in (1, 7, 13):
        left = [stop_at]

        def stop(left: list[int] = left) -> bool:
            left[0] -= 1
            return left[0] <= 0

        assert fit_run(diabetes(), config, seed=0, out=tmp_path / "cut", resume=True, stop=stop).summary is None
    fit_run(diabetes(), config, seed=0, out=tmp_path / "cut", resume=True)
    for name in ("progress.jsonl", "summary.json", "best/weights.safetensors", "model/weights.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


def test_without_validation_or_test_data(tmp_path: Path) -> None:
    data = diabetes()
    data = Splits(train=data.train, validation=data.validation.take(slice(0)), test=data.test.take(slice(0)))
    summary = fit_run(data, RegressorConfig(max_epochs=2), seed=0, out=tmp_path).summary
    assert summary is not None
    assert summary["best_epoch"] == 2
    assert summary["validation_r2"] is summary["test_r2"] is summary["test_metrics"] is None


def test_a_classifiers_settings_are_no_regressors(tmp_path: Path) -> None:
    rows = Dataset(
        name="rows", inputs=np.eye(4), labels=np.ones((4, 1), np.float32), label_names=("y",), task="regression"
    )
    with pytest.raises(
        ConfigError, match="config must be a RegressorConfig, as rows is for regression, got a Classifier"
    ):
        fit_run(Splits(train=rows, validation=rows, test=rows), ClassifierConfig(), seed=0, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_grid_search_finds_the_penalty_that_helps() -> None:
    X, y = load_diabetes(return_X_y=True)
    search = GridSearchCV(Regressor(net="linear", max_epochs=40, random_state=0), {"l2": [0.01, 1e3]}, cv=2).fit(X, y)
    assert search.best_params_ == {"l2": 0.01}
    assert search.best_score_ >= 0.35
    assert clone(search.best_estimator_).get_params()["l2"] == 0.01
