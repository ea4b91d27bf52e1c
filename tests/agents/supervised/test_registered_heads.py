"""A registered head that labels or estimates, in the estimators and on the command line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torso.agents import Classifier, ClassifierConfig, Regressor
from torso.cli import main
from torso.errors import ConfigError
from torso.nets import LabelHead, Prediction, TargetHead, losses, read_card, register_head

pytestmark = pytest.mark.usefixtures("registries")


@dataclass(frozen=True, kw_only=True)
class CosineSpec:
    num_classes: int
    scale: float = 10.0


@dataclass(frozen=True, kw_only=True)
class MedianSpec:
    num_targets: int


class CosineHead(LabelHead):
    """Labels by the angle to a direction of each class."""

    def __init__(self, spec: CosineSpec, num_features: int) -> None:
        super().__init__()
        self.scale = spec.scale
        self.directions = nn.Parameter(torch.randn(spec.num_classes, num_features))

    def predict(self, features: Tensor, generator: torch.Generator | None) -> Prediction:
        unit, directions = (nn.functional.normalize(each, dim=1) for each in (features, self.directions))
        return Prediction(self.scale * unit @ directions.T)

    def readout(self, prediction: Prediction) -> Tensor:
        return prediction.output

    def loss(self, prediction: Prediction, labels: Tensor) -> Tensor:
        return losses.cross_entropy(prediction.output, labels)


class MedianHead(TargetHead):
    """Estimates medians: the loss is the absolute error."""

    def __init__(self, spec: MedianSpec, num_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_features, spec.num_targets)

    def predict(self, features: Tensor, generator: torch.Generator | None) -> Prediction:
        return Prediction(self.linear(features))

    def readout(self, prediction: Prediction) -> Tensor:
        return prediction.output

    def loss(self, prediction: Prediction, targets: Tensor) -> Tensor:
        return (prediction.output - targets).abs().sum(dim=1)


@pytest.fixture(autouse=True)
def heads(registries: None) -> None:
    register_head("cosine-of-a-test", CosineSpec, CosineHead)
    register_head("median-of-a-test", MedianSpec, MedianHead)


def test_a_classifier_learns_with_a_head_of_ones_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(300, 2)).astype(np.float32)
    labels = np.where(inputs[:, 0] > 0, "right", "left")
    model = Classifier(head="cosine-of-a-test", hidden=(16,), max_epochs=60, random_state=0).fit(inputs, labels)
    assert model.score(inputs, labels) > 0.97
    model.save(tmp_path)
    assert read_card(tmp_path).network.head == CosineSpec(num_classes=2)
    assert (Classifier.load(tmp_path).predict(inputs) == model.predict(inputs)).all()


def test_a_regressor_learns_with_a_head_of_ones_own() -> None:
    """Of targets that are 0 with two outliers among nine, the median is 0 and the mean far from it."""
    inputs = np.random.default_rng(0).normal(size=(270, 1)).astype(np.float32)
    targets = np.tile([0.0] * 7 + [9.0, 9.0], 30)
    settings: dict[str, Any] = {"net": "linear", "learning_rate": 0.05, "max_epochs": 60, "random_state": 0}
    medians, means = (
        Regressor(head=head, **settings).fit(inputs, targets).predict(inputs) for head in ("median-of-a-test", None)
    )
    assert abs(float(np.mean(medians))) < 0.5
    assert float(np.mean(means)) > 1.5


def test_the_command_line_takes_heads_of_both_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for dataset, head, spec in (("iris", "cosine-of-a-test", CosineSpec), ("diabetes", "median-of-a-test", MedianSpec)):
        out = tmp_path / dataset
        assert main(["fit", "--dataset", dataset, "--head", head, "--max-epochs", "1", "--out", str(out)]) == 0
        assert type(read_card(out / "best").network.head) is spec
        assert json.loads((out / "config.json").read_text())["settings"]["head"] == head
        assert main(["fit", "--resume", "--out", str(out)]) == 0
    capsys.readouterr()
    other = tmp_path / "other"
    assert main(["fit", "--dataset", "iris", "--head", "median-of-a-test", "--out", str(other)]) == 2
    assert "error: head must be one that labels, got 'median-of-a-test'; known are logits" in capsys.readouterr().err
    assert not other.exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"head": "of-nobody"},
            "head must be one that labels, got 'of-nobody'; known are logits, sigmoid",
        ),
        ({"head": "cosine-of-a-test", "loss": "softmax"}, "loss must be 'auto' with a head, which brings its own, got"),
        ({"head": "cosine-of-a-test", "label_smoothing": 0.1}, "label_smoothing must be left out for head"),
        ({"head": "cosine-of-a-test", "net": "logistic"}, "head must be left out for net 'logistic'"),
    ],
)
def test_what_a_head_has_no_use_for_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        ClassifierConfig(**settings)
    assert str(error.value).startswith(message)
