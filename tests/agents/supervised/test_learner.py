"""Supervised learner: network specifications from configurations, and each update against one worked by hand."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import r2_score
from torch import Tensor
from torch.nn import functional

from torso.agents import Classifier, ClassifierConfig, RegressorConfig, fit_run
from torso.agents.optim.optimizers import OPTIMIZERS
from torso.agents.optim.schedules import SCHEDULES, scheduled_learning_rate
from torso.agents.supervised.config import FitConfig
from torso.agents.supervised.fit_runs import examples_of, spec_of
from torso.agents.supervised.fitting import Fitting, as_examples, minibatch_bounds, resolve_fit
from torso.agents.supervised.learner import Examples, Score, SupervisedLearner, classifier_spec, regressor_spec, score
from torso.envs import Dataset, Splits, load_dataset
from torso.errors import ConfigError, InputError
from torso.insight.metrics.scoring import compute_readout
from torso.nets import (
    InputSpec,
    LogitsHeadSpec,
    NetworkSpec,
    OneVsRestHeadSpec,
    Predictor,
    SigmoidHeadSpec,
    StepHeadSpec,
    build_network,
    read_card,
)
from torso.nets.modules.initialisation import INITS, Init

PLANE = InputSpec(shape=(2,))  # taken as it comes
MLP: dict[str, Any] = {"net": "mlp", "hidden": (5,)}


def learner(config: FitConfig, spec: NetworkSpec, *, total_updates: int = 100) -> SupervisedLearner:
    cpu = torch.device("cpu")
    recipe = config.recipe()
    return SupervisedLearner.build(
        config, recipe, spec, device=cpu, precision="float32", seed=0, total_updates=total_updates
    )


def points(num: int, num_classes: int, seed: int = 0) -> Examples:
    """A cloud a class, on a circle of radius 3; the first is where no other can be split off by a line through 0."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num) % num_classes
    angles = 2 * np.pi * (labels + 0.25) / num_classes
    inputs = 3 * np.stack([np.cos(angles), np.sin(angles)], axis=1) + rng.normal(size=(num, 2)) / 2
    return as_examples(inputs.astype(np.float32), labels)


def parameters(one: SupervisedLearner) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in one.network.named_parameters()}


# -- the network that a configuration asks for -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("net", "loss", "num_classes", "head"),
    [
        ("perceptron", "auto", 2, StepHeadSpec()),
        ("logistic", "auto", 2, SigmoidHeadSpec()),
        ("logistic", "logistic", 2, SigmoidHeadSpec(loss="logistic")),
        ("logistic", "auto", 3, OneVsRestHeadSpec(num_classes=3)),
        ("softmax", "auto", 2, LogitsHeadSpec(num_classes=2)),
        ("softmax", "auto", 3, LogitsHeadSpec(num_classes=3)),
        ("linear", "auto", 2, SigmoidHeadSpec()),
        ("linear", "perceptron", 2, StepHeadSpec()),
        ("linear", "auto", 3, LogitsHeadSpec(num_classes=3)),
        ("mlp", "auto", 2, SigmoidHeadSpec()),
        ("mlp", "binary", 2, SigmoidHeadSpec()),
        ("mlp", "logistic", 2, SigmoidHeadSpec(loss="logistic")),
        ("mlp", "softmax", 2, LogitsHeadSpec(num_classes=2)),
        ("mlp", "one-vs-rest", 2, OneVsRestHeadSpec(num_classes=2)),
        ("mlp", "perceptron", 2, StepHeadSpec()),
        ("mlp", "auto", 4, LogitsHeadSpec(num_classes=4)),
        ("mlp", "one-vs-rest", 4, OneVsRestHeadSpec(num_classes=4)),
    ],
)
def test_each_net_and_loss_builds_its_head_and_learns(net: str, loss: Any, num_classes: int, head: Any) -> None:
    config = ClassifierConfig(net=net, loss=loss, max_epochs=40)
    spec = classifier_spec(config, PLANE, num_classes)
    assert spec.head == head
    assert spec.torso.hidden == (() if net != "mlp" else (128,))
    data, test = points(120, num_classes), points(60, num_classes, seed=1)
    fit = Fitting(config, spec, data, None, seed=0, resolved={**resolve_fit(config, spec), "num_threads": 1})
    before = score(fit.learner.network, test)
    list(fit.run())
    after = score(fit.best_network(), test)
    assert (after.accuracy or 0) >= 0.95
    assert after.loss < 0.5 * before.loss or net == "perceptron"
    assert fit.epochs[-1].loss < 0.5


