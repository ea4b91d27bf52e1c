"""Golden model directories: every released format version loads; ``make_golden.py`` wrote each of them once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from torso.nets import (
    FORMAT_VERSION,
    InputSpec,
    Predictor,
    RegressionHeadSpec,
    ScalarHeadSpec,
    load,
    onnx_path,
    read_card,
    save_model,
)
from torso.nets.models.loading import load_model
from torso.nets.specs.calibration import PlattScaling

HERE = Path(__file__).parent
MODELS = sorted(path.parent.name for path in HERE.glob("*/model.json"))


def golden(name: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    with np.load(HERE / name / "golden.npz", allow_pickle=False) as file:
        return file["inputs"], file["readout"]


def test_there_is_a_golden_model_of_every_kind_of_every_format_version() -> None:
    kinds = {(card.format_version, card.kind) for card in (read_card(HERE / name) for name in MODELS)}
    assert kinds == {
        *((version, kind) for version in range(1, FORMAT_VERSION + 1) for kind in ("classifier", "policy")),
        *((version, "regressor") for version in range(2, FORMAT_VERSION + 1)),
    }


@pytest.mark.parametrize("name", MODELS)
def test_a_golden_model_loads_and_answers_as_it_did(name: str) -> None:
    inputs, readout = golden(name)
    predictor = Predictor.load(HERE / name)
    np.testing.assert_allclose(predictor.run(predictor.prepare(inputs, strict=True)), readout, rtol=1e-5, atol=1e-5)
    assert np.ptp(readout, axis=0).min() > 0.05, "the answers should differ, or they would prove nothing"


@pytest.mark.parametrize("name", [name for name in MODELS if read_card(HERE / name).calibration is not None])
def test_a_golden_models_probabilities_are_calibrated_as_they_were(name: str) -> None:
    with np.load(HERE / name / "golden.npz", allow_pickle=False) as file:
        readout, expected = file["readout"], file["probabilities"]
    np.testing.assert_allclose(Predictor.load(HERE / name).probabilities(readout), expected, rtol=1e-6)
    odds = np.exp(readout)
    assert np.abs(expected - odds / odds.sum(axis=1, keepdims=True)).max() > 0.05


@pytest.mark.parametrize("name", MODELS)
def test_a_golden_models_onnx_answers_too(name: str) -> None:
    inputs, readout = golden(name)
    path = onnx_path(HERE / name)
    assert path is not None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"obs": inputs})[0], readout, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_saving_a_golden_models_network_again_gives_the_same_weights(name: str, tmp_path: Path) -> None:
    card, network = load_model(HERE / name)
    names = ("kind", "labels", "action_start", "observation_space", "calibration")
    fields = {name: getattr(card, name) for name in names}
    save_model(tmp_path, network, onnx=False, **fields)
    assert (tmp_path / "weights.safetensors").read_bytes() == (HERE / name / "weights.safetensors").read_bytes()
    again = read_card(tmp_path)
    assert again.network == card.network
    assert {name: getattr(again, name) for name in fields} == fields
    assert again.format_version == FORMAT_VERSION


def test_what_the_cards_of_version_1_say() -> None:
    classifier, policy = read_card(HERE / "model_v1"), read_card(HERE / "model_v1_policy")
    assert classifier.labels == ("zero", 1, 2.5, "drei ½")
    assert (policy.labels, policy.action_start) == (None, 1)
    assert classifier.network.input.image is not None
    assert (classifier.network.input.image.centring, classifier.network.input.image.max_value) == ("box", 16.0)
    assert policy.network.input == InputSpec(
        shape=(2, 3), mean=(0.5, -0.5, 0.0, 1.0, 2.0, -1.0), std=(1.0, 2.0, 0.5, 1.5, 4.0, 2.5)
    )
    assert classifier.calibration is policy.calibration is None
    assert classifier.provenance["made_by"] == policy.provenance["made_by"] == "tests/golden/make_golden.py"


def test_what_the_cards_of_version_2_say() -> None:
    classifier, policy, regressor = (read_card(HERE / f"model_v2{kind}") for kind in ("", "_policy", "_regressor"))
    assert classifier.calibration == PlattScaling(
        num_classes=4, slopes=(0.5, 1.0, 1.5, 0.75), intercepts=(0.0, -0.5, 0.25, 1.0)
    )
    assert classifier.network.torso.batch_norm
    assert (policy.calibration, policy.labels, policy.action_start) == (None, None, 1)
    assert (regressor.calibration, regressor.labels) == (None, ("progression", "dose"))
    assert regressor.network.head == RegressionHeadSpec(num_targets=2, mean=(152.0, -0.5), std=(77.0, 0.25))


def test_what_the_cards_of_version_3_say() -> None:
    classifier, policy, regressor = (read_card(HERE / f"model_v3{kind}") for kind in ("", "_policy", "_regressor"))
    assert policy.network.head == ScalarHeadSpec(num_actions=3, huber_delta=None, dueling=True, hidden=(5,))
    assert policy.network.input.std == (1.0, 2.0, 0.5, 1.5, 4.0, 2.5)
    assert classifier.network == read_card(HERE / "model_v2").network
    assert regressor.network == read_card(HERE / "model_v2_regressor").network


def test_what_a_card_says_of_flattened_observations() -> None:
    predictor = Predictor.load(HERE / "model_v3_space")
    assert str(predictor.observation_space) == (
        "Dict('at': Discrete(3, start=-1), 'seen': Box([2], float32), 7: Tuple(MultiDiscrete([2, 3], start=[0, 1])))"
    )
    inputs, readout = golden("model_v3_space")
    raw = {
        "at": np.argmax(inputs[0, :3]) - 1,
        "seen": inputs[0, 3:5],
        7: ([inputs[0, 6], 1 + inputs[0, 7:] @ range(3)],),
    }
    np.testing.assert_array_equal(predictor.prepare(raw), inputs[:1])
    assert predictor.act(raw)[0].tolist() == [readout[0].argmax() - 2]
    assert read_card(HERE / "model_v3_policy").observation_space is None


def test_a_head_of_an_older_version_does_not_duel() -> None:
    for version in ("v1", "v2"):
        head = read_card(HERE / f"model_{version}_policy").network.head
        assert head == ScalarHeadSpec(num_actions=3, huber_delta=None)
        assert (head.dueling, head.hidden) == (False, ())


def test_a_golden_model_is_an_ordinary_module() -> None:
    network = load(HERE / "model_v1")
    assert not network.training
    # two convolutions with their norms, the dense layer with its norm, the head
    expected = (40 + 8) + (102 + 12) + (56 + 16) + 36
    assert sum(parameter.numel() for parameter in network.parameters()) == expected
