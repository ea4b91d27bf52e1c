"""Registration of a user's own torsos and heads: what is refused, and what registered ones may do."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torso.errors import ModelDamagedError, SpecError
from torso.nets import (
    InputSpec,
    LabelHead,
    LogitsHeadSpec,
    MLPSpec,
    NetworkSpec,
    Prediction,
    Predictor,
    ScalarHeadSpec,
    TargetHead,
    build_network,
    load_model,
    register_head,
    register_torso,
    save_model,
)
from torso.nets.specs.registry import TORSOS

pytestmark = pytest.mark.usefixtures("registries")

VECTOR = InputSpec(shape=(4,))


@dataclass(frozen=True)
class PlainSpec:
    width: int = 3
    shape: tuple[int, ...] = ()
    what: Any = None


class Plain(nn.Module):
    def __init__(self, spec: PlainSpec, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.num_features = input_shape[0]

    def forward(self, x: Tensor, state: Any, generator: Any) -> tuple[Tensor, Any]:
        return x, state


def no_dataclass() -> type:
    return type("NoDataclass", (), {})


def with_kind() -> type:
    return dataclasses.make_dataclass("WithKind", [("kind", str)], frozen=True)


@pytest.mark.parametrize(
    ("name", "spec_class", "message"),
    [
        ("mlp", PlainSpec, r"torso 'mlp' \(PlainSpec\) clashes with 'mlp' \(MLPSpec\).*choose another name"),
        ("plain", MLPSpec, r"torso 'plain' \(MLPSpec\) clashes with 'mlp'"),
        ("plain", no_dataclass(), "a torso spec must be a dataclass of plain values, got"),
        ("plain", PlainSpec(), "a torso spec must be a dataclass of plain values, got"),
        ("plain", with_kind(), "WithKind cannot have a field 'kind'"),
        ("", PlainSpec, "a torso's name must be text"),
        (3, PlainSpec, "a torso's name must be text, got 3"),
    ],
)
def test_registrations_that_cannot_be(name: Any, spec_class: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        register_torso(name, spec_class, Plain)
    assert "plain" not in TORSOS._by_name


@pytest.mark.parametrize("fields", [["width"], ["num_actions", "num_classes"], ["num_classes", "num_targets"]])
def test_a_heads_specification_says_what_it_is_for(fields: list[str]) -> None:
    spec_class = dataclasses.make_dataclass("HeadSpec", [(name, int) for name in fields], frozen=True)
    with pytest.raises(SpecError, match="must have either num_actions, num_classes or num_targets"):
        register_head("plain", spec_class, lambda _spec, _features: nn.Identity())


def test_registering_again_replaces(tmp_path: Path) -> None:
    """A notebook's cell that runs again defines its class anew."""

    def cell(width: int) -> type:
        @dataclass(frozen=True)
        class CellSpec:
            size: int = width

        register_torso("cell", CellSpec, Plain)
        return CellSpec

    first, second = cell(1), cell(2)
    spec = NetworkSpec(input=VECTOR, torso=second(), head=ScalarHeadSpec(num_actions=2))
    save_model(tmp_path, build_network(spec), kind="policy", onnx=False)
    assert load_model(tmp_path)[0].network.torso == second(2)
    with pytest.raises(SpecError, match=r"a torso spec must be of a registered class \(.*\), got .*CellSpec"):
        NetworkSpec(input=VECTOR, torso=first(), head=ScalarHeadSpec(num_actions=2))


@pytest.mark.parametrize("value", [np.zeros(3), object(), {1, 2}, float("nan"), {3: 4}, Path("x"), "\ud800"])
def test_a_specification_that_json_cannot_hold_is_refused_before_training(value: object) -> None:
    register_torso("plain", PlainSpec, Plain)
    with pytest.raises(SpecError, match=r"torso 'plain'\.what must"):
        NetworkSpec(input=VECTOR, torso=PlainSpec(what=value), head=ScalarHeadSpec(num_actions=2))


def test_a_specifications_tuples_come_back_as_tuples() -> None:
    register_torso("plain", PlainSpec, Plain)
    torso = PlainSpec(shape=(3, 4), what=((1, 2), ("a", None), True))
    spec = NetworkSpec(input=VECTOR, torso=torso, head=LogitsHeadSpec(num_classes=2))
    assert NetworkSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_a_torso_without_a_width_is_refused() -> None:
    register_torso("plain", PlainSpec, lambda _spec, _shape: nn.Identity())
    spec = NetworkSpec(input=VECTOR, torso=PlainSpec(), head=ScalarHeadSpec(num_actions=2))
    with pytest.raises(SpecError, match="the torso Identity must have an int attribute num_features"):
        build_network(spec)


def test_a_head_that_is_none_is_refused() -> None:
    spec_class = dataclasses.make_dataclass("HeadSpec", [("num_actions", int)], frozen=True)
    register_head("plain", spec_class, lambda _spec, _features: nn.Identity())
    spec = NetworkSpec(input=VECTOR, torso=MLPSpec(), head=spec_class(2))
    with pytest.raises(SpecError, match="the head Identity must be a ValueHead, a LabelHead or a TargetHead"):
        build_network(spec)