def test_zeros_against_ones_is_one_sigmoid_and_1321_parameters() -> None:
    data = load_dataset("digits", classes=("0", "1")).train
    spec = spec_of(data, ClassifierConfig(net="mlp", hidden=(20,)))
    network = build_network(spec, torch.Generator())
    assert sum(parameter.numel() for parameter in network.parameters()) == 64 * 20 + 20 + 20 + 1 == 1321
    assert spec.head == SigmoidHeadSpec()
    assert network(torch.from_numpy(data.inputs[:3].copy()))[0].output.shape == (3,)


def test_smoothing_goes_where_there_are_labels_to_smooth() -> None:
    for loss, head in (
        ("softmax", LogitsHeadSpec(num_classes=2, label_smoothing=0.1)),
        ("one-vs-rest", OneVsRestHeadSpec(num_classes=2, label_smoothing=0.1)),
        ("binary", SigmoidHeadSpec(label_smoothing=0.1)),
    ):
        assert classifier_spec(ClassifierConfig(loss=loss, label_smoothing=0.1), PLANE, 2).head == head  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="cannot be smoothed"):
        classifier_spec(ClassifierConfig(loss="logistic", label_smoothing=0.1), PLANE, 2)


# -- updates by hand ---------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20)
def test_the_perceptron_is_rosenblatts_rule(seed: int) -> None:
    """From zeros, where every first example has z = 0 and is an error; whole numbers, so that all sums are exact."""
    rng = np.random.default_rng(seed)
    inputs = rng.integers(-9, 10, size=(25, 2)).astype(np.float32)
    labels = (inputs @ [2, -1] + 1 > 0).astype(np.int64)
    config = ClassifierConfig(net="perceptron")
    one = learner(config, classifier_spec(config, PLANE, 2))
    weight, bias = (dict(one.network.named_parameters())[name] for name in ("head.linear.weight", "head.linear.bias"))
    examples = one.prepare(as_examples(inputs, labels))
    w, b, errors = np.zeros(2), 0.0, 0
    for _ in range(200):
        errors_before = errors
        for row, (x, label) in enumerate(zip(inputs, labels, strict=True)):
            sign = 2 * int(label) - 1
            z = w @ x + b
            assert float(one.update(examples.take(torch.tensor([row])))) == max(0.0, -sign * z)
            if sign * z <= 0:  # an error, also at z = 0
                w, b, errors = w + sign * x, b + sign, errors + 1
            assert weight.detach().numpy().tolist() == [w.tolist()]
            assert bias.detach().numpy().tolist() == [b]
        if errors == errors_before:
            break
    assert errors >= 1
    assert errors == errors_before  # it has converged: the data are separable
    assert score(one.network, examples).accuracy == 1


def test_an_epoch_of_the_perceptron_is_one_example_at_a_time() -> None:
    config = ClassifierConfig(net="perceptron", max_epochs=3, patience=None)
    spec = classifier_spec(config, PLANE, 2)
    fit = Fitting(config, spec, points(30, 2), None, seed=0, resolved=resolve_fit(config, spec))
    list(fit.run())
    assert (fit.num_batches, fit.learner.num_updates, fit.learner.recipe.optimizer) == (30, 90, "sgd")
    assert fit.learner.recipe.schedule == "constant"
    halved = Fitting(
        config := ClassifierConfig(net="perceptron", max_epochs=3, learning_rate=0.5),
        spec,
        points(30, 2),
        None,
        seed=0,
        resolved=resolve_fit(config, spec),
    )
    list(halved.run())
    for name, whole in parameters(fit.learner).items():  # from zeros, the step's size is the weights' scale alone
        torch.testing.assert_close(2 * parameters(halved.learner)[name], whole, rtol=1e-6, atol=0)


