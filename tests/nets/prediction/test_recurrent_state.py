"""Recurrent networks through save, load, ONNX and `Predictor.act`, against the bare network's own unrolled sequence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from torso.errors import InputError, SpecError
from torso.nets import (
    InputSpec,
    LogitsHeadSpec,
    MLPSpec,
    ModelCard,
    Network,
    NetworkSpec,
    Predictor,
    ScalarHeadSpec,
    TorchBackend,
    build_network,
    load_model,
    register_torso,
    save_model,
)

pytestmark = pytest.mark.usefixtures("registries")

Array = np.ndarray[Any, Any]
STEPS, ROWS, WIDTH = 5, 3, 8
OBS = np.random.default_rng(0).normal(size=(STEPS, ROWS, 4)).astype(np.float32)
STATE = (np.zeros((ROWS, WIDTH), np.float32), np.zeros(ROWS, np.int64))


@dataclass(frozen=True, kw_only=True)
class RememberingSpec:
    width: int = WIDTH


class Remembering(nn.Module):
    """A GRU cell whose first state is learned, and a count of the steps."""

    def __init__(self, spec: RememberingSpec, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.cell = nn.GRUCell(input_shape[0], spec.width)
        self.first = nn.Parameter(torch.linspace(-1, 1, spec.width))
        self.num_features = spec.width

    def initial_state(self, batch_size: int) -> tuple[Tensor, ...]:
        return self.first.expand(batch_size, -1), torch.zeros(batch_size, dtype=torch.int64)

    def forward(self, inputs: Tensor, state: Any, generator: Any) -> tuple[Tensor, Any]:
        hidden, steps = state
        hidden = self.cell(inputs, hidden)
        return hidden + 0.1 * steps[:, None], (hidden, steps + 1)


def remembering(head: Any = None) -> Network:
    register_torso("remembering-by-gru", RememberingSpec, Remembering)
    spec = NetworkSpec(
        input=InputSpec(shape=(4,), scale=0.5), torso=RememberingSpec(), head=head or ScalarHeadSpec(num_actions=3)
    )
    return build_network(spec, torch.Generator().manual_seed(0))


def predictor_of(network: Network) -> Predictor:
    card = ModelCard(kind=network.spec.kind, network=network.spec, weights_sha256="")
    return Predictor(card, TorchBackend(network))


def unrolled(network: Network) -> list[tuple[Array, tuple[Array, ...]]]:
    """Return the bare network's values and next state for each of ``OBS``."""
    outputs = []
    state = network.initial_state(ROWS)
    with torch.no_grad():
        for obs in OBS:
            prediction, state = network(torch.from_numpy(obs), state)
            values = network.head.readout(prediction).numpy()
            outputs.append((values, tuple(part.numpy() for part in state)))
    return outputs


def test_acting_is_the_networks_own_sequence(tmp_path: Path) -> None:
    network = remembering()
    expected = unrolled(network)
    predictor = Predictor.load(save_model(tmp_path, network, kind="policy", onnx=False))
    assert predictor.is_recurrent
    state: Any = ()
    for obs, (values, next_state) in zip(OBS, expected, strict=True):
        actions, state = predictor.act(obs, state)
        assert np.array_equal(actions, values.argmax(axis=1))
        assert isinstance(state, tuple)
        for part, own in zip(state, next_state, strict=True):
            assert isinstance(part, np.ndarray)
            np.testing.assert_array_equal(part, own, strict=True)
    assert not np.array_equal(expected[0][0], predictor.run(OBS[1]))
    np.testing.assert_array_equal(predictor.run(OBS[0]), expected[0][0])  # without a state: from the start


def test_rows_of_a_state_are_their_rows_own() -> None:
    predictor = predictor_of(remembering())
    _, state = predictor.act(OBS[0])
    _, whole = predictor.act(OBS[1], state)
    _, some = predictor.act(OBS[1][[2, 0]], [part[[2, 0]] for part in state])
    for part, own in zip(some, whole, strict=True):
        np.testing.assert_allclose(part, own[[2, 0]], rtol=1e-6)


