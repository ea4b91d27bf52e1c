from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recurrent_torso import save_recurrent, unrolled
from torch import Tensor, nn

from torso.errors import ModelDamagedError, ModelError
from torso.nets import (
    InputSpec,
    LogitsHeadSpec,
    MLPSpec,
    NetworkSpec,
    Predictor,
    ScalarHeadSpec,
    TorchBackend,
    build_network,
    load_model,
    register_torso,
    save_model,
)
from torso.nets.specs.calibration import TemperatureScaling
from torso.nets.specs.registry import TORSOS
from torso.serve.backends import selection
from torso.serve.backends.onnx_backend import IO_BINDING_ROWS, OnnxBackend, OnnxClassifier
from torso.serve.backends.selection import ATOL, RTOL, choose_backend, equal_readouts, probe_batch


def choose(directory: Path, choice: str = "auto", cache_dir: Path | None = None) -> str:
    card, network = load_model(directory)
    return choose_backend(directory, card, network, choice, cache_dir=cache_dir).name


@pytest.mark.parametrize("name", ["digits", "cartpole", "frames"])
@pytest.mark.parametrize("rows", [1, 64])
def test_onnx_runtime_gives_torchs_answers(models: Any, name: str, rows: int) -> None:
    directory: Path = getattr(models, name)
    card, network = load_model(directory)
    backend = choose_backend(directory, card, network)
    assert backend.name == "onnx"
    probe = probe_batch(card.network.input, rows)
    answers = backend.run(probe)[0]
    assert answers.dtype == np.float32
    assert equal_readouts(answers, TorchBackend(network).run(probe)[0])


def test_torch_is_taken_where_it_is_asked_for(models: Any) -> None:
    assert choose(models.digits, "torch") == "torch"


@pytest.mark.parametrize("damage", [lambda data: None, lambda data: b"x" + data[1:]])
def test_without_a_whole_model_onnx_one_is_exported_beside_the_model(
    models: Any, tmp_path: Path, damage: Callable[[bytes], bytes | None]
) -> None:
    directory = Path(shutil.copytree(models.digits, tmp_path / "model"))
    path = directory / "model.onnx"
    data = damage(path.read_bytes())
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)
    before = {file.name: file.read_bytes() for file in directory.iterdir()}
    assert choose(directory, cache_dir=tmp_path / "cache") == "onnx"
    assert choose(directory, "onnx", tmp_path / "cache") == "onnx"
    [cached] = (tmp_path / "cache").iterdir()
    assert cached.read_bytes() == (models.digits / "model.onnx").read_bytes()
    assert {file.name: file.read_bytes() for file in directory.iterdir()} == before


@dataclass(frozen=True)
class BesselSpec:
    """Features that torch can compute and ONNX cannot."""

    size: int


