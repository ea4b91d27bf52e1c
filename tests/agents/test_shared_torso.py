"""Transfer of another model's torso to fits: classifiers and regressors, in memory and in run directories."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone

from torso.agents import Classifier, ClassifierConfig, FitResult, Regressor, RegressorConfig, fit_run
from torso.agents.runs.run_directory import RunDirectory
from torso.agents.supervised.lr_finder import range_test_of
from torso.envs import Splits, load_dataset
from torso.errors import ConfigError, ModelNotFoundError, RunError, SpecError
from torso.nets import (
    ConvLayerSpec,
    ConvNetSpec,
    InputSpec,
    MLPSpec,
    NetworkSpec,
    ScalarHeadSpec,
    build_network,
    load,
    read_card,
    save_model,
)

SCAN = InputSpec(shape=(8, 8), dtype="uint8", layout="hw", scale=1 / 16)
ROWS = InputSpec(shape=(4,), mean=(5.0, 3.0, 4.0, 1.0), std=(2.0, 2.0, 2.0, 2.0))
CONVNET = ConvNetSpec(convs=(ConvLayerSpec(channels=4, kernel=3, pool="max"),), hidden=(16,), batch_norm=True)
QUICK: dict[str, Any] = {"max_epochs": 2, "random_state": 0, "device": "cpu", "num_threads": 1}


def save_policy(path: Path, network_input: InputSpec, torso: Any, *, seed: int = 0) -> Path:
    """Save a policy with the weights of a seed."""
    spec = NetworkSpec(input=network_input, torso=torso, head=ScalarHeadSpec(num_actions=3))
    network = build_network(spec, torch.Generator().manual_seed(seed))
    return save_model(path, network, kind="policy", onnx=False)


def save(estimator: Classifier | Regressor, path: Path) -> None:
    """`Estimator.save` without the seconds that model.onnx takes."""
    card = estimator._card
    save_model(path, estimator.network_, kind=card.kind, labels=card.labels, provenance=card.provenance, onnx=False)


@pytest.fixture
def sees_scans(tmp_path: Path) -> Path:
    return save_policy(tmp_path / "scans", SCAN, CONVNET)


@pytest.fixture
def sees_rows(tmp_path: Path) -> Path:
    return save_policy(tmp_path / "rows", ROWS, MLPSpec(hidden=(8, 6), activation="tanh"))


def scans(number: int = 60) -> tuple[np.ndarray, np.ndarray]:
    data = load_dataset("digits").train
    return data.inputs[:number], data.labels[:number]


def irises() -> tuple[np.ndarray, np.ndarray]:
    data = load_dataset("iris").train
    return np.asarray(data.inputs, np.float64), data.labels


def torso_of(network: torch.nn.Module) -> list[bytes]:
    return [t.contiguous().numpy().tobytes() for name, t in network.state_dict().items() if name.startswith("torso.")]


# -- estimators --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("freeze", [True, False])
def test_a_policys_torso_in_a_classifier_of_images(sees_scans: Path, freeze: bool) -> None:
    X, y = scans()
    classifier = Classifier(init_torso=sees_scans, freeze_torso=freeze, **QUICK).fit(X, y)
    spec = classifier.network_.spec
    assert (spec.torso, spec.input.scale, spec.num_outputs) == (CONVNET, 1 / 16, 10)
    assert (torso_of(classifier.network_) == torso_of(load(sees_scans))) == freeze
    rows = X.reshape(len(X), 64)  # a network that sees images sees them in rows of pixels too
    assert np.array_equal(Classifier(init_torso=sees_scans, freeze_torso=freeze, **QUICK).fit(rows, y).predict(X),
                          classifier.predict(X))  # fmt: skip


def test_what_is_learnt_begins_with_the_torso_and_not_with_the_seeds(sees_rows: Path) -> None:
    X, y = irises()
    still: dict[str, Any] = {**QUICK, "learning_rate": 1e-12, "weight_decay": 0.0}
    classifier = Classifier(init_torso=sees_rows, **still).fit(X, y)
    assert classifier.network_.spec.input == ROWS
    for own, taken in zip(classifier.network_.torso.parameters(), load(sees_rows).torso.parameters(), strict=True):
        assert torch.allclose(own, taken, atol=1e-8)


@pytest.mark.parametrize("freeze", [True, False])
def test_a_classifiers_torso_in_a_regressor(tmp_path: Path, freeze: bool) -> None:
    X, y = irises()
    save(Classifier(hidden=(7,), dropout=0.4, **QUICK).fit(X, y), tmp_path / "source")
    regressor = Regressor(init_torso=str(tmp_path / "source"), freeze_torso=freeze, **QUICK).fit(X, X[:, :2] * 10)
    source = read_card(tmp_path / "source").network
    assert (regressor.network_.spec.torso, regressor.network_.spec.input) == (source.torso, source.input)
    assert (torso_of(regressor.network_) == torso_of(load(tmp_path / "source"))) == freeze
    assert regressor.predict(X).shape == (len(X), 2)


def test_dropout_of_ones_own(tmp_path: Path) -> None:
    X, y = irises()
    save(Classifier(hidden=(7, 6), dropout=0.4, **QUICK).fit(X, y), tmp_path / "source")
    spec = Classifier(init_torso=tmp_path / "source", dropout=0.0, **QUICK).fit(X, y).network_.spec
    assert spec.torso == MLPSpec(hidden=(7, 6), dropout=0.0)


def test_partial_fit_begins_with_the_torso_and_keeps_it(sees_scans: Path, tmp_path: Path) -> None:
    X, y = scans()
    classifier = Classifier(init_torso=sees_scans, freeze_torso=True, **QUICK)
    classifier.partial_fit(X[:30], y[:30], classes=range(10)).partial_fit(X[30:], y[30:])
    save(classifier, tmp_path / "saved")
    assert read_card(tmp_path / "saved").provenance["init_torso"]["path"] == str(sees_scans)
    loaded = Classifier.load(tmp_path / "saved")
    head = loaded.network_.head.state_dict()["linear.weight"].clone()
    loaded.partial_fit(X, y)
    assert not torch.equal(loaded.network_.head.state_dict()["linear.weight"], head)
    for each in (classifier, loaded):
        assert torso_of(each.network_) == torso_of(load(sees_scans))


def test_a_model_says_where_its_torso_came_from(sees_rows: Path, tmp_path: Path) -> None:
    X, y = irises()
    settings = {**QUICK, "validation_fraction": 0.2}
    classifier = Classifier(init_torso=sees_rows, freeze_torso=True, calibration="temperature", **settings).fit(X, y)
    save(classifier, tmp_path / "saved")
    origin = {"path": str(sees_rows), "weights_sha256": read_card(sees_rows).weights_sha256}
    assert read_card(tmp_path / "saved").provenance["init_torso"] == origin
    loaded = Classifier.load(tmp_path / "saved")
    assert (loaded.init_torso, loaded.freeze_torso, loaded.net) == (str(sees_rows), True, None)
    assert np.array_equal(loaded.predict(X), classifier.predict(X))
    save(loaded.partial_fit(X, y), tmp_path / "again")
    assert read_card(tmp_path / "again").provenance["init_torso"] == origin
    copied = clone(classifier)
    assert copied.get_params() == classifier.get_params()
    save(loaded.set_params(init_torso=None, freeze_torso=False, calibration=None).fit(X, y), tmp_path / "anew")
    assert read_card(tmp_path / "anew").provenance["init_torso"] is None


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"freeze_torso": True}, "freeze_torso keeps a torso as it was elsewhere: name its model in init_torso"),
        ({"init_torso": ""}, "init_torso must be the path of a model or run directory, got ''"),
        ({"init_torso": 3}, "init_torso must be the path of a model or run directory, got 3"),
        ({"init_torso": "a", "net": "mlp"}, "init_torso brings the whole torso: leave out net"),
        ({"init_torso": "a", "hidden": (), "layer_norm": True}, "leave out hidden, layer_norm"),
        ({"init_torso": "a", "layer_norm_kind": "channels"}, "leave out layer_norm_kind"),
        ({"init_torso": "a", "activation": "relu", "batch_norm": False}, "leave out activation, batch_norm"),
        ({"init_torso": "a", "freeze_torso": True, "dropout": 0.0}, "a frozen torso drops nothing out"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], message: str) -> None:
    for config in (ClassifierConfig, RegressorConfig):
        with pytest.raises(ConfigError, match=message):
            config(**settings)


def test_inputs_that_the_torso_does_not_know(sees_rows: Path, sees_scans: Path, tmp_path: Path) -> None:
    X, y = scans()
    with pytest.raises(SpecError, match=r"rows takes inputs of shape \[4\], these are of shape \[1, 8, 8\]"):
        Classifier(init_torso=sees_rows, **QUICK).fit(X, y)
    with pytest.raises(SpecError, match=r"scans takes inputs of shape \[1, 8, 8\], these are of shape \[1, 2, 2\]"):
        Classifier(init_torso=sees_scans, **QUICK).fit(*irises())
    with pytest.raises(ModelNotFoundError, match="no model at"):
        Classifier(init_torso=tmp_path / "nowhere", **QUICK).fit(X, y)
    with pytest.raises(ConfigError, match=r"are for images, which .*rows does not take"):
        Classifier(init_torso=sees_rows, max_shift_px=1, **QUICK).fit(*irises())
    Classifier(init_torso=sees_scans, max_shift_px=1, **QUICK).fit(X, y)


# -- run directories ---------------------------------------------------------------------------------------------------


def few_digits() -> Splits:
    digits = load_dataset("digits")
    return Splits(**{name: getattr(digits, name).take(slice(64)) for name in ("train", "validation", "test")})


def fit(out: Path, source: Path, *, freeze: bool = True, **how: Any) -> FitResult:
    config = ClassifierConfig(init_torso=str(source), freeze_torso=freeze, max_epochs=3, device="cpu")
    return fit_run(few_digits(), config, seed=0, out=out, **how)


def results(run: Path) -> dict[str, bytes]:
    names = ("progress.jsonl", "summary.json", "best/weights.safetensors", "model/weights.safetensors")
    return {name: (run / name).read_bytes() for name in names}


def after(events: int) -> Callable[[], bool]:
    left = [events]

    def stop() -> bool:
        left[0] -= 1
        return left[0] <= 0

    return stop


class KilledError(Exception):
    """Ends a fit before its first checkpoint, as a kill would."""


def killed(event: Any) -> None:
    raise KilledError


@pytest.mark.parametrize("freeze", [True, False])
def test_a_run_with_a_taken_torso_goes_on_to_the_same_bits(tmp_path: Path, sees_scans: Path, freeze: bool) -> None:
    summary = fit(tmp_path / "whole", sees_scans, freeze=freeze).summary
    with pytest.raises(KilledError):
        fit(tmp_path / "cut", sees_scans, freeze=freeze, on_event=killed)
    assert not (tmp_path / "cut" / "model").exists()
    for stop_at in (1, 3):  # the first step, an epoch's end
        fit(tmp_path / "cut", sees_scans, freeze=freeze, resume=True, stop=after(stop_at))
    fit(tmp_path / "cut", sees_scans, freeze=freeze, resume=True)
    assert results(tmp_path / "cut") == results(tmp_path / "whole")
    assert (torso_of(load(tmp_path / "cut" / "model")) == torso_of(load(sees_scans))) == freeze

    origin = {"path": str(sees_scans), "weights_sha256": read_card(sees_scans).weights_sha256}
    for model in ("best", "model"):
        assert read_card(tmp_path / "cut" / model).provenance["init_torso"] == origin
    settings = RunDirectory.open(tmp_path / "cut").settings
    assert (settings["init_torso"], settings["freeze_torso"]) == (str(sees_scans), freeze)
    assert (settings["init_torso_sha256"], settings["net"]) == (origin["weights_sha256"], None)
    assert summary is not None
    assert (summary["net"], summary["init_torso"]) == (None, str(sees_scans))


@pytest.mark.parametrize("begun", [False, True])
def test_a_resume_from_a_source_that_has_changed_is_refused(tmp_path: Path, sees_scans: Path, begun: bool) -> None:
    """Before the first checkpoint, when the weights would come from it again, and after it."""
    if begun:
        fit(tmp_path / "run", sees_scans, stop=after(1))
    else:
        with pytest.raises(KilledError):
            fit(tmp_path / "run", sees_scans, on_event=killed)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    save_policy(sees_scans, SCAN, CONVNET, seed=1)
    with pytest.raises(RunError, match=r'init_torso_sha256 was "\w{64}", now "\w{64}"'):
        fit(tmp_path / "run", sees_scans, resume=True)
    other = save_policy(tmp_path / "other", SCAN, CONVNET)  # the same weights, somewhere else
    with pytest.raises(RunError, match="init_torso was "):
        fit(tmp_path / "run", other, resume=True)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_learning_rate_is_looked_for_from_the_torso(sees_rows: Path) -> None:
    frozen = RegressorConfig(init_torso=str(sees_rows), freeze_torso=True, batch_size=16, device="cpu")
    data = load_dataset("iris")
    config = ClassifierConfig(**{**vars(frozen), "loss": "softmax"})
    assert range_test_of(data, config, seed=0, num_steps=40).suggestion > 0


def test_a_source_that_is_not_there_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no model at"):
        fit(tmp_path / "run", tmp_path / "nowhere")
    assert not (tmp_path / "run").exists()