def by_hand(loss: str, outputs: Tensor, labels: Tensor) -> Tensor:
    if loss == "softmax":
        return -outputs.log_softmax(dim=1).gather(1, labels[:, None])[:, 0]
    if loss == "one-vs-rest":
        signs = 2 * functional.one_hot(labels, outputs.shape[1]) - 1
        return (1 + (-signs * outputs).exp()).log().sum(dim=1)
    return (1 + (-(2 * labels - 1) * outputs[:, 0]).exp()).log()


@pytest.mark.parametrize("loss", ["softmax", "one-vs-rest", "binary", "logistic"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("l1", "l2"), [(0.0, 0.0), (0.01, 0.0), (0.0, 0.02), (0.01, 0.02)])
def test_a_full_batch_step_goes_down_the_gradient_of_the_mean(loss: Any, weighted: bool, l1: float, l2: float) -> None:
    """Gradient descent: -learning_rate times the gradient of the mean loss, l1 |w| and l2/2 w^2; biases are spared."""
    config = ClassifierConfig(
        **MLP, activation="tanh", loss=loss, l1=l1, l2=l2, optimizer="sgd", schedule="constant", learning_rate=0.5,
        batch_size="full", max_epochs=1,
    )  # fmt: skip
    spec = classifier_spec(config, PLANE, 2)
    data = points(40, 2)
    if weighted:
        data = data._replace(weights=torch.linspace(0.0, 2.0, 40))
    fit = Fitting(config, spec, data, None, seed=0, resolved={**resolve_fit(config, spec), "num_threads": 1})
    assert fit.num_batches == 1
    before = {name: tensor.double().requires_grad_() for name, tensor in parameters(fit.learner).items()}
    w1, b1, w2, b2 = before.values()
    outputs = torch.tanh(data.inputs.double() @ w1.T + b1) @ w2.T + b2
    losses = by_hand(loss, outputs, data.targets)
    mean = losses.mean() if data.weights is None else (losses * data.weights.double()).mean()
    mean.backward()  # type: ignore[no-untyped-call]
    list(fit.run())
    for name, weight in before.items():
        assert weight.grad is not None
        gradient = weight.grad
        if weight.dim() > 1:
            gradient = gradient + l1 * weight.sign() + l2 * weight
        expected = (weight - 0.5 * gradient).detach()
        torch.testing.assert_close(parameters(fit.learner)[name].double(), expected, rtol=1e-5, atol=1e-6)
    penalty = sum(float((l1 * w.abs().sum() + l2 / 2 * w.square().sum()).detach()) for w in (w1, w2))
    assert fit.epochs[0].loss == pytest.approx(float(mean.detach()) + penalty, rel=1e-5)


@pytest.mark.parametrize("loss", ["softmax", "one-vs-rest", "binary"])
def test_smoothed_labels_are_learnt_and_others_are_scored(loss: Any) -> None:
    data = points(60, 2)
    figures = {}
    for smoothing in (0.0, 0.3):
        config = ClassifierConfig(
            net="linear", loss=loss, label_smoothing=smoothing, learning_rate=0.1, max_epochs=60, patience=None
        )
        spec = classifier_spec(config, PLANE, 2)
        fit = Fitting(config, spec, data, data, seed=0, resolved={**resolve_fit(config, spec), "num_threads": 1})
        list(fit.run())
        network = fit.learner.network.eval()
        readout = network.readout(data.inputs).double()
        true = readout.log_softmax(dim=1).gather(1, data.targets[:, None])[:, 0]
        figures[smoothing] = fit.epochs[-1].loss, fit.epochs[-1].validation, float(true.detach().exp().mean())
    (loss_0, validation_0, _), (loss_3, validation_3, probability_3) = figures[0.0], figures[0.3]
    assert validation_0 is not None
    assert validation_3 is not None
    assert validation_0.loss == pytest.approx(loss_0, abs=0.02)  # the same data, the same loss
    least = -sum(share * math.log(share) for share in (0.85, 0.15))  # what smoothed labels leave at best
    assert loss_3 == pytest.approx(least * (2 if loss == "one-vs-rest" else 1), rel=0.1)
    assert probability_3 == pytest.approx(0.85, abs=0.03)
    assert validation_3.loss < 0.6 * loss_3
    assert validation_3.accuracy == 1


def test_the_schedule_spans_the_fit() -> None:
    config = ClassifierConfig(net="linear", schedule="step", learning_rate=0.4, optimizer="sgd", max_epochs=8)
    spec = classifier_spec(config, PLANE, 2)
    fit = Fitting(config, spec, points(64, 2), None, seed=0, resolved=resolve_fit(config, spec))
    list(fit.run())
    assert [epoch.learning_rate for epoch in fit.epochs] == pytest.approx([0.4] * 4 + [0.04] * 2 + [0.004] * 2)
    assert fit.epochs[3].learning_rate == scheduled_learning_rate("step", 0.4, 7, 16)


def test_a_long_gradient_is_cut() -> None:
    config = ClassifierConfig(net="linear", optimizer="sgd", schedule="constant", learning_rate=1.0, max_grad_norm=0.01)
    one = learner(config, classifier_spec(config, PLANE, 2))
    before = parameters(one)
    data = one.prepare(points(10, 2))
    one.update(data._replace(inputs=100 * data.inputs))
    moved = torch.cat([(after - before[name]).flatten() for name, after in parameters(one).items()])
    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 16, 32, 33, 34, "full"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_minibatches_are_no_smaller_than_batch_norm_bears(batch_size: Any, batch_norm: bool) -> None:
    config = ClassifierConfig(batch_norm=batch_norm) if batch_size == 1 else ClassifierConfig(
        batch_norm=batch_norm, batch_size=batch_size, max_epochs=2
    )  # fmt: skip
    spec = classifier_spec(config, PLANE, 2)
    bounds = minibatch_bounds(33, config.recipe().batch_size, spec)
    sizes = np.diff(bounds)
    assert bounds[0] == 0
    assert bounds[-1] == 33
    assert sizes.min() >= 1 + batch_norm
    size = config.recipe().batch_size
    assert set(sizes[:-1]) <= {size}
    assert sizes[-1] <= 33 if size == "full" else sizes[-1] <= size + batch_norm
    fit = Fitting(config, spec, points(33, 2), points(1, 2), seed=0, resolved=resolve_fit(config, spec))
    list(fit.run())  # also scores a single example
    assert math.isfinite(fit.epochs[-1].loss)
    if batch_norm:
        with pytest.raises(ConfigError, match="a minibatch must hold at least 2 examples for batch_norm, got 1"):
            minibatch_bounds(1, 32, spec)


# -- first weights -----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:weights that all begin at 0")
@pytest.mark.parametrize("init", INITS)
def test_first_weights(init: Init) -> None:
    config = ClassifierConfig(hidden=(256,), init=init)
    spec = classifier_spec(config, InputSpec(shape=(64,)), 3)
    one = learner(config, spec)
    w1, b1, w2, b2 = parameters(one).values()
    if init == "default":
        for name, weight in build_network(spec, torch.Generator().manual_seed(0)).named_parameters():
            assert torch.equal(parameters(one)[name], weight)
        assert b1.abs().max() > 0
        return
    assert not b1.any()
    assert not b2.any()
    std = {"zeros": 0.0, "normal": 0.01, "xavier": (2 / 320) ** 0.5, "he": (2 / 64) ** 0.5, "orthogonal": 1 / 16}[init]
    assert float(w1.std()) == pytest.approx(std, rel=0.05)
    if init == "xavier":
        assert float(w1.abs().max()) <= (6 / 320) ** 0.5
    if init == "orthogonal":
        torch.testing.assert_close(w1.T @ w1, torch.eye(64), atol=1e-5, rtol=0)
        torch.testing.assert_close(w2 @ w2.T, torch.eye(3), atol=1e-5, rtol=0)
    assert all(
        torch.equal(a, b) for a, b in zip(parameters(learner(config, spec)).values(), (w1, b1, w2, b2), strict=True)
    )


def test_zeros_never_break_the_symmetry_and_warn() -> None:
    config = ClassifierConfig(hidden=(6,), activation="sigmoid", init="zeros", max_epochs=20, learning_rate=0.05)
    spec = classifier_spec(config, PLANE, 3)
    with pytest.warns(UserWarning, match="symmetry is never broken"):
        fit = Fitting(config, spec, points(60, 3), None, seed=0, resolved=resolve_fit(config, spec))
    list(fit.run())
    weight = next(iter(parameters(fit.learner).values()))
    assert weight.abs().max() > 0.1  # it does learn
    torch.testing.assert_close(weight, weight[:1].expand_as(weight))  # the same in all six units
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learner(
            ClassifierConfig(net="softmax", init="zeros"),
            spec=classifier_spec(ClassifierConfig(net="softmax"), PLANE, 3),
        )


# -- any moment of any fit ---------------------------------------------------------------------------------------------


@given(
    optimizer=st.sampled_from(OPTIMIZERS),
    schedule=st.sampled_from(SCHEDULES),
    stops=st.lists(st.integers(0, 12), min_size=1, max_size=3),
    extras=st.sampled_from([{}, {"dropout": 0.3}, {"batch_norm": True}, {"l1": 0.1, "l2": 0.1, "max_grad_norm": 0.5}]),
    regression=st.booleans(),
)
@settings(max_examples=60)
def test_any_fit_goes_on_to_the_bit(
    optimizer: Any, schedule: Any, stops: list[int], extras: dict[str, Any], regression: bool
) -> None:
    shared = {
        **MLP, "optimizer": optimizer, "schedule": schedule, "batch_size": 8, "max_epochs": 3, "learning_rate": 0.05
    }  # fmt: skip
    data, held_out = points(21, 3), points(9, 3, seed=1)
    config: ClassifierConfig | RegressorConfig = ClassifierConfig(**shared, **extras)
    spec = classifier_spec(config, PLANE, 3)
    if regression:
        config = RegressorConfig(**shared, **extras)
        spec = regressor_spec(config, PLANE, (0.5,), (2.0,))
        data, held_out = (each._replace(targets=each.inputs[:, :1] * each.inputs[:, 1:]) for each in (data, held_out))
    if len(stops) > 1:
        data = data._replace(weights=torch.linspace(0.5, 1.5, 21))
    resolved = {**resolve_fit(config, spec), "num_threads": 1}

    def begin() -> Fitting:
        return Fitting(config, spec, data, held_out, seed=0, resolved=resolved)

    whole, cut = begin(), begin()
    expected, events = list(whole.run()), []
    for stop in stops:
        for _, event in zip(range(stop), cut.run(), strict=False):
            events.append(event)
        state, tensors = cut.state()
        state, tensors = json.loads(json.dumps(state)), {name: tensor.clone() for name, tensor in tensors.items()}
        cut = begin()
        cut.restore(state, tensors)
    events.extend(cut.run())
    assert events == expected
    assert cut.best_epoch == whole.best_epoch
    for ours, theirs in ((cut.learner.network, whole.learner.network), (cut.best_network(), whole.best_network())):
        pairs = zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True)
        assert all(torch.equal(tensor, other) for (_, tensor), other in pairs)