class Bessel(nn.Module):
    def __init__(self, spec: BesselSpec, _input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.num_features = spec.size

    def forward(self, x: Tensor, state: Any, _generator: Any) -> tuple[Tensor, Any]:
        return torch.special.bessel_j0(x), state


@pytest.fixture
def inexpressible(tmp_path: Path) -> Iterator[Path]:
    """A model directory of a network that ONNX cannot express."""
    kept = dict(TORSOS._by_name)
    register_torso("bessel", BesselSpec, Bessel)
    spec = NetworkSpec(input=InputSpec(shape=(4,)), torso=BesselSpec(4), head=ScalarHeadSpec(num_actions=2))
    yield save_model(tmp_path / "bessel", build_network(spec), kind="policy", onnx=False)
    TORSOS._by_name = kept


def test_torch_serves_what_onnx_cannot_express_and_the_log_says_so(
    inexpressible: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert choose(inexpressible, cache_dir=tmp_path / "cache") == "torch"
    assert "torch serves, at less speed: cannot export" in caplog.text
    with pytest.raises(ModelError, match=r"cannot export .* to ONNX"):
        choose(inexpressible, "onnx", tmp_path / "cache")


def test_a_model_onnx_of_other_answers_is_not_served(models: Any, caplog: pytest.LogCaptureFixture) -> None:
    card, network = load_model(models.digits)
    with torch.no_grad():
        network.head.linear.bias[3] += 0.01  # as an exporter that makes a mistake would
    with caplog.at_level(logging.WARNING):
        assert choose_backend(models.digits, card, network).name == "torch"
    assert "model.onnx does not give torch's answers on a probe batch of 1" in caplog.text
    with pytest.raises(ModelDamagedError, match="does not give torch's answers"):
        choose_backend(models.digits, card, network, "onnx")


def test_a_damaged_model_onnx_is_a_named_error() -> None:
    with pytest.raises(ModelDamagedError, match=r"digits' model\.onnx cannot be loaded by ONNX Runtime"):
        OnnxBackend(b"\x08\x07 no graph in here", source="digits' model.onnx")


def classifier(directory: Path, weight: float = 1.0, *, temperature: float | None = None) -> Path:
    """A model directory of three classes, whose log-odds are the input's three numbers times ``weight``."""
    spec = NetworkSpec(input=InputSpec(shape=(3,)), torso=MLPSpec(hidden=()), head=LogitsHeadSpec(num_classes=3))
    network = build_network(spec)
    with torch.no_grad():
        network.head.linear.weight.copy_(weight * torch.eye(3))
        network.head.linear.bias.zero_()
    calibration = None if temperature is None else TemperatureScaling(num_classes=3, temperature=temperature)
    return save_model(directory, network, kind="classifier", labels=("a", "b", "c"), calibration=calibration)


def predictors(directory: Path) -> tuple[Predictor, Predictor]:
    """A model as it is served, and as torch computes it."""
    card, network = load_model(directory)
    return Predictor(card, choose_backend(directory, card, network, "onnx")), Predictor(card, TorchBackend(network))


@pytest.mark.parametrize("rows", [1, 3, IO_BINDING_ROWS, IO_BINDING_ROWS + 1, 64])
def test_onnx_runtime_computes_the_probabilities_too(tmp_path: Path, rows: int) -> None:
    served, reference = predictors(classifier(tmp_path / "m"))
    assert isinstance(served.backend, OnnxClassifier)
    inputs = (10 * probe_batch(served.input, rows)).astype(np.float32)
    np.testing.assert_allclose(served.answer(inputs), reference.answer(inputs), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(served.run(inputs), reference.run(inputs), rtol=1e-5)
    assert served.answer(inputs).dtype == np.float32


def test_infinite_log_odds_are_read_as_torch_ones_are(tmp_path: Path) -> None:
    served, reference = predictors(classifier(tmp_path / "m", weight=1e38))
    inputs = np.float32([[100, 1, 1], [-100, -100, 1], [100, 100, 0], [-100, -100, -100]])
    assert np.isinf(served.run(inputs)).any()
    np.testing.assert_allclose(served.answer(inputs), reference.answer(inputs), rtol=1e-5)


def test_a_calibrated_models_probabilities_are_the_calibrations(tmp_path: Path) -> None:
    served, reference = predictors(classifier(tmp_path / "m", temperature=3.0))
    assert not isinstance(served.backend, OnnxClassifier)
    inputs = probe_batch(served.input, 5)
    np.testing.assert_allclose(served.answer(inputs), reference.answer(inputs), rtol=1e-5)
    plain, _ = predictors(classifier(tmp_path / "plain"))
    np.testing.assert_allclose(served.run(inputs), plain.run(inputs), rtol=1e-5)  # nor is it applied twice
    assert np.abs(served.answer(inputs) - plain.answer(inputs)).max() > 0.1


def test_answers_are_their_callers_own_from_any_thread(tmp_path: Path) -> None:
    served, _ = predictors(classifier(tmp_path / "m"))
    inputs = probe_batch(served.input, 64)
    expected = served.run(inputs)

    def ask(start: int) -> bool:
        kept = [(row, served.run(inputs[row : row + 1])) for row in range(start, 64)]
        return all(np.allclose(answer[0], expected[row], rtol=1e-5) for row, answer in kept)

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(ask, range(16)))


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "float64"])
def test_inputs_of_every_kind_reach_onnx_runtime_whole(tmp_path: Path, dtype: str) -> None:
    spec = NetworkSpec(
        input=InputSpec(shape=(2, 3), dtype=dtype), torso=MLPSpec(hidden=(8,)), head=ScalarHeadSpec(num_actions=2)
    )
    served, reference = predictors(save_model(tmp_path / "m", build_network(spec), kind="policy"))
    inputs = probe_batch(served.input, 4)
    for rows in (inputs[:1], inputs[1:2], inputs):
        assert equal_readouts(served.run(rows), reference.run(rows))


