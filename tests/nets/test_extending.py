"""Registration of a user's own torsos and heads: validation, and every step of ``docs/extending.md``, really run."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from torso.agents import DQN, Classifier, DQNConfig
from torso.errors import ConfigError, ModelDamagedError, SpecError
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

DOCUMENT = Path(__file__).parents[2] / "docs" / "extending.md"
CODE = re.findall(r"```python\n# (\S+\.py)\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
OUTPUTS = re.findall(r"```text\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
VECTOR = InputSpec(shape=(4,))


# -- the documented example --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the document's files, unchanged but for a free port."""
    folder = tmp_path_factory.mktemp("extending")
    assert [name for name, _ in CODE] == ["residual.py", "build.py", "train.py", "agent.py", "serving.py", "dueling.py"]
    for name, code in CODE:
        (folder / name).write_text(code.replace("port=8500", "port=0, port_file=pathlib.Path('port')"))
    serving = folder / "serving.py"
    serving.write_text("import pathlib\n" + serving.read_text())
    (folder / "output").write_text(run(folder, "build.py"))
    return folder


def run(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def imported(folder: Path, name: str) -> Iterator[Any]:
    """Import a module of the document as a user's script would."""
    sys.path.insert(0, str(folder))
    try:
        yield __import__(name)
    finally:
        sys.path.remove(str(folder))
        del sys.modules[name]


def test_the_documented_torso_is_built_saved_and_asked(folder: Path) -> None:
    assert [(folder / "output").read_text()] == OUTPUTS
    card = json.loads((folder / "cartpole-residual" / "model.json").read_text())
    assert card["network"]["torso"] == {"kind": "residual", "width": 32, "depth": 2}


def test_an_agent_and_a_classifier_learn_with_the_documented_torso(folder: Path) -> None:
    assert run(folder, "agent.py") == "True\n"
    card = json.loads((folder / "cartpole-agent" / "model.json").read_text())
    assert card["network"]["torso"] == {"kind": "residual", "width": 64, "depth": 2}


def test_the_documented_commands_learn_with_the_documented_torso(folder: Path) -> None:
    torso = ("-m", "torso.cli")
    quick = ("--evaluation-episodes", "1", "--steps", "600", "--min-replay-size", "100")
    train = ("train", "dqn", "--import", "residual", "--env", "CartPole-v1", "--net", "residual", *quick)
    run(folder, *torso, *train, "--out", "runs/cartpole")
    fit = ("fit", "--import=residual", "--dataset", "iris", "--net", "residual", "--max-epochs", "2")
    run(folder, *torso, *fit, "--out", "runs/iris")
    shown = run(folder, *torso, "evaluate", "runs/cartpole", "--episodes", "1", "--json", "--import", "residual")
    assert json.loads(shown)["episodes"] == 1
    refused = subprocess.run(
        [sys.executable, *torso, "train", "dqn", "--env", "CartPole-v1", "--net", "residual"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert refused.returncode == 2
    assert "unknown net 'residual'" in refused.stderr
    assert "--import MODULE" in refused.stderr


def test_a_registered_torso_takes_the_settings_that_it_has_fields_for() -> None:
    register_torso("sum-of-a-test", SumSpec, SumTorso)
    with pytest.raises(ConfigError, match=r"hidden must be left out for net 'sum-of-a-test'.*got \(7,\)"):
        DQN("CartPole-v1", net="sum-of-a-test", hidden=(7,))
    with pytest.raises(ConfigError, match="net 'sum-of-a-test' has no setting dropout; leave it out"):
        Classifier(net="sum-of-a-test", dropout=0.5).fit([[0.0, 1.0], [1.0, 0.0]] * 10, [0, 1] * 10)
    config = DQNConfig(hidden=(32, 32), min_replay_size=20, evaluation_episodes=1)
    agent = DQN("CartPole-v1", config=config, net="sum-of-a-test", activation="tanh")
    assert agent.learn(60).predict([0.0, 0.0, 0.0, 0.0]) in (0, 1)
    assert agent._training.session.learner.online.spec.torso == SumSpec(activation="tanh")


@dataclass(frozen=True, kw_only=True)
class SumSpec:
    activation: str = "relu"


class SumTorso(nn.Module):
    """The inputs, and their sum."""

    def __init__(self, spec: SumSpec, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.num_features = input_shape[0] + 1

    def forward(self, inputs: Tensor, state: Any, generator: torch.Generator | None) -> Any:
        return torch.cat([inputs, inputs.sum(dim=1, keepdim=True)], dim=1), state


def test_the_documented_torso_is_itself_in_onnx(folder: Path) -> None:
    with imported(folder, "residual") as module:
        predictor = Predictor.load(folder / "cartpole-residual")
        assert predictor.card.network.torso == module.ResidualSpec(width=32)
    obs = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    session = onnxruntime.InferenceSession(
        folder / "cartpole-residual" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    for rows in (1, 64):
        np.testing.assert_allclose(
            session.run(None, {"obs": obs[:rows]})[0], predictor.run(obs[:rows]), rtol=1e-4, atol=1e-5
        )


def test_the_documented_torso_trains(folder: Path) -> None:
    run(folder, "train.py")
    obs = np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32)
    with imported(folder, "residual"):
        actions, _ = Predictor.load(folder / "cartpole-residual").act(obs)
    assert ((obs[:, 2] + obs[:, 3] > 0) == actions).mean() > 0.95


def test_the_documented_torso_is_served(folder: Path) -> None:
    from torso.serve import Client

    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([sys.executable, "serving.py"], cwd=folder, stdout=log, stderr=log)
    try:
        port = folder / "port"
        until = time.monotonic() + 120
        while not port.exists() and server.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        assert port.exists(), (folder / "log").read_text()
        obs = np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32)
        with Client(f"127.0.0.1:{port.read_text().strip()}") as client:
            served = client.act("cartpole-residual", obs)
        with imported(folder, "residual"):
            local, _ = Predictor.load(folder / "cartpole-residual").act(obs)
        assert np.array_equal(served.actions, local)
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0, (folder / "log").read_text()
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()


def test_a_model_of_an_unregistered_torso_says_so(folder: Path) -> None:
    code = "from torso.nets import load; load('cartpole-residual')"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "ModelDamagedError" in done.stderr
    assert "a torso's kind must be one of " in done.stderr
    assert "; got 'residual' (" in done.stderr
    assert "register others before loading" in done.stderr


def test_the_documented_head_goes_the_whole_way(folder: Path, tmp_path: Path) -> None:
    with imported(folder, "dueling") as module:
        spec = NetworkSpec(input=VECTOR, torso=MLPSpec(hidden=(8,)), head=module.DuelingSpec(num_actions=3))
        network = build_network(spec, torch.Generator().manual_seed(0))
        save_model(tmp_path, network, kind="policy")
        card, loaded = load_model(tmp_path)
    assert card.network == spec
    assert spec.num_outputs == 3
    obs = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
    readout = loaded.readout(obs).detach().numpy()
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"obs": obs.numpy()})[0], readout, rtol=1e-4, atol=1e-5)
    value = loaded.head.value(loaded.torso(obs, (), None)[0]).detach().numpy()
    np.testing.assert_allclose(readout.mean(axis=1, keepdims=True), value, rtol=1e-5, atol=1e-6)
    assert torch.equal(loaded.mixed(obs)[0].output, loaded(obs)[0].output)  # nothing in it is large
    loss, priority = loaded.head.loss(Prediction(torch.zeros(2, 3)), torch.tensor([0, 2]), torch.tensor([0.5, -3.0]))
    assert loss.tolist() == [0.125, 2.5]
    assert priority.tolist() == [0.5, 3.0]


# -- what the registry refuses -----------------------------------------------------------------------------------------


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
    with pytest.raises(ModelDamagedError, match=r"does not fit the network in model\.json"):
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