# -- scores ------------------------------------------------------------------------------------------------------------


def test_scores_are_weighted_means() -> None:
    config = RegressorConfig(net="linear")
    spec = regressor_spec(config, PLANE, (1.0, -2.0), (2.0, 0.5))
    network = build_network(spec, torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(1500, 2)).astype(np.float32), rng.normal(size=(1500, 2)).astype(np.float32)
    weights = rng.uniform(size=1500)
    found = score(network, as_examples(inputs, targets, weights))
    with torch.no_grad():
        predicted = network.readout(torch.from_numpy(inputs)).numpy()
    assert found.r2 == pytest.approx(r2_score(targets, predicted, sample_weight=weights), rel=1e-5)
    errors = (((targets - predicted) / [2.0, 0.5]) ** 2).sum(axis=1)
    assert found.loss == pytest.approx(np.average(errors, weights=weights), rel=1e-5)
    assert found.quality == -found.loss
    assert found.text() == f"R² {found.r2:.4f}"

    labels = points(1500, 2)._replace(weights=torch.from_numpy(weights.astype(np.float32)))
    classifier = build_network(classifier_spec(ClassifierConfig(net="linear"), PLANE, 2), torch.Generator())
    with torch.no_grad():
        z = classifier(labels.inputs)[0].output.double().numpy()
    signs = 2 * labels.targets.numpy() - 1
    found = score(classifier, labels)
    assert found.loss == pytest.approx(np.average(np.log1p(np.exp(-signs * z)), weights=weights), rel=1e-5)
    assert found.accuracy == pytest.approx(np.average((z > 0) == (signs > 0), weights=weights), rel=1e-6)
    assert found.quality == found.accuracy
    assert found.text() == f"{found.accuracy:.2%}"


