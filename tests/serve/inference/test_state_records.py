"""Records of rows and their state: what goes in comes out, through batches, pieces and failures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torso.errors import InputError, ModelError
from torso.nets import InputSpec, MLPSpec, ModelCard, NetworkSpec, Predictor, ScalarHeadSpec
from torso.serve.inference.forward import Forward
from torso.serve.inference.state_records import StateRecords

Array = np.ndarray[Any, Any]
SPEC = NetworkSpec(
    input=InputSpec(shape=(2, 3), dtype="uint8", layout="hw"),
    torso=MLPSpec(hidden=()),
    head=ScalarHeadSpec(num_actions=2),
)


class Adds:
    """Values are the first state; the next states are the observation's sum and a count. A first byte of 255 fails."""

    name = "adds"
    initial_state = (np.array([[0.5, -0.5]], np.float32), np.array([7], np.int64))

    def __init__(self) -> None:
        self.rows: list[int] = []

    def run(self, inputs: Array, *state: Array) -> Any:
        assert all(array.flags.c_contiguous and array.flags.writeable for array in (inputs, *state))
        assert inputs.dtype == np.uint8
        self.rows.append(len(inputs))
        if (inputs[:, 0, 0] == 255).any():
            raise RuntimeError("255")
        sums = inputs.reshape(len(inputs), -1).sum(axis=1, dtype=np.float32)
        return state[0].copy(), state[0] + sums[:, np.newaxis], state[1] + 1


def records_of(backend: Any) -> StateRecords:
    return StateRecords(Predictor(ModelCard(kind="policy", network=SPEC, weights_sha256=""), backend))


def state_of(rows: int, seed: int) -> tuple[Array, ...]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, 2)).astype(np.float32), rng.integers(0, 99, size=rows)


@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=5), starts=st.integers(0, 31), fails=st.integers(0, 31))
def test_each_request_of_a_batch_has_its_own_state(sizes: list[int], starts: int, fails: int) -> None:
    """Bit i of ``starts``: request i has no state; of ``fails``: its observations make the forward fail."""
    backend = Adds()
    records = records_of(backend)
    forward = Forward("m", records, 4)
    requests, expected = [], []
    for index, rows in enumerate(sizes):
        obs = np.random.default_rng(index).integers(0, 200, size=(rows, 2, 3)).astype(np.uint8)
        state: Any = () if starts >> index & 1 else state_of(rows, index)
        if fails >> index & 1:
            obs[-1, 0, 0] = 255
        requests.append(records.pack(obs, state))
        first, count = state or (np.tile(np.float32([0.5, -0.5]), (rows, 1)), np.full(rows, 7))
        expected.append((first, first + obs.reshape(rows, 6).sum(axis=1, dtype=np.float32)[:, None], count + 1))
    for index, outcome in enumerate(forward.outcomes(requests)):
        if fails >> index & 1:
            assert isinstance(outcome, RuntimeError)
            continue
        assert not isinstance(outcome, Exception)
        values, state = records.unpack(outcome)
        for part, own in zip((values, *state), expected[index], strict=True):
            np.testing.assert_array_equal(part, own)
    assert max(backend.rows) <= 4


def test_what_was_packed_is_unpacked_in_its_own_dtypes() -> None:
    records = records_of(Adds())
    obs, state = np.arange(12, dtype=np.uint8).reshape(2, 2, 3), state_of(2, 0)
    packed = records.pack(obs, state)
    assert packed.shape == (2,)
    observations, unpacked = records.unpack(packed)
    np.testing.assert_array_equal(observations, obs, strict=True)
    for part, own in zip(unpacked, state, strict=True):
        np.testing.assert_array_equal(part, own, strict=True)
    with pytest.raises(InputError, match=r"state\[1\].shape must be \[2\]"):
        records.pack(obs, (state[0], state[1][:1]))


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (((1, 2), (1, 2), np.zeros(1, np.int32)), "state_1 .* got int32"),
        (((1, 2), (1, 3), np.zeros(1, np.int64)), r"state_0 .* must be float32 \[1, 2\], as .* got float32 \[1, 3\]"),
        (((1, 1), (1, 2), np.zeros(1, np.int64)), r"values .* got float32 \[1, 1\]"),
    ],
)
def test_a_next_state_unlike_the_first_is_an_error(outputs: Any, message: str) -> None:
    backend = Adds()
    values, state, count = outputs
    backend.run = lambda *_: (np.zeros(values, np.float32), np.zeros(state, np.float32), count)  # type: ignore
    records = records_of(backend)
    with pytest.raises(ModelError, match=message):
        records(records.pack(np.zeros((1, 2, 3), np.uint8), ()))