@dataclass(frozen=True, kw_only=True)
class MarginSpec:
    """Specification of a perceptron with a margin, a user's own head; it has no probabilities either."""

    margin: float = 1.0
    probabilistic: ClassVar[bool] = False

    @property
    def num_classes(self) -> int:
        return 2


class MarginHead(LabelHead):
    def __init__(self, spec: MarginSpec, num_features: int) -> None:
        super().__init__()
        self.linear, self.margin = nn.Linear(num_features, 2), spec.margin

    def predict(self, features: Tensor, generator: Any) -> Prediction:
        return Prediction(self.linear(features))

    def readout(self, prediction: Prediction) -> Tensor:
        return prediction.output

    def loss(self, prediction: Prediction, labels: Tensor) -> Tensor:
        return nn.functional.multi_margin_loss(prediction.output, labels, margin=self.margin, reduction="none")


@dataclass(frozen=True, kw_only=True)
class MedianSpec:
    num_targets: int


class MedianHead(TargetHead):
    def __init__(self, spec: MedianSpec, num_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_features, spec.num_targets)

    def predict(self, features: Tensor, generator: Any) -> Prediction:
        return Prediction(self.linear(features))

    def readout(self, prediction: Prediction) -> Tensor:
        return prediction.output

    def loss(self, prediction: Prediction, targets: Tensor) -> Tensor:
        return (prediction.output - targets).abs().sum(dim=1)


def test_a_head_of_ones_own_may_label_without_probabilities(tmp_path: Path) -> None:
    register_head("margin", MarginSpec, MarginHead)
    spec = NetworkSpec(input=VECTOR, torso=MLPSpec(hidden=(3,)), head=MarginSpec(margin=0.5))
    assert (spec.kind, spec.num_outputs) == ("classifier", 2)
    save_model(tmp_path, build_network(spec), kind="classifier", labels=("no", "yes"), onnx=False)
    predictor = Predictor.load(tmp_path)
    assert not predictor.probabilistic
    assert set(predictor.classify(np.eye(4), top_k=2).probabilities.ravel().tolist()) == {0.0, 1.0}


def test_a_head_of_ones_own_may_estimate_numbers(tmp_path: Path) -> None:
    register_head("median", MedianSpec, MedianHead)
    spec = NetworkSpec(input=VECTOR, torso=MLPSpec(hidden=(3,)), head=MedianSpec(num_targets=2))
    network = build_network(spec)
    assert network.head.loss(Prediction(torch.zeros(1, 2)), torch.tensor([[1.0, -2.0]])).tolist() == [3.0]
    save_model(tmp_path, network, kind="regressor", onnx=False)
    assert Predictor.load(tmp_path).regress(np.eye(4)).shape == (4, 2)


class Counting(Plain):
    """Torso that reads values while it is built, which the meta device does not have."""

    def __init__(self, spec: PlainSpec, input_shape: tuple[int, ...]) -> None:
        super().__init__(spec, input_shape)
        self.register_buffer("offset", torch.full((spec.width,), float(torch.arange(4.0).sum()) / 6))
        self.register_buffer("table", torch.arange(4.0), persistent=False)

    def forward(self, x: Tensor, state: Any, generator: Any) -> tuple[Tensor, Any]:
        return x * self.table + self.offset.sum(), state


def test_a_torso_with_buffers_and_numbers_of_its_own_loads(tmp_path: Path) -> None:
    register_torso("plain", PlainSpec, Counting)
    spec = NetworkSpec(input=VECTOR, torso=PlainSpec(), head=ScalarHeadSpec(num_actions=2))
    network = build_network(spec, torch.Generator().manual_seed(0)).eval()
    save_model(tmp_path, network, kind="policy", onnx=False)
    obs = torch.randn(5, 4)
    assert torch.equal(load_model(tmp_path)[1].readout(obs), network.readout(obs))
    card = json.loads((tmp_path / "model.json").read_text())
    card["network"]["torso"]["width"] = 4
    (tmp_path / "model.json").write_text(json.dumps(card))
    with pytest.raises(ModelDamagedError, match=r"does not fit model\.json: torso\.offset must be"):
        load_model(tmp_path)


def test_tied_weights_are_saved_once_each_and_loaded(tmp_path: Path) -> None:
    class Tied(Plain):
        def __init__(self, spec: PlainSpec, input_shape: tuple[int, ...]) -> None:
            super().__init__(spec, input_shape)
            self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
            self.other.weight = self.one.weight

        def forward(self, x: Tensor, state: Any, generator: Any) -> tuple[Tensor, Any]:
            return self.other(self.one(x)), state

    register_torso("plain", PlainSpec, Tied)
    spec = NetworkSpec(input=VECTOR, torso=PlainSpec(), head=ScalarHeadSpec(num_actions=2))
    network = build_network(spec, torch.Generator().manual_seed(0)).eval()
    save_model(tmp_path, network, kind="policy", onnx=False)
    loaded = load_model(tmp_path)[1]
    assert loaded.torso.one.weight is loaded.torso.other.weight
    obs = torch.randn(5, 4)
    assert torch.equal(loaded.readout(obs), network.readout(obs))