def test_a_constant_target_is_explained_or_not() -> None:
    network = build_network(regressor_spec(RegressorConfig(net="linear"), PLANE, (0.0,), (1.0,)), torch.Generator())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    inputs = torch.ones(4, 2)
    assert score(network, Examples(inputs, torch.zeros(4, 1))) == Score(loss=0.0, r2=1.0)
    assert score(network, Examples(inputs, torch.ones(4, 1))) == Score(loss=1.0, r2=0.0)


# -- what a run makes of it --------------------------------------------------------------------------------------------


def test_balanced_classes_have_the_same_say(tmp_path: Path) -> None:
    data = load_dataset("moons")
    rows = np.r_[np.flatnonzero(data.train.labels == 0), np.flatnonzero(data.train.labels == 1)[::8]]
    data = Splits(train=data.train.take(rows), validation=data.validation, test=data.test)
    plain, balanced = (ClassifierConfig(net="logistic", max_epochs=10, class_weight=how) for how in (None, "balanced"))
    weights = examples_of(data.train, spec_of(data.train, balanced).input, balanced).weights
    assert weights is not None
    labels = torch.from_numpy(data.train.labels.copy())
    assert float(weights[labels == 0].sum()) == pytest.approx(float(weights[labels == 1].sum()), rel=1e-5)
    assert float(weights.mean()) == pytest.approx(1)
    recalls = []
    for name, config in (("plain", plain), ("balanced", balanced)):
        fit_run(data, config, seed=0, out=tmp_path / name)
        predicted = Predictor.load(tmp_path / name).classify(data.test.inputs).indices[:, 0]
        recalls.append((predicted[data.test.labels == 1] == 1).mean())
    assert recalls[1] > recalls[0] + 0.05


