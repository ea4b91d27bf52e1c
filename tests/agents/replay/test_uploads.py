"""Uploads: one copy for several arrays, whose values, shapes and dtypes stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from torso.agents.replay.ring import ReplayRing
from torso.agents.replay.uploads import upload, zeros_for

CPU = torch.device("cpu")
DTYPES = ["bool", "uint8", "int8", "uint16", "int32", "int64", "float16", "float32", "float64"]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@given(st.lists(st.sampled_from(DTYPES).flatmap(lambda dtype: arrays(dtype, array_shapes(min_dims=0, min_side=0)))))
def test_values_shapes_and_dtypes_stay(given_arrays: list[np.ndarray[Any, Any]]) -> None:
    named = {str(index): array for index, array in enumerate(given_arrays)}
    for name, tensor in upload(named, CPU).items():
        got = tensor.numpy()
        assert got.dtype == named[name].dtype
        np.testing.assert_array_equal(got, named[name], strict=True)


def test_strided_arrays_and_later_writes() -> None:
    stacks = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    newest, turned = stacks[:, -1], stacks.T
    uploaded = upload({"newest": newest, "turned": turned}, CPU)
    expected = newest.copy(), turned.copy()
    stacks[:] = 0  # an env may write its next observations into the same memory
    np.testing.assert_array_equal(uploaded["newest"].numpy(), expected[0])
    np.testing.assert_array_equal(uploaded["turned"].numpy(), expected[1])


def test_zeros_are_of_the_arrays_dtype() -> None:
    zeros = zeros_for(CPU, (2, 3), "uint16")
    assert (zeros.shape, zeros.dtype, zeros.any()) == ((2, 3), np.uint16, False)


def test_a_row_is_one_upload(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring on another device copies to it once for a row, masks among it."""
    copies: list[torch.device] = []
    to = torch.Tensor.to

    def counted(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        copies.append(tensor.device)
        return to(tensor, *args, **kwargs)

    ring = ReplayRing(capacity_steps=40, num_envs=2, shape=(5,), dtype="float32", device="meta", num_actions=3)
    monkeypatch.setattr(torch.Tensor, "to", counted)
    false, zeros = np.zeros(2, bool), np.zeros(2, np.int64)
    ring.append(np.zeros((2, 5), np.float32), zeros, np.zeros(2), false, false, false, np.ones((2, 3), bool))
    assert copies == [CPU]


@needs_cuda
def test_a_ring_on_cuda_holds_what_one_on_the_cpu_holds() -> None:
    rng = np.random.default_rng(0)
    rings = [
        ReplayRing(capacity_steps=40, num_envs=2, shape=(4, 6, 6), dtype="uint8", device=device, frame_stack=4)
        for device in ("cpu", "cuda")
    ]
    for _ in range(50):
        row = [rng.integers(256, size=(2, 4, 6, 6), dtype=np.uint8), rng.integers(3, size=2), rng.normal(size=2)]
        ends = rng.random((3, 2)) < 0.1
        for ring in rings:
            ring.append(*row, *ends)
    rows = [ring.read_rows(ring.first_row, ring.num_rows) for ring in rings]
    for name, expected in rows[0].items():
        assert torch.equal(rows[1][name], expected), name
