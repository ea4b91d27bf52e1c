"""Scikit-learn's conventions: its own checks, its tools, weights, labels of any kind, frames, pickles."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
import sklearn
import torch
from packaging.version import Version
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.estimator_checks import check_estimator

from torso.agents import Classifier, ClassifierConfig, Regressor, RegressorConfig
from torso.errors import ConfigError, InputError

Estimator = Classifier | Regressor

SKIPPED = {"check_array_api_input"}  # arrays that live elsewhere; scikit-learn checks them only where it is told to
# Scikit-learn 1.6 makes two classes of three by the first row's, and compares rows in other orders by that.
OF_TWO_CLASSES = {"check_sample_weight_equivalence_on_dense_data"}
QUICK: dict[str, Any] = {"max_epochs": 4, "random_state": 0}
ESTIMATORS = [
    Classifier(hidden=(8,), **QUICK),
    Classifier(hidden=(8,), dropout=0.3, loss="one-vs-rest", **QUICK),
    Regressor(hidden=(8,), batch_norm=True, **QUICK),
]


@pytest.fixture(scope="module")
def iris() -> tuple[np.ndarray, np.ndarray]:
    torch.set_num_threads(1)
    X, y = load_iris(return_X_y=True)
    return X, np.array(["setosa", "versicolor", "virginica"])[y]


def targets(estimator: Estimator, labels: np.ndarray) -> np.ndarray:
    return labels if isinstance(estimator, Classifier) else np.unique(labels, return_inverse=True)[1] - 0.5


def learnt(estimator: Estimator) -> list[bytes]:
    """Collect the result of a fit, to the bit."""
    weights = [tensor.numpy().tobytes() for tensor in estimator.network_.state_dict().values()]
    return [*weights, repr(estimator.loss_curve_).encode(), repr(estimator.network_.spec).encode()]


@pytest.mark.parametrize(
    "estimator",
    [
        Classifier(),
        Regressor(),
        Classifier(net="logistic", batch_size=16),
        Classifier(batch_norm=True, batch_size=16, max_epochs=12),
        Classifier(dropout=0.2, batch_size=16, max_epochs=12, learning_rate=0.01),
        Classifier(net="perceptron", max_epochs=2),
        Regressor(net="linear", optimizer="sgd", batch_size="full", learning_rate=0.1),
    ],
    ids=repr,
)
def test_scikit_learns_own_checks_pass(estimator: Estimator) -> None:
    results = check_estimator(estimator, on_skip=None, on_fail=None)
    failed = {result["check_name"]: result["exception"] for result in results if result["status"] != "passed"}
    skipped = SKIPPED
    if Version(sklearn.__version__) < Version("1.7") and estimator.net == "perceptron":
        skipped = SKIPPED | OF_TWO_CLASSES
    assert set(failed) <= skipped, failed
    assert all(result["status"] in ("passed", "skipped") or result["check_name"] in skipped for result in results)
    assert len(results) > 50


@pytest.mark.parametrize(("estimator", "config"), [(Classifier, ClassifierConfig), (Regressor, RegressorConfig)])
def test_the_constructor_is_the_configuration(estimator: type[Estimator], config: type) -> None:
    parameters = inspect.signature(estimator.__init__).parameters
    given = {name: parameter.default for name, parameter in parameters.items() if name != "self"}
    fields = [(field.name, field.default) for field in dataclasses.fields(config)]
    assert list(given.items()) == fields
    assert list(estimator().get_params()) == sorted(given)
    assert all(parameter.kind is parameter.KEYWORD_ONLY for name, parameter in parameters.items() if name != "self")
    odd = {name: object() for name in given}  # the constructor checks nothing and copies nothing
    assert all(estimator(**odd).get_params()[name] is value for name, value in odd.items())


# -- its tools ---------------------------------------------------------------------------------------------------------


def test_pipelines_grids_and_cross_validation(iris: tuple[np.ndarray, np.ndarray]) -> None:
    X, names = iris
    pipeline = make_pipeline(StandardScaler(), Classifier(net="softmax", random_state=0))
    assert cross_val_score(pipeline, X, names, cv=3).mean() >= 0.9
    predicted = cross_val_predict(pipeline, X, names, cv=3, method="predict_proba")
    assert (predicted.argmax(axis=1) == np.unique(names, return_inverse=True)[1]).mean() >= 0.9

    grid = {"classifier__learning_rate": [1e-7, 0.03], "classifier__max_epochs": np.array([1, 40])}
    search = GridSearchCV(pipeline, grid, cv=2).fit(X, names)
    assert search.best_params_ == {"classifier__learning_rate": 0.03, "classifier__max_epochs": 40}
    assert search.best_estimator_.named_steps["classifier"].n_iter_ == 40
    assert search.score(X, names) >= 0.9

    weights = np.where(names == "setosa", 0.0, 1.0)
    pipeline.fit(X, names, classifier__sample_weight=weights)
    assert pipeline.named_steps["classifier"].classes_.tolist() == ["versicolor", "virginica"]
    several = MultiOutputClassifier(Classifier(**QUICK)).fit(X, np.stack([names == "setosa", X[:, 0] > 6], axis=1))
    assert several.predict(X).shape == (150, 2)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_a_clone_of_a_fitted_one_is_not_fitted_and_learns_the_same(
    iris: tuple[np.ndarray, np.ndarray], estimator: Estimator
) -> None:
    X, names = iris
    y = targets(estimator, names)
    fitted = clone(estimator).fit(X, y)
    copy = clone(fitted)
    assert not hasattr(copy, "network_")
    assert copy.get_params() == fitted.get_params()
    assert learnt(copy.fit(X, y)) == learnt(fitted)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_the_random_state_decides(iris: tuple[np.ndarray, np.ndarray], estimator: Estimator) -> None:
    X, names = iris
    y = targets(estimator, names)

    def fitted(random_state: Any) -> list[bytes]:
        return learnt(clone(estimator).set_params(random_state=random_state).fit(X, y))

    assert fitted(3) == fitted(3) == fitted(np.int64(3))
    assert fitted(3) != fitted(4)
    assert fitted(np.random.RandomState(3)) == fitted(np.random.RandomState(3)) != fitted(3)
    assert fitted(None) != fitted(None)
    drawn = np.random.RandomState(3)
    again = clone(estimator).set_params(random_state=drawn)
    again.random_state = drawn
    assert learnt(again.fit(X, y)) != learnt(again.fit(X, y))  # draws on


def test_what_a_fit_leaves(iris: tuple[np.ndarray, np.ndarray]) -> None:
    X, names = iris
    classifier = Classifier(max_epochs=80, patience=2, learning_rate=0.3, schedule="constant", random_state=0)
    classifier.fit(X, names)
    assert classifier.n_iter_ == len(classifier.loss_curve_) == len(classifier.validation_scores_) < 80
    assert classifier.best_epoch_ == classifier.n_iter_ - 2  # patience is how long it waits after the best
    whole = Classifier(max_epochs=5, validation_fraction=0.0, patience=1, random_state=0).fit(X, names)
    assert (whole.n_iter_, whole.best_epoch_, whole.validation_scores_) == (5, 5, [])
    assert whole.loss_curve_[-1] < whole.loss_curve_[0]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
@pytest.mark.parametrize("how", ["fit", "partial_fit"])
def test_a_pickle_answers_and_goes_on_the_same(
    iris: tuple[np.ndarray, np.ndarray], estimator: Estimator, how: str
) -> None:
    X, names = iris
    y = targets(estimator, names)
    first = clone(estimator)
    if how == "fit":
        first.fit(X, y)
    elif isinstance(first, Classifier):
        first.partial_fit(X, y, classes=np.unique(y))
    else:
        first.partial_fit(X, y)
    second = pickle.loads(pickle.dumps(first))
    assert learnt(second) == learnt(first)
    assert np.array_equal(second.predict(X), first.predict(X))
    assert learnt(second.partial_fit(X, y)) == learnt(first.partial_fit(X, y)) != learnt(clone(estimator).fit(X, y))


# -- weights -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_what_is_learnt_depends_on_the_examples_alone(
    iris: tuple[np.ndarray, np.ndarray], estimator: Estimator
) -> None:
    X, y = iris[0], targets(estimator, iris[1])
    rng = np.random.default_rng(0)
    expected = learnt(clone(estimator).fit(X, y))

    shuffled = rng.permutation(len(X))
    assert learnt(clone(estimator).fit(X[shuffled], y[shuffled])) == expected
    assert learnt(clone(estimator).fit(X, y, sample_weight=np.full(len(X), 0.3))) == expected

    absent = np.r_[np.ones(len(X)), 0.0, 0.0]
    far, label = np.vstack([X, np.full((2, 4), 1e6)]), np.append(y, y[:2])
    assert learnt(clone(estimator).fit(far, label, sample_weight=absent)) == expected
    assert learnt(clone(estimator).fit(far, label)) != expected

    counts = rng.integers(0, 4, size=len(X))
    repeated = learnt(clone(estimator).fit(np.repeat(X, counts, axis=0), np.repeat(y, counts)))
    assert learnt(clone(estimator).fit(X, y, sample_weight=counts)) == repeated != expected

    weights = rng.uniform(0.1, 3, size=len(X))
    weighted = learnt(clone(estimator).fit(X, y, sample_weight=weights))
    assert weighted != expected
    assert learnt(clone(estimator).fit(X[shuffled], y[shuffled], sample_weight=4 * weights[shuffled])) == weighted


def test_of_images_too() -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 17, size=(60, 8, 8)).astype(np.uint8), np.arange(60) % 2
    classifier = Classifier(net="cnn", hidden=(8,), max_shift_px=1, max_epochs=2, random_state=0)
    expected = learnt(clone(classifier).fit(images, labels))
    bright = np.append(images, np.full((1, 8, 8), 255, np.uint8), axis=0)  # 255 would be white
    weighted = clone(classifier).fit(bright, np.append(labels, 1), sample_weight=np.append(np.ones(60), 0.0))
    assert learnt(weighted) == expected
    assert learnt(clone(classifier).fit(images[::-1], labels[::-1])) == expected


def test_weights_pull() -> None:
    """With both classes at the same place, the heavier one is the most probable."""
    X = np.random.default_rng(0).normal(size=(200, 2))
    y = np.arange(200) % 2
    for heavy in (0, 1):
        weights = np.where(y == heavy, 3.1, 0.9)
        for classifier in (
            Classifier(net="logistic", random_state=0).fit(X, y, sample_weight=weights),
            Classifier(net="logistic", random_state=0, class_weight={heavy: 3.1, 1 - heavy: 0.9}).fit(X, y),
        ):
            assert (classifier.predict(X) == heavy).mean() >= 0.95
            assert classifier.predict_proba(X)[:, heavy].mean() == pytest.approx(3.1 / 4, abs=0.05)


def test_class_weights_are_weights_of_examples(iris: tuple[np.ndarray, np.ndarray]) -> None:
    X, names = iris[0][:120], iris[1][:120]  # 50, 50 and 20

    def fitted(class_weight: Any, weights: Any = None) -> list[bytes]:
        return learnt(Classifier(class_weight=class_weight, **QUICK).fit(X, names, sample_weight=weights))

    by_label = {"setosa": 0.5, "virginica": 2.5}
    of_examples = np.array([by_label.get(name, 1.0) for name in names])
    assert fitted(by_label) == fitted(None, of_examples) != fitted(None)
    some = np.linspace(0.1, 1, 120)
    assert fitted(by_label, some) == fitted(None, some * of_examples) != fitted(by_label)
    classes = np.unique(names)
    balanced = compute_class_weight("balanced", classes=classes, y=names)
    assert fitted("balanced") == fitted(dict(zip(classes, balanced, strict=True))) != fitted(None)


def test_a_class_of_weight_0_is_not_learnt_from() -> None:
    """Nor is it held out: accuracies over examples that do not count would not be numbers."""
    X = np.linspace(-1, 1, 100)[:, np.newaxis]
    y = (X[:, 0] > 0.84).astype(int)  # 92 and 8
    classifier = Classifier(class_weight={0: 0.0}, max_epochs=5, random_state=0).fit(X, y)
    assert classifier.classes_.tolist() == [0, 1]
    assert np.isfinite(classifier.validation_scores_).all()
    assert classifier.n_iter_ == classifier.best_epoch_ == 5
    assert (classifier.predict(X) == 1).all()


@pytest.mark.parametrize(
    ("settings", "weights", "error", "message"),
    [
        (
            {"class_weight": {"rosa": 2.0}},
            None,
            ConfigError,
            "class_weight must name labels among setosa, versicolor, virginica, got 'rosa'",
        ),
        (
            {"class_weight": {"setosa": -1}},
            None,
            ConfigError,
            "of label 'setosa' must be at least 0 and finite, got -1",
        ),
        (
            {"class_weight": dict.fromkeys(("setosa", "versicolor", "virginica"), 0)},
            None,
            ConfigError,
            "at least one example a weight above 0, got",
        ),
        ({"class_weight": "even"}, None, ConfigError, "must be 'balanced', a weight for each label, or None"),
        ({}, np.zeros(150), InputError, "not all of them zero"),
        ({}, np.full(150, np.nan), InputError, "finite weights of at least 0"),
        ({}, -np.ones(150), InputError, "finite weights of at least 0"),
        ({}, np.ones(149), InputError, r"sample_weight must be of shape \(150,\), got shape \(149,\)"),
        ({}, np.r_[np.ones(50), np.zeros(100)], InputError, "at least 2 classes, got 1 class, .*setosa"),
    ],
)
def test_weights_that_cannot_be(
    iris: tuple[np.ndarray, np.ndarray], settings: dict[str, Any], weights: Any, error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        Classifier(**settings, **QUICK).fit(*iris, sample_weight=weights)


# -- labels, some at a time --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [["b", "a"], [2.0, -1.0], [True, False], [7, 3], np.array(["long name", "no"], dtype=object)],
    ids=repr,
)
def test_labels_of_any_kind_come_back_as_they_were(labels: Any) -> None:
    X, labels = np.r_[np.zeros(20), np.ones(20)][:, np.newaxis], np.asarray(labels)
    y = np.repeat(labels, 20)
    classifier = Classifier(net="logistic", learning_rate=0.3, random_state=0).fit(X, y)
    assert np.array_equal(classifier.predict(X), y)
    assert classifier.predict(X).dtype == y.dtype
    assert np.array_equal(classifier.classes_, np.unique(labels))


def test_learning_some_at_a_time(iris: tuple[np.ndarray, np.ndarray]) -> None:
    X, names = iris
    rng = np.random.default_rng(0)
    classifier = Classifier(learning_rate=0.01, random_state=0)
    for call in range(1, 31):
        some = rng.integers(150, size=40)
        classifier.partial_fit(X[some], names[some], classes=np.unique(names) if call == 1 else None)
        assert classifier.n_iter_ == len(classifier.loss_curve_) == classifier.best_epoch_ == call
    assert np.mean(classifier.loss_curve_[-5:]) < 0.5 * np.mean(classifier.loss_curve_[:5])
    assert classifier.score(X, names) >= 0.9
    one_class = classifier.partial_fit(X[:5], names[:5])  # a call need not have all of them
    assert len(one_class.classes_) == 3
    regressor = Regressor(learning_rate=0.01, random_state=0)
    for _ in range(20):
        regressor.partial_fit(X[:, :3], X[:, 3])
    assert regressor.score(X[:, :3], X[:, 3]) >= 0.8


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_learning_goes_on_after_a_fit(iris: tuple[np.ndarray, np.ndarray], estimator: Estimator) -> None:
    X, y = iris[0], targets(estimator, iris[1])
    fitted = clone(estimator).fit(X, y)
    spec, before = fitted.network_.spec, learnt(fitted)
    fitted.partial_fit(X + 1, y)
    assert fitted.n_iter_ == len(fitted.loss_curve_) == 5
    assert fitted.network_.spec == spec  # scaled as at first
    assert learnt(fitted) != before
    assert fitted.loss_curve_[-1] < fitted.loss_curve_[0]
    after = learnt(fitted)
    assert learnt(fitted.fit(X, y)) == before  # anew
    assert learnt(fitted.partial_fit(X + 1, y)) == after


def test_what_partial_fit_refuses(iris: tuple[np.ndarray, np.ndarray]) -> None:
    X, names = iris
    with pytest.raises(InputError, match="classes must be all labels at the first call of partial_fit, got None"):
        Classifier(**QUICK).partial_fit(X, names)
    with pytest.raises(InputError, match=r"y must be labels among .*'setosa'.*, got .*'virginica'"):
        Classifier(**QUICK).partial_fit(X, names, classes=["setosa", "versicolor"])
    begun = Classifier(**QUICK).partial_fit(X[:100], names[:100], classes=["setosa", "versicolor"])
    with pytest.raises(InputError, match="y must be labels among"):
        begun.partial_fit(X, names)
    with pytest.raises(InputError, match="classes must be those of the first call"):
        begun.partial_fit(X, names, classes=np.unique(names))
    with pytest.raises(ValueError, match="3 features"):
        begun.partial_fit(X[:, :3], names)
    begun.partial_fit(X, names, sample_weight=np.where(names == "virginica", 0, 1))  # they do not count
    assert begun.n_iter_ == 2
    regressor = Regressor(**QUICK).partial_fit(X, X[:, :2])
    with pytest.raises(InputError, match="y must be 2 targets, got 3"):
        regressor.partial_fit(X, X[:, :3])
    with pytest.raises(ConfigError, match="a minibatch must hold at least 2 examples for batch_norm, got 1"):
        Classifier(batch_norm=True, **QUICK).partial_fit(X[:1], names[:1], classes=np.unique(names))


# -- frames ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_frames_keep_the_names_of_features(iris: tuple[np.ndarray, np.ndarray], estimator: Estimator) -> None:
    X, y = iris[0], targets(estimator, iris[1])
    frame, series = pd.DataFrame(X, columns=["a", "b", "c", "d"], index=np.arange(150) + 7), pd.Series(y)
    fitted = clone(estimator).fit(frame, series)
    assert fitted.feature_names_in_.tolist() == ["a", "b", "c", "d"]
    assert learnt(fitted) == learnt(clone(estimator).fit(X, y))
    for columns, message in ((["b", "a", "c", "d"], "same order"), (["a", "b", "c", "e"], "unseen at fit time")):
        other = frame[columns] if "e" not in columns else frame.set_axis(columns, axis=1)
        with pytest.raises(ValueError, match=message):
            fitted.predict(other)
        with pytest.raises(ValueError, match=message):
            fitted.partial_fit(other, series)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        assert np.array_equal(fitted.predict(X), fitted.predict(frame))
    assert not hasattr(fitted.fit(X, y), "feature_names_in_")


def test_names_of_pixels() -> None:
    rng = np.random.default_rng(0)
    frame, labels = pd.DataFrame(rng.random((20, 64))).rename(columns=lambda pixel: f"pixel {pixel}"), np.arange(20) % 2
    classifier = Classifier(net="cnn", hidden=(4,), max_epochs=1, random_state=0).fit(frame, labels)
    with pytest.raises(ValueError, match="unseen at fit time"):
        classifier.predict(frame.rename(columns={"pixel 3": "pixel three"}))
    images = frame.to_numpy().reshape(20, 8, 8)
    assert np.array_equal(classifier.predict(images), classifier.predict(frame))
    assert not hasattr(classifier.fit(images, labels), "feature_names_in_")


def test_labels_from_frames(iris: tuple[np.ndarray, np.ndarray]) -> None:
    X, names = iris
    expected = Classifier(**QUICK).fit(X, names)
    for y in (pd.Series(names, dtype="category"), pd.Series(names, dtype=object), pd.Series(names), names.tolist()):
        assert learnt(Classifier(**QUICK).fit(X, y)) == learnt(expected)
    several = Regressor(**QUICK).fit(pd.DataFrame(X), pd.DataFrame({"one": X[:, 0], "two": X[:, 1]}))
    assert several.predict(X).shape == (150, 2)


# -- settings ----------------------------------------------------------------------------------------------------------


def test_numbers_of_numpys_are_numbers(iris: tuple[np.ndarray, np.ndarray], tmp_path: Any) -> None:
    """As parameter grids hold them."""
    plain = Classifier(max_epochs=2, hidden=(8,), batch_size=16, l2=0.5, learning_rate=0.25, random_state=0)
    odd = Classifier(
        max_epochs=np.int64(2),
        hidden=np.array([8]),
        batch_size=np.uint8(16),
        l2=np.float32(0.5),
        learning_rate=np.float64(0.25),
        random_state=np.int32(0),
    )
    assert learnt(odd.fit(*iris)) == learnt(plain.fit(*iris))
    odd.save(tmp_path / "model")
    assert Classifier.load(tmp_path / "model").get_params() == plain.get_params()


@pytest.mark.parametrize("kind", ["image", "channels", "elements"])
def test_kinds_of_layer_norm_are_fitted_and_saved(kind: Any, tmp_path: Any) -> None:
    images = np.random.default_rng(0).random((40, 8, 8), dtype=np.float32)
    fitted = Classifier(net="cnn", layer_norm=True, layer_norm_kind=kind, max_epochs=1, random_state=0)
    fitted.fit(images, np.arange(40) % 2).save(tmp_path / "model")
    loaded = Classifier.load(tmp_path / "model")
    assert loaded.get_params() == fitted.get_params()
    assert fitted.network_.spec.torso.layer_norm_kind == loaded.network_.spec.torso.layer_norm_kind == kind
    assert np.array_equal(loaded.predict_proba(images), fitted.predict_proba(images))


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (Classifier(hidden=20), r"hidden must hold a width for each layer, such as \(128,\); got 20"),
        (Classifier(l1="some"), "l1 must be a number, got 'some'"),
        (Classifier(max_epochs=True), "max_epochs must be a whole number"),
        (Classifier(net="softmax", batch_norm=True), "no hidden layer for batch_norm"),
        (Classifier(net="logistic", layer_norm=True), "no hidden layer for layer_norm"),
        (Classifier(layer_norm_kind="channels"), "layer_norm_kind must be left out without layer_norm, got 'channels'"),
        (
            Regressor(layer_norm=True, layer_norm_kind="rows"),
            "layer_norm_kind must be one of image, channels, .* 'rows'",
        ),
        (Classifier(net="linear", hidden=(3,)), "no hidden layer for hidden"),
        (Classifier(net="perceptron", loss="softmax"), "net 'perceptron' learns by its own loss"),
        (Classifier(net="perceptron"), "Only binary classification is supported"),
        (Classifier(net="perceptron", calibration="platt"), "gives no probabilities to calibrate"),
        (Classifier(loss="perceptron", label_smoothing=0.1), "label_smoothing needs a probability"),
        (Classifier(loss="logistic"), "loss 'logistic': Only binary classification is supported. There are 3 classes"),
        (Classifier(loss="hinge"), "loss must be one of auto, softmax"),
        (Classifier(calibration="beta"), "calibration must be one of platt, isotonic, temperature, or None"),
        (Classifier(calibration="platt", validation_fraction=0.0), "calibration='platt' is fitted on held-out"),
        (Classifier(calibration="platt", validation_fraction=0.01), "calibration='platt' is fitted on held-out"),
        (Classifier(batch_norm=True, batch_size=1), "batch_norm has nothing to compare in minibatches of 1"),
        (Classifier(batch_norm=True, layer_norm=True), "exclude each other"),
        (Classifier(optimizer="sgd", weight_decay=0.1), "weight_decay is adamw's; with optimizer='sgd' use l2=0.1"),
        (Classifier(optimizer="momentum", momentum=0.0), "momentum"),
        (Classifier(label_smoothing=1.0), r"label_smoothing must lie in \[0, 1\), got 1.0"),
        (Regressor(net="softmax"), "net 'softmax' labels; for linear regression use net='linear'"),
        (Regressor(net="perceptron"), "net 'perceptron' labels"),
        (Regressor(batch_size="all"), "batch_size must be a whole number of at least 1, or 'full'; got 'all'"),
    ],
    ids=repr,
)
def test_settings_that_cannot_work(iris: tuple[np.ndarray, np.ndarray], estimator: Estimator, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        estimator.fit(iris[0], targets(estimator, iris[1]))
    assert not hasattr(estimator, "network_")