ROUGH: dict[str, Any] = {"net": "softmax", "max_epochs": 8, "learning_rate": 0.1}


def some_digits() -> Splits:
    digits = load_dataset("digits")
    return Splits(train=digits.train.take(slice(300)), validation=digits.validation, test=digits.test)


@pytest.fixture(scope="module")
def uncalibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("uncalibrated")
    fit_run(some_digits(), ClassifierConfig(**ROUGH), seed=0, out=path)
    assert read_card(path / "best").calibration is None
    return path


@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic"])
def test_a_calibration_is_stored_and_applied(tmp_path: Path, uncalibrated: Path, method: Any) -> None:
    data = some_digits()
    summary = fit_run(data, ClassifierConfig(**ROUGH, calibration=method), seed=0, out=tmp_path / "run").summary
    assert summary is not None
    calibration = read_card(tmp_path / "run" / "best").calibration
    assert calibration is not None
    assert calibration.method == method

    predictor = Predictor.load(tmp_path / "run")
    readout = compute_readout(predictor, data.test.inputs)
    assert np.array_equal(readout, compute_readout(Predictor.load(uncalibrated), data.test.inputs))
    probabilities = predictor.probabilities(readout)
    np.testing.assert_allclose(probabilities, calibration.apply(readout), atol=1e-7)
    assert not np.allclose(probabilities, Predictor.load(uncalibrated).probabilities(readout), atol=1e-3)
    classified = predictor.classify(data.test.inputs[:5], top_k=10)
    assert np.array_equal(np.sort(classified.probabilities), np.sort(probabilities[:5]))
    true = np.take_along_axis(probabilities.astype(np.float64), data.test.labels[:, None], axis=1)
    assert summary["test_loss"] == pytest.approx(-np.log(np.maximum(true, np.finfo(np.float64).eps)).mean(), rel=1e-3)
    if method == "temperature":
        assert summary["test_errors"] == json.loads((uncalibrated / "summary.json").read_bytes())["test_errors"]

    loaded = Classifier.load(tmp_path / "run")
    np.testing.assert_allclose(loaded.predict_proba(data.test.inputs), probabilities, atol=1e-5)
    loaded.save(tmp_path / "again")
    assert read_card(tmp_path / "again").calibration == calibration


