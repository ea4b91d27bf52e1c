"""Inspection workflow: the pictures and figures of classifiers, regressors and policies."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from torso.envs import Dataset, load_dataset
from torso.errors import ConfigError, InputError, ModelNotFoundError
from torso.insight.inspect.held_out import source_of
from torso.insight.inspect.inspecting import Inspection, inspect_model
from torso.insight.inspect.settings import EPSILONS, InspectionSettings
from torso.insight.inspect.subjects import Subject
from torso.nets import (
    Calibration,
    ImageSpec,
    InputSpec,
    LogitsHeadSpec,
    MLPSpec,
    NetworkSpec,
    RegressionHeadSpec,
    ScalarHeadSpec,
    SigmoidHeadSpec,
    StepHeadSpec,
    build_network,
    net_spec,
    read_card,
    save_model,
)
from torso.nets.specs.calibration import TemperatureScaling

SMALL = InspectionSettings(num_units=2, num_top=3)
Fit = Callable[..., Path]


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """``fit(data, torso, head, steps)``: a model of this data, fitted a little."""

    def made(data: Dataset, torso: Any, head: Any, *, steps: int = 60, calibration: Calibration | None = None) -> Path:
        torch.set_num_threads(1)
        if data.image is not None:
            image = ImageSpec(**vars(data.image))
            spec = InputSpec(shape=data.inputs.shape[1:], dtype="uint8", layout="hw", scale=1 / 16, image=image)
        else:
            mean, std = data.inputs.mean(axis=0), data.inputs.std(axis=0)
            spec = InputSpec(shape=data.inputs.shape[1:], mean=tuple(mean.tolist()), std=tuple(std.tolist()))
        network = build_network(NetworkSpec(input=spec, torso=torso, head=head), torch.Generator().manual_seed(0))
        inputs, labels = torch.tensor(data.inputs), torch.tensor(data.labels)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
        generator = torch.Generator().manual_seed(0)
        for _ in range(steps):
            prediction, _ = network(inputs, (), generator)
            loss = network.head.loss(prediction, labels).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return save_model(
            tmp_path_factory.mktemp("models") / "model",
            network,
            kind=network.spec.kind,
            labels=data.label_names,
            provenance={"dataset": data.name, "config": {"net": "mlp"}},
            calibration=calibration,
            onnx=False,
        )

    return made


def names(found: Inspection) -> list[str]:
    for each in found.drawn:
        assert each.path.parent == found.out
        assert each.path.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in found.out.iterdir()) == sorted(each.path.name for each in found.drawn)
    return [each.name for each in found.drawn]


@pytest.fixture(scope="module")
def digits(fit: Fit) -> tuple[Path, Dataset]:
    data = load_dataset("digits")
    model = fit(data.train, MLPSpec(hidden=(32,)), LogitsHeadSpec(num_classes=10))
    return model, data.test


def test_a_classifier_of_images(digits: tuple[Path, Dataset], tmp_path: Path) -> None:
    model, test = digits
    found = inspect_model(model, data=test, out=tmp_path / "pictures", settings=SMALL)
    assert names(found) == [
        "weights",
        "activations",
        "units_dense1",
        "units_output",
        "adversarial",
        "confusion",
        "reliability",
    ]
    figures = found.to_json()["figures"]
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures

    for layer in ("units_dense1", "units_output"):
        for unit in figures[layer]["units"]:
            assert unit["stimulus_drive"] > unit["top_drives"][0] > unit["top_drives"][2]
            assert len(unit["top_rows"]) == 3
    assert len(figures["units_dense1"]["units"]) == 2
    assert [unit["unit"] for unit in figures["units_output"]["units"]] == [f"output:{digit}" for digit in range(10)]

    attacks = figures["adversarial"]
    assert attacks["epsilons"] == list(EPSILONS)
    assert all(later < earlier for earlier, later in pairwise(attacks["accuracy"]))

    confusion = np.array(figures["confusion"]["confusion"])
    assert confusion.sum(axis=1).tolist() == np.bincount(test.labels).tolist()
    assert confusion.trace() / len(test) == pytest.approx(attacks["accuracy"][0])
    worst = figures["confusion"]["worst"]
    assert 0 < len(worst) <= 12
    assert [each["confidence"] for each in worst] == sorted((each["confidence"] for each in worst), reverse=True)
    for each in worst:
        assert str(test.labels[each["row"]]) == each["truth"] != each["said"]


def test_units_and_epsilons_are_those_that_are_asked_for(digits: tuple[Path, Dataset], tmp_path: Path) -> None:
    model, test = digits
    asked = InspectionSettings(units=("output:3", "dense1:7", "output:3", "dense1:0"), epsilons=(0.3, 0.1))
    found = inspect_model(model, data=test, out=tmp_path / "out", settings=asked).to_json()["figures"]
    assert [unit["unit"] for unit in found["units_output"]["units"]] == ["output:3"]
    assert [unit["unit"] for unit in found["units_dense1"]["units"]] == ["dense1:7", "dense1:0"]
    assert found["adversarial"]["epsilons"] == [0.0, 0.1, 0.3]


def test_pictures_lie_in_the_models_directory_and_the_same_model_gives_the_same(
    digits: tuple[Path, Dataset], tmp_path: Path
) -> None:
    model, test = digits
    first = inspect_model(model, data=test, settings=SMALL)
    assert first.out == model / "inspection"
    second = inspect_model(model, data=test, settings=SMALL, out=tmp_path / "again")
    for one, other in zip(first.drawn, second.drawn, strict=True):
        assert one.figures == other.figures
        assert one.path.read_bytes() == other.path.read_bytes()
    assert read_card(model).kind == "classifier"  # and the model is still one


def test_a_toy_has_a_surface(fit: Fit, tmp_path: Path) -> None:
    data = load_dataset("moons")
    model = fit(data.train, MLPSpec(hidden=(8, 8), activation="tanh"), SigmoidHeadSpec())
    found = inspect_model(model, data=data.test, out=tmp_path / "out", settings=SMALL)
    assert names(found) == [
        "weights",
        "activations",
        "units_dense1",
        "units_dense2",
        "units_output",
        "adversarial",
        "surface",
        "confusion",
        "reliability",
    ]
    units = found.to_json()["figures"]["units_output"]["units"]
    assert [unit["unit"] for unit in units] == ["output:0"]  # one output, for two classes
    assert units[0]["stimulus_drive"] >= units[0]["top_drives"][0]


def test_a_step_unit_has_no_probabilities_to_show(fit: Fit, tmp_path: Path) -> None:
    data = load_dataset("xor")
    found = inspect_model(
        fit(data.train, MLPSpec(hidden=()), StepHeadSpec(), steps=5), data=data.test, out=tmp_path / "out"
    )
    assert names(found) == ["weights", "activations", "units_output", "adversarial", "surface", "confusion"]
    worst = found.to_json()["figures"]["confusion"]["worst"]
    assert worst  # no line divides these classes
    assert {each["confidence"] for each in worst} == {None}


def test_a_table_with_more_features_has_none(fit: Fit, tmp_path: Path) -> None:
    data = load_dataset("iris")
    model = fit(data.train, MLPSpec(hidden=(6,)), LogitsHeadSpec(num_classes=3))
    found = inspect_model(model, data=data.test, out=tmp_path / "out", settings=SMALL)
    assert "surface" not in names(found)
    assert Subject.load(model, data.test).feature_names == list(data.test.feature_names or ())


def test_calibration_is_shown_before_and_after(fit: Fit, tmp_path: Path) -> None:
    data = load_dataset("iris")
    calibration = TemperatureScaling(num_classes=3, temperature=4.0)
    model = fit(data.train, MLPSpec(hidden=(6,)), LogitsHeadSpec(num_classes=3), calibration=calibration)
    found = inspect_model(model, data=data.test, out=tmp_path / "out", settings=SMALL).to_json()["figures"]
    both = found["reliability"]
    assert list(both) == ["uncalibrated", "calibrated"]
    assert both["uncalibrated"]["ece"] != both["calibrated"]["ece"]


def test_a_regressor(fit: Fit, tmp_path: Path) -> None:
    data = load_dataset("diabetes")
    head = RegressionHeadSpec(num_targets=1, mean=(150.0,), std=(77.0,))
    model = fit(data.train, MLPSpec(hidden=(8,)), head)
    found = inspect_model(model, data=data.test, out=tmp_path / "out", settings=SMALL)
    assert names(found) == ["weights", "activations", "units_dense1", "units_output", "scatter"]
    figures = found.to_json()["figures"]
    assert 0 < figures["scatter"]["r2"] < 1
    assert 50 < figures["units_output"]["units"][0]["top_drives"][0] < 1000  # in the target's own unit


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec_input = InputSpec(shape=(4, 84, 84), dtype="uint8", layout="chw", scale=1 / 255)
    spec = NetworkSpec(
        input=spec_input, torso=net_spec("nature", spec_input, hidden=(16,)), head=ScalarHeadSpec(num_actions=3)
    )
    network = build_network(spec, torch.Generator().manual_seed(0))
    return save_model(tmp_path_factory.mktemp("policy") / "pong", network, kind="policy", action_start=2, onnx=False)


def test_a_policy_shows_its_weights_and_what_it_makes_of_an_observation(policy: Path, tmp_path: Path) -> None:
    assert names(inspect_model(policy, out=tmp_path / "weights")) == ["weights"]
    observation = np.random.default_rng(0).integers(0, 256, (4, 84, 84), dtype=np.uint8)
    found = inspect_model(policy, out=tmp_path / "both", example=observation)
    assert names(found) == ["weights", "activations"]
    assert found.drawn[1].figures["layers"][0] == "conv1 (32 × 20 × 20)"
    assert Subject.load(policy, None).names == ["2", "3", "4"]
    with pytest.raises(ConfigError, match="input 3 is a row of test data, and there are none; give some"):
        inspect_model(policy, out=tmp_path / "none", example=3)
    with pytest.raises(ConfigError, match="unit conv1:0 needs test data"):
        inspect_model(policy, out=tmp_path / "none", settings=InspectionSettings(units=("conv1:0",)))
    assert not (tmp_path / "none").exists()


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_data_must_be_of_the_models_kind(digits: tuple[Path, Dataset], policy: Path, tmp_path: Path) -> None:
    model, test = digits
    others: list[tuple[Path, Dataset, str]] = [
        (model, load_dataset("iris").test, "the model knows the labels"),
        (model, load_dataset("diabetes").test, "the model is a classifier, diabetes is data for a regressor"),
        (policy, test, "the model is a policy, digits is data for a classifier"),
        (model, replace(test, inputs=test.inputs[:, :4], image=None), "the model was fitted to other data"),
    ]
    for path, data, message in others:
        with pytest.raises(ConfigError, match=message):
            inspect_model(path, data=data, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ModelNotFoundError):
        inspect_model(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("unit", "error", "message"),
    [
        (
            "dense1",
            ConfigError,
            r"unit must be LAYER:INDEX, such as output:0, got 'dense1'; there are dense1 \(32 units\)",
        ),
        ("dense1:x", ConfigError, "got 'dense1:x'"),
        ("dense1:32", InputError, "got dense1:32"),
        ("conv1:0", InputError, r"layer must be one of dense1 \(units 0 to 31\), output \(units 0 to 9\), got 'conv1'"),
    ],
)
def test_units_that_are_not_there(
    digits: tuple[Path, Dataset], tmp_path: Path, unit: str, error: type[Exception], message: str
) -> None:
    model, test = digits
    with pytest.raises(error, match=message):
        inspect_model(model, data=test, out=tmp_path, settings=InspectionSettings(units=(unit,)))


def test_examples_that_do_not_fit(digits: tuple[Path, Dataset], tmp_path: Path) -> None:
    model, test = digits
    for row in (-1, len(test)):
        with pytest.raises(InputError, match=f"a row of the test data, 0 to {len(test) - 1}, got {row}"):
            inspect_model(model, data=test, out=tmp_path, example=row)
    with pytest.raises(InputError, match=r"input\.shape must be that of one input, got 2 rows"):
        inspect_model(model, data=test, out=tmp_path, example=test.inputs[:2])
    with pytest.raises(InputError, match="input"):
        inspect_model(model, data=test, out=tmp_path, example=b"no image")


@pytest.mark.parametrize("epsilons", [(), (-0.1,), (0.1, 2.0), (float("nan"),)])
def test_epsilons_are_shares(epsilons: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match=r"epsilons must be shares of the input's range, numbers in \[0, 1\]"):
        InspectionSettings(epsilons=epsilons)


def test_counts_are_at_least_one() -> None:
    with pytest.raises(ConfigError, match="num_top must be at least 1, got 0"):
        InspectionSettings(num_top=0)


# -- where the data are ------------------------------------------------------------------------------------------------


def test_a_model_says_which_data_it_was_fitted_to(digits: tuple[Path, Dataset]) -> None:
    card = read_card(digits[0])
    assert source_of(card) == {"name": "digits"}
    asked = replace(card, provenance={"dataset": "x.csv", "source": {"name": "a/x.csv", "label_column": "y"}})
    assert source_of(asked) == {"name": "a/x.csv", "label_column": "y"}
    assert source_of(asked, "b/x.csv") == {"name": "b/x.csv", "label_column": "y"}
    assert source_of(replace(card, provenance={})) is None
    assert source_of(replace(card, provenance={}), "iris") == {"name": "iris"}


def test_the_loss_of_the_heads_is_a_real_fit(digits: tuple[Path, Dataset]) -> None:
    """The models of these tests have learnt something, or their figures would say little."""
    subject = Subject.load(*digits)
    loss = functional.nll_loss(torch.tensor(subject.probabilities).log(), torch.tensor(digits[1].labels))
    assert float(loss) < 0.5