def test_the_exported_graph_takes_and_gives_the_state(tmp_path: Path) -> None:
    network = remembering()
    save_model(tmp_path, network, kind="policy")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["obs", "state_0", "state_1"]
    assert [value.name for value in session.get_outputs()] == ["readout", "next_state_0", "next_state_1"]
    expected = unrolled(network)
    state = [part.detach().numpy() for part in network.initial_state(ROWS)]
    for obs, (values, next_state) in zip(OBS, expected, strict=True):
        readout, *state = session.run(None, {"obs": obs, "state_0": state[0], "state_1": state[1]})
        np.testing.assert_allclose(readout, values, rtol=1e-4, atol=1e-5)
        for part, own in zip(state, next_state, strict=True):
            assert part.dtype == own.dtype
            np.testing.assert_allclose(part, own, rtol=1e-4, atol=1e-5)


def test_a_network_without_a_given_state_begins_an_episode() -> None:
    network = remembering()
    obs = torch.from_numpy(OBS[0])
    expected, state = network(obs, network.initial_state(ROWS))
    prediction, next_state = network(obs)
    assert torch.equal(prediction.output, expected.output)
    assert all(map(torch.equal, next_state, state))
    assert torch.equal(network.readout(obs), network.head.readout(expected))
    mixed, _ = network.mixed(obs)
    torch.testing.assert_close(mixed.output, expected.output, rtol=0.05, atol=0.05)
    assert network.is_recurrent
    spec = NetworkSpec(input=InputSpec(shape=(4,)), torso=MLPSpec(), head=ScalarHeadSpec(num_actions=2))
    assert not build_network(spec).is_recurrent


def test_a_recurrent_classifier_labels_rows_from_the_start(tmp_path: Path) -> None:
    network = remembering(LogitsHeadSpec(num_classes=3))
    save_model(tmp_path, network, kind="classifier", onnx=False)
    card, loaded = load_model(tmp_path)
    probabilities = Predictor(card, TorchBackend(loaded)).answer(OBS[0])
    np.testing.assert_allclose(probabilities, torch.from_numpy(unrolled(network)[0][0]).softmax(1), rtol=1e-5)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (STATE[:1], r"state must be 2 tensors \(float32 \[batch, 8\], int64 \[batch\]\) or none, got 1"),
        ((*STATE, STATE[0]), r"state must be 2 tensors .* got 3"),
        ((STATE[0][:2], STATE[1]), r"state\[0\].shape must be \[3, 8\], a row for each observation, got \[2, 8\]"),
        ((STATE[0][:, :7], STATE[1]), r"state\[0\].shape must be \[3, 8\], .* got \[3, 7\]"),
        ((STATE[0], STATE[1][:, None]), r"state\[1\].shape must be \[3\], .* got \[3, 1\]"),
        ((STATE[0].astype(np.float64), STATE[1]), r"state\[0\].dtype must be float32, got float64"),
        ((STATE[0], STATE[1].astype(np.int32)), r"state\[1\].dtype must be int64, got int32"),
        ((STATE[0] + np.float32(np.nan), STATE[1]), r"state\[0\] must be finite numbers, got NaN or infinity"),
        ((STATE[0] - np.float32(np.inf), STATE[1]), r"state\[0\] must be finite numbers, got NaN or infinity"),
        (([[0.0], [0.0, 1.0]], STATE[1]), r"state\[0\] must be float32 \[batch, 8\], got list that is not an array"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(state: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        predictor_of(remembering()).act(OBS[0], state)


def test_a_state_for_a_feed_forward_model_is_refused() -> None:
    spec = NetworkSpec(input=InputSpec(shape=(4,)), torso=MLPSpec(), head=ScalarHeadSpec(num_actions=2))
    predictor = predictor_of(build_network(spec))
    assert predictor.act(OBS[0])[1] == ()
    with pytest.raises(InputError, match="state must be empty: this model is not recurrent, got 1 tensors"):
        predictor.act(OBS[0], STATE[:1])


@pytest.mark.parametrize(
    ("initial", "message"),
    [
        (lambda rows: torch.zeros(rows, 2), "must return a tuple of tensors, got Tensor"),
        (lambda _rows: (torch.zeros(3, 2),), r"must return tensors \[batch_size, ...\], got \[3, 2\]"),
        (lambda _rows: (0.0,), r"must return tensors \[batch_size, ...\], got float"),
    ],
)
def test_an_initial_state_that_cannot_be_one_is_refused(
    monkeypatch: pytest.MonkeyPatch, initial: Any, message: str
) -> None:
    monkeypatch.setattr(Remembering, "initial_state", lambda _self, rows: initial(rows))
    with pytest.raises(SpecError, match=r"initial_state\(batch_size\) of the torso Remembering " + message):
        remembering()