@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic"])
def test_an_estimator_calibrates_on_what_it_holds_out(tmp_path: Path, method: Any) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(300, 2)), rng.integers(2, size=300)  # there is nothing to learn, and much to be sure of
    sure = Classifier(max_epochs=60, learning_rate=0.05, patience=None, random_state=0, validation_fraction=0.3)
    calibrated = Classifier(**{**sure.get_params(), "calibration": method}).fit(X, y)
    sure.fit(X, y)
    assert np.array_equal(calibrated.decision_function(X), sure.decision_function(X))
    assert calibrated.predict_proba(X).max(axis=1).mean() < sure.predict_proba(X).max(axis=1).mean()
    calibrated.save(tmp_path)
    assert np.array_equal(Classifier.load(tmp_path).predict_proba(X), calibrated.predict_proba(X))
    calibrated.partial_fit(X, y)
    assert calibrated._predictor().card.calibration is None  # it was of other weights


def test_a_calibration_that_cannot_be_fitted_is_refused_before_the_fit(tmp_path: Path) -> None:
    digits = load_dataset("digits")
    config = ClassifierConfig(net="softmax", max_epochs=1, calibration="platt")
    none, few = np.arange(0), np.arange(9)
    no_threes = np.flatnonzero(digits.validation.labels != 3)
    for rows, error in ((none, "at least 10 rows"), (few, "at least 10 rows"), (no_threes, "none of class 3")):
        data = Splits(train=digits.train, validation=digits.validation.take(rows), test=digits.test)
        with pytest.raises((ConfigError, InputError), match=error):
            fit_run(data, config, seed=0, out=tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_a_regressor_config_for_labels_is_refused() -> None:
    rows = Dataset(name="rows", inputs=np.eye(4), labels=np.arange(4), label_names=(0, 1, 2, 3))
    with pytest.raises(
        ConfigError, match="config must be a ClassifierConfig, as rows is for classification, got a Regressor"
    ):
        spec_of(rows, RegressorConfig())
    with pytest.raises(
        ConfigError, match="config must be a RegressorConfig, as diabetes is for regression, got a Classifier"
    ):
        spec_of(load_dataset("diabetes").train, ClassifierConfig())
