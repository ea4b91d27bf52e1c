"""CUDA backend: padding and errors on any machine, graphs where there is a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recurrent_torso import save_recurrent, unrolled

from torso.errors import ServerError
from torso.nets import Predictor, TorchBackend, load_model
from torso.serve.backends.cuda_backend import CudaBackend
from torso.serve.backends.padding import PaddedForwards, batch_sizes
from torso.serve.backends.selection import choose_backend, equal_readouts, probe_batch

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Sums:
    """A forward of a fixed size: each row's sum, and which rows it was shown."""

    def __init__(self, size: int, made: list[Sums]) -> None:
        made.append(self)
        self.arrays = [np.full((size, 3), 7.0, dtype=np.float32)]
        self.ran: list[list[float]] = []
        self._answer = np.empty((size, 1), dtype=np.float32)

    def run(self) -> tuple[np.ndarray]:
        [inputs] = self.arrays
        self.ran.append(inputs[:, 0].tolist())
        self._answer[:] = inputs.sum(axis=1, keepdims=True)
        return (self._answer,)


@pytest.mark.parametrize(
    ("max_rows", "sizes"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (48, [1, 2, 4, 8, 16, 32, 48])]
)
def test_batch_sizes_are_powers_of_two_and_the_largest(max_rows: int, sizes: list[int]) -> None:
    assert batch_sizes(max_rows) == sizes


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 13])
def test_any_number_of_rows_is_padded_up_or_goes_in_pieces(rows: int) -> None:
    made: list[Sums] = []
    forwards = PaddedForwards(lambda size: Sums(size, made), 6)
    assert [len(forward.arrays[0]) for forward in made] == [6, 4, 2, 1]
    inputs = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    assert np.array_equal(forwards.run(inputs)[0], inputs.sum(axis=1, keepdims=True))
    sizes = {1: [1], 2: [2], 3: [4], 4: [4], 5: [6], 6: [6], 7: [6, 1], 13: [6, 6, 1]}
    assert [len(ran) for forward in made for ran in forward.ran] == sizes[rows]


def test_padding_is_zeros_whatever_came_before_and_answers_stay_as_they_are() -> None:
    forward = Sums(4, [])
    forwards = PaddedForwards(lambda size: forward if size == 4 else Sums(size, []), 4)
    (first,) = forwards.run(np.full((4, 3), 5, dtype=np.float32))
    forwards.run(np.full((3, 3), 2, dtype=np.float32))
    assert forward.ran == [[5, 5, 5, 5], [2, 2, 2, 0]]
    assert first.tolist() == [[15]] * 4


class Counts:
    """A forward of a fixed size with a state: the state is the readout, and the next is the state and the inputs."""

    def __init__(self, size: int) -> None:
        self.arrays = [np.zeros((size, 2), dtype=np.float32), np.zeros((size, 2), dtype=np.float32)]
        self._outputs = np.empty((size, 2), np.float32), np.empty((size, 2), np.float32)

    def run(self) -> tuple[np.ndarray, np.ndarray]:
        inputs, state = self.arrays
        self._outputs[0][:] = state
        self._outputs[1][:] = state + inputs
        return self._outputs


@pytest.mark.parametrize("rows", [1, 3, 4, 9])
def test_a_state_is_padded_and_cut_with_its_rows(rows: int) -> None:
    forwards = PaddedForwards(Counts, 4)
    inputs, state = (np.random.default_rng(0).normal(size=(2, rows, 2)) * 8).astype(np.float32)
    readout, next_state = forwards.run(inputs, state)
    assert np.array_equal(readout, state)
    forwards.run(inputs * 2, state * 2)
    assert np.array_equal(next_state, state + inputs)  # not the forward's own array
    with pytest.raises(ValueError, match="zip"):
        forwards.run(inputs)


@needs_cuda
def test_graphs_carry_a_state(tmp_path: Path) -> None:
    directory = save_recurrent(tmp_path / "memory", onnx=False)
    card, network = load_model(directory)
    backend = choose_backend(directory, card, network, "cuda", max_rows=4)
    obs = np.random.default_rng(0).normal(size=(3, 9, 4)).astype(np.float32)
    state: Any = Predictor(card, backend).prepare_state((), 9)
    for step, values, states in zip(obs, *unrolled(directory, obs), strict=True):
        readout, *state = backend.run(step, *state)
        assert equal_readouts(readout, values)
        for part, own in zip(state, states, strict=True):
            np.testing.assert_allclose(part, own, rtol=1e-4, atol=1e-5)


def test_without_a_device_it_is_refused(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    card, network = load_model(models.cartpole)
    with pytest.raises(
        ServerError, match="backend cuda must have a CUDA device and a torch that can use it, found none"
    ):
        choose_backend(models.cartpole, card, network, "cuda")


@needs_cuda
@pytest.mark.parametrize("name", ["digits", "cartpole", "frames", "plain"])
def test_graphs_give_torchs_answers(models: Any, name: str) -> None:
    directory: Path = getattr(models, name)
    card, network = load_model(directory)
    backend = choose_backend(directory, card, network, "cuda", max_rows=24)
    assert backend.name == "cuda"
    reference = TorchBackend(load_model(directory)[1])
    for rows in (*range(1, 26), 100):
        probe = probe_batch(card.network.input, rows)
        answers = backend.run(probe)[0]
        assert equal_readouts(answers, reference.run(probe)[0])
        assert np.array_equal(backend.run(probe)[0], answers)  # same backend and same batch: the same bits


@needs_cuda
def test_the_network_that_was_given_stays_where_it_is(models: Any) -> None:
    _, network = load_model(models.frames)
    CudaBackend(network, max_rows=2)
    assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}


@needs_cuda
def test_a_model_serves_while_another_is_captured(models: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    card, network = load_model(models.frames)
    serving = CudaBackend(network, max_rows=16)
    probe = probe_batch(card.network.input, 16)
    wanted = serving.run(probe)[0]
    with ThreadPoolExecutor(2) as threads:
        captures = [threads.submit(CudaBackend, load_model(models.frames)[1], max_rows=16) for _ in range(4)]
        while not all(capture.done() for capture in captures):
            assert np.array_equal(serving.run(probe)[0], wanted)
        for capture in captures:
            assert np.array_equal(capture.result().run(probe)[0], wanted)
