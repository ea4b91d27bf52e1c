"""`Classifier`: scikit-learn's conventions, labels of any kind, saving and loading, and accuracy reached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris, load_wine
from sklearn.ensemble import BaggingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torso.agents.estimators.classifier import Classifier
from torso.agents.estimators.row_order import canonical_rows, hold_out
from torso.envs import load_dataset
from torso.errors import ConfigError, InputError, ModelNotFoundError
from torso.nets import InputSpec, MLPSpec, NetworkSpec, ScalarHeadSpec, build_network, save_model

QUICK: dict[str, Any] = {"max_epochs": 8, "random_state": 0}


def test_parameters_are_scikit_learns() -> None:
    classifier = Classifier(net="cnn", hidden=[32], dropout=0.1)
    copy = clone(classifier).set_params(dropout=0.2)
    assert copy.get_params() == {**classifier.get_params(), "dropout": 0.2}
    assert repr(classifier) == "Classifier(dropout=0.1, hidden=[32], net='cnn')"


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_learns_iris(seed: int) -> None:
    X, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    classifier = Classifier(random_state=seed).fit(X[::2], names[::2])
    assert classifier.score(X[1::2], names[1::2]) >= 0.9
    assert list(classifier.classes_) == ["setosa", "versicolor", "virginica"]
    assert set(classifier.predict(X[:5])) <= set(names)
    assert classifier.n_features_in_ == 4


@pytest.mark.parametrize("seed", [0, 1])
def test_it_learns_digits_from_images(seed: int) -> None:
    digits = load_dataset("digits")
    classifier = Classifier(net="cnn", max_epochs=10, random_state=seed)
    classifier.fit(digits.train.inputs, digits.train.labels)
    assert classifier.score(digits.validation.inputs, digits.validation.labels) >= 0.95


def test_rows_of_pixels_are_images_to_a_convolutional_net() -> None:
    X, y = load_digits(return_X_y=True)
    classifier = Classifier(net="cnn", **QUICK).fit(X[:600], y[:600])
    assert classifier.network_.spec.input.shape == (8, 8)
    assert classifier.score(X[600:], y[600:]) >= 0.8
    assert np.array_equal(classifier.predict(X[:4]), classifier.predict(X[:4].reshape(4, 8, 8)))


def test_unscaled_columns_and_constant_ones_do_no_harm() -> None:
    X, y = load_wine(return_X_y=True)  # proline is near 1000, hue near 1
    X = np.column_stack([X, np.full(len(X), 3.0), X[:, 0] * 1e5])
    assert Classifier(random_state=0).fit(X[::2], y[::2]).score(X[1::2], y[1::2]) >= 0.9


def test_probabilities_are_in_the_order_of_the_classes() -> None:
    X, y = load_iris(return_X_y=True)
    classifier = Classifier(**QUICK).fit(X, 7 - 2 * y)
    probabilities = classifier.predict_proba(X)
    assert probabilities.shape == (150, 3)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    assert classifier.classes_.tolist() == [3, 5, 7]
    assert np.array_equal(classifier.predict(X), classifier.classes_[probabilities.argmax(axis=1)])


def test_what_a_fit_leaves() -> None:
    X, y = load_iris(return_X_y=True)
    classifier = Classifier(**QUICK).fit(X, y)
    assert classifier.n_iter_ == len(classifier.loss_curve_) == len(classifier.validation_scores_) == 8
    assert 1 <= classifier.best_epoch_ <= 8
    assert classifier.loss_curve_[-1] < classifier.loss_curve_[0]


def test_the_random_state_decides(tmp_path: Path) -> None:
    X, y = load_iris(return_X_y=True)
    numpy_before, torch_before = np.random.get_state()[1], torch.random.get_rng_state()
    first, second = (Classifier(max_epochs=3, random_state=4).fit(X, y).predict_proba(X) for _ in range(2))
    third = Classifier(max_epochs=3, random_state=np.random.RandomState(4)).fit(X, y).predict_proba(X)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, third)
    assert np.array_equal(np.random.get_state()[1], numpy_before)
    assert torch.equal(torch.random.get_rng_state(), torch_before)


def test_it_works_inside_scikit_learn() -> None:
    X, y = load_iris(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), Classifier(random_state=0))
    assert cross_val_score(pipeline, X, y, cv=3).mean() >= 0.9


@pytest.mark.parametrize("kind", ["text", "numbers", "flags"])
def test_a_saved_classifier_is_the_same(tmp_path: Path, kind: str) -> None:
    X, y = load_iris(return_X_y=True)
    labels = {"text": np.array(["a", "bb", "ccc"])[y], "numbers": y * 2.0, "flags": y == 1}[kind]
    classifier = Classifier(hidden=(16,), **QUICK).fit(X, labels)
    classifier.save(tmp_path / "iris")
    loaded = Classifier.load(tmp_path / "iris")
    assert loaded.get_params() == classifier.get_params()
    assert loaded.classes_.tolist() == classifier.classes_.tolist()
    assert np.array_equal(loaded.predict_proba(X), classifier.predict_proba(X))
    assert np.array_equal(loaded.predict(X), classifier.predict(X))
    assert (tmp_path / "iris" / "model.onnx").is_file()
    refitted = loaded.fit(X, labels)
    assert np.array_equal(refitted.predict_proba(X), classifier.predict_proba(X))


def test_a_policy_is_no_classifier(tmp_path: Path) -> None:
    spec = NetworkSpec(input=InputSpec(shape=(4,)), torso=MLPSpec(hidden=(3,)), head=ScalarHeadSpec(num_actions=2))
    save_model(tmp_path / "policy", build_network(spec, torch.Generator()), kind="policy", onnx=False)
    with pytest.raises(ConfigError, match="policy must hold a classifier, got a policy"):
        Classifier.load(tmp_path / "policy")
    with pytest.raises(ModelNotFoundError):
        Classifier.load(tmp_path / "absent")


def test_what_cannot_be_learnt_from() -> None:
    X, y = load_iris(return_X_y=True)
    for classifier, inputs, labels, error, message in (
        (Classifier(), X[:20], y[:20], InputError, "at least 2 classes"),
        (Classifier(net="cnn"), X[:, :3], y, InputError, "square number of pixels"),
        (Classifier(net="lenet"), X, y, ValueError, "too small"),
        (Classifier(max_epochs=0), X, y, ConfigError, "max_epochs"),
        (Classifier(), X, y[:-1], ValueError, "inconsistent numbers"),
        (Classifier(), np.where(X > 7, np.nan, X), y, ValueError, "NaN"),
        (Classifier(), X, y + 0.5 * (X[:, 0] > 5), ValueError, "continuous"),
    ):
        with pytest.raises(error, match=message):
            classifier.fit(inputs, labels)


def test_what_cannot_be_predicted() -> None:
    X, y = load_iris(return_X_y=True)
    with pytest.raises(NotFittedError):
        Classifier().predict(X)
    classifier = Classifier(max_epochs=1, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match="3 features"):
        classifier.predict(X[:, :3])


def test_the_hold_out_takes_its_share_of_each_class() -> None:
    labels = np.repeat([0, 1, 2, 3], [100, 50, 9, 1])
    held_out = hold_out(labels, 0.1, 0)
    assert np.bincount(labels[held_out], minlength=4).tolist() == [10, 5, 0, 0]
    assert np.array_equal(held_out, hold_out(labels, 0.1, 0))
    assert not np.array_equal(held_out, hold_out(labels, 0.1, 1))
    assert not hold_out(labels, 0.0, 0).any()


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), min_size=1, max_size=80), st.floats(0, 0.9))
def test_equal_rows_are_held_out_together(rows: list[tuple[int, int]], fraction: float) -> None:
    groups, labels = (np.array(column) for column in zip(*rows, strict=True))
    held_out = hold_out(labels, fraction, 0, groups)
    assert not set(groups[held_out]) & set(groups[~held_out])
    assert held_out.sum() <= fraction * len(labels)


def test_equal_rows_are_one_row_of_their_summed_weight() -> None:
    inputs = np.array([[1.0], [0.0], [1.0], [-0.0], [1.0]])
    targets = np.array([0, 1, 0, 1, 1])
    rows = canonical_rows(inputs, targets, None)
    assert sorted(zip(inputs[rows.order, 0], targets[rows.order], rows.weights, strict=True)) == [
        (0.0, 1, 2.0),
        (1.0, 0, 2.0),
        (1.0, 1, 1.0),
    ]
    assert len(set(rows.groups)) == 2
    assert canonical_rows(inputs, targets, np.array([1.0, 2.0, 1.0, 0.0, 2.0])).weights is None


def noise(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose labels are worth nothing."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 10)), rng.integers(0, 2, size=count)


@pytest.mark.parametrize("how", ["weights", "copies", "bagging"])
def test_what_was_learnt_by_heart_does_not_validate(how: str) -> None:
    X, y = noise(300, 0)
    classifier = Classifier(
        hidden=(128,),
        learning_rate=0.005,
        batch_size=16,
        max_epochs=80,
        patience=None,
        validation_fraction=0.2,
        random_state=0,
    )
    if how == "weights":
        alone = clone(classifier).fit(X, y)
        found = [classifier.fit(X, y, sample_weight=np.full(300, 2))]
        assert np.array_equal(found[0].predict_proba(X), alone.predict_proba(X))
    elif how == "copies":
        found = [classifier.fit(np.tile(X, (4, 1)), np.tile(y, 4))]
    else:
        found = BaggingClassifier(classifier, n_estimators=2, random_state=0).fit(X, y).estimators_
    for each in found:
        assert each.loss_curve_[-1] <= 0.35  # of guesses it is 0.69
        assert max(each.validation_scores_) <= 0.7


@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic"])
def test_calibration_counts_the_weights(method: Any) -> None:
    X, y = noise(1200, 1)
    weights = np.where(y == 1, 3.5, 0.5)
    share = float(weights[y == 1].sum() / weights.sum())  # 0.87
    classifier = Classifier(net="logistic", calibration=method, max_epochs=5, validation_fraction=0.3, random_state=0)
    found = classifier.fit(X, y, sample_weight=weights).predict_proba(X)[:, 1].mean()
    assert found == pytest.approx(share, abs=0.03)


def test_verbose_shows_a_bar_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    X, y = load_iris(return_X_y=True)
    Classifier(max_epochs=2, random_state=0, verbose=1).fit(X, y)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "validation" in captured.err
    Classifier(max_epochs=2, random_state=0).fit(X, y)
    assert capsys.readouterr() == ("", "")