@pytest.mark.parametrize("rows", [1, IO_BINDING_ROWS, IO_BINDING_ROWS + 1, 64])
def test_onnx_runtime_carries_a_recurrent_state(tmp_path: Path, rows: int) -> None:
    directory = save_recurrent(tmp_path / "m")
    card, network = load_model(directory)
    backend = choose_backend(directory, card, network, "onnx")
    obs = np.random.default_rng(0).normal(size=(3, rows, 4)).astype(np.float32)
    state: Any = Predictor(card, backend).prepare_state((), rows)
    kept = []
    for step, values, states in zip(obs, *unrolled(directory, obs), strict=True):
        readout, *state = backend.run(step, *state)
        kept.append((readout, state, values, states))
    for readout, state, values, states in kept:  # also after later calls
        assert equal_readouts(readout, values)
        for part, own in zip(state, states, strict=True):
            np.testing.assert_allclose(part, own, rtol=RTOL, atol=ATOL)
    with pytest.raises(ValueError, match="zip"):
        backend.run(obs[0])


def test_a_graph_of_another_state_is_refused(tmp_path: Path, models: Any) -> None:
    directory = save_recurrent(tmp_path / "m")
    with pytest.raises(ModelDamagedError, match="must have the inputs obs, got obs, state_0, state_1, state_2; export"):
        OnnxBackend(directory / "model.onnx")
    with pytest.raises(ModelDamagedError, match="must have the inputs obs, state_0, got obs; export it anew"):
        OnnxBackend(models.cartpole / "model.onnx", initial_state=(np.zeros((1, 2), np.float32),))


class Forgetful:
    """A backend of a recurrent model that gives the state back as it was."""

    name = "forgetful"

    def __init__(self, backend: OnnxBackend) -> None:
        self.backend, self.initial_state = backend, backend.initial_state

    def run(self, inputs: np.ndarray, *state: np.ndarray) -> Any:
        return self.backend.run(inputs, *state)[0], *state


def test_a_backend_must_give_torchs_next_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = save_recurrent(tmp_path / "m")
    card, network = load_model(directory)
    make = selection._onnx_backend
    monkeypatch.setattr(selection, "_onnx_backend", lambda *arguments: Forgetful(make(*arguments)))
    with pytest.raises(ModelDamagedError, match="does not give torch's answers on a probe batch of 1"):
        choose_backend(directory, card, network, "onnx")


def test_what_equal_means() -> None:
    reference = np.array([[1.0, 2.0, 3.0], [1.0, 1.0, 0.5]], dtype=np.float32)
    assert equal_readouts(reference, reference)
    assert equal_readouts(reference * np.float32(1 + 5e-5), reference)
    assert not equal_readouts(reference * np.float32(1 + 5e-4), reference)
    assert not equal_readouts(reference[:1], reference)
    tie = reference + np.float32([[0, 0, 0], [0, 5e-6, 0]])  # another best, but within the tolerance
    assert equal_readouts(tie, reference)
    assert equal_readouts(np.float32([[1.0]]), np.float32([[1.0]]))
    assert not equal_readouts(np.float32([[np.nan, 1.0]]), np.float32([[1.0, 0.0]]))


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "int64", "float16", "float32", "float64"])
def test_a_probe_is_varied_and_the_same_every_time(dtype: str) -> None:
    spec = InputSpec(shape=(50,), dtype=dtype)
    probe = probe_batch(spec, 4)
    assert probe.shape == (4, 50)
    assert probe.dtype == np.dtype(dtype)
    assert len(np.unique(probe)) > 1
    assert np.array_equal(probe, probe_batch(spec, 4))


# -- memory format of images -------------------------------------------------------------------------------------------


def measured(monkeypatch: pytest.MonkeyPatch, answers: dict[int, str]) -> list[int]:
    """Fix what a measurement finds, by rows: this machine's speed is no part of a test. Returns the rows measured."""
    asked: list[int] = []

    def faster_format(runs: Any, rows: int, usual: str, *, budget_s: float) -> str:
        for run in runs.values():
            run(rows)
        asked.append(rows)
        return answers[rows]

    monkeypatch.setattr(selection, "faster_format", faster_format)
    return asked


@pytest.mark.parametrize(
    ("by_rows", "expected"),
    [
        ({24: "channels-last", 1: "channels-last"}, "channels-last"),
        ({24: "channels-last", 1: "contiguous"}, "contiguous"),
        ({24: "contiguous"}, "contiguous"),
    ],
)
def test_torch_serves_images_in_the_faster_format(
    models: Any, monkeypatch: pytest.MonkeyPatch, by_rows: dict[int, str], expected: str
) -> None:
    asked = measured(monkeypatch, by_rows)
    card, network = load_model(models.frames)
    backend = choose_backend(models.frames, card, network, "torch", max_rows=24)
    assert isinstance(backend, TorchBackend)
    assert asked == list(by_rows)
    assert backend.network.memory_format == expected
    assert network.memory_format == "contiguous"
    for rows in (1, 24, 40):
        probe = probe_batch(card.network.input, rows)
        assert equal_readouts(backend.run(probe)[0], TorchBackend(network).run(probe)[0])


def test_the_format_is_measured_where_torch_serves_convolutions(models: Any) -> None:
    card, network = load_model(models.frames)
    backend = choose_backend(models.frames, card, network, "torch", max_rows=4)
    assert backend.name == "torch"
    for name, choice in (("digits", "torch"), ("frames", "onnx")):
        card, network = load_model(getattr(models, name))
        with pytest.MonkeyPatch.context() as patch:
            asked = measured(patch, {})
            choose_backend(getattr(models, name), card, network, choice)
            assert asked == []


@dataclass(frozen=True, kw_only=True)
class StridesSpec:
    """A torso that takes contiguous images for granted: it fails on others, or gives other answers."""

    fails: bool


class Strides(nn.Module):
    def __init__(self, spec: StridesSpec, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.spec, self.conv = spec, nn.Conv2d(input_shape[0], 2, 3)
        self.num_features = 2 * (input_shape[1] - 2) * (input_shape[2] - 2)

    def forward(self, x: Tensor, state: Any, generator: Any) -> tuple[Tensor, Any]:
        x = self.conv(x)
        if self.spec.fails:
            return x.view(len(x), self.num_features), state
        return torch.as_strided(x, (len(x), self.num_features), (self.num_features, 1)), state


@pytest.mark.parametrize(("fails", "reason"), [(True, "view size is not"), (False, "does not give torch's answers")])
def test_a_torso_that_needs_contiguous_images_is_served_with_them(
    registries: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fails: bool,
    reason: str,
) -> None:
    register_torso("strides", StridesSpec, Strides)
    pixels = InputSpec(shape=(2, 6, 6), dtype="uint8", layout="chw", scale=1 / 255)
    spec = NetworkSpec(input=pixels, torso=StridesSpec(fails=fails), head=ScalarHeadSpec(num_actions=2))
    save_model(tmp_path / "m", build_network(spec, torch.Generator()), kind="policy", onnx=False)
    measured(monkeypatch, {4: "channels-last", 1: "channels-last"})
    card, network = load_model(tmp_path / "m")
    with caplog.at_level(logging.INFO):
        backend = choose_backend(tmp_path / "m", card, network, "torch", max_rows=4, probe_rows=4)
    assert isinstance(backend, TorchBackend)
    assert backend.network.memory_format == "contiguous"
    assert "torch computes images as they lie in memory" in caplog.text
    assert reason in caplog.text
