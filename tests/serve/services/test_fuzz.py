"""Any bytes give a status, never a crash."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torso.proto import prediction_pb2 as pb
from torso.serve import Client
from torso.serve.wire.datatypes import DTYPES
from torso.serve.wire.tensors import array_to_tensor

METHODS = ("Classify", "Act", "ListModels", "GetModel")
ALLOWED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
}

names = st.sampled_from(["digits", "cartpole", "frames", "plain", "", "nobody"])
tensors = st.builds(
    pb.Tensor,
    dtype=st.sampled_from([*DTYPES, "", "object"]),
    shape=st.lists(st.integers(-1, 8) | st.integers(-(2**63), 2**63 - 1), max_size=4),
    data=st.binary(max_size=64) | st.sampled_from([bytes(64), bytes(12), b"\0\0\xc0\x7f" * 4, bytes(16)]),
)
messages = st.one_of(
    st.builds(
        pb.ClassifyRequest,
        model=names,
        version=st.sampled_from(["", "1", "2"]),
        tensor=tensors,
        top_k=st.integers(-2, 12),
    ),
    st.builds(
        lambda name, files: pb.ClassifyRequest(model=name, images=pb.Images(encoded=files)),
        names,
        st.lists(st.binary(max_size=40), max_size=3),
    ),
    st.builds(pb.ActRequest, model=names, observations=tensors, state=st.lists(tensors, max_size=2)),
)
good = array_to_tensor(np.zeros((1, 8, 8), dtype=np.uint8))
whole = pb.ClassifyRequest(model="digits", tensor=good, top_k=3).SerializeToString()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good request with one byte changed, cut short."""
    at = draw(st.integers(0, len(whole) - 1))
    data = whole[:at] + bytes([draw(st.integers(0, 255))]) + whole[at + 1 :]
    return data[: draw(st.integers(0, len(whole)))]


bodies = st.one_of(st.binary(max_size=200), messages.map(lambda message: message.SerializeToString()), damaged())


def test_ten_thousand_random_bodies_leave_the_server_alive(served: Any, caplog: pytest.LogCaptureFixture) -> None:
    seen = Counter[str]()
    with grpc.insecure_channel(served.address) as channel, caplog.at_level(logging.WARNING):
        calls = [channel.unary_unary(f"/torso.v1.PredictionService/{method}") for method in METHODS]

        @settings(
            max_examples=500,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )
        @given(st.lists(st.tuples(st.sampled_from(calls), bodies), min_size=20, max_size=20))
        def ask(requests: list[tuple[Any, bytes]]) -> None:
            answers = [call.future(body, timeout=60) for call, body in requests]
            for answer in answers:
                status = answer.code()  # waits
                assert status in ALLOWED, (status, answer.details())
                seen[status.name] += 1

        ask()
    assert seen.total() >= 10_000
    assert set(seen) == {status.name for status in ALLOWED}  # each was met
    assert caplog.records == []
    with Client(served.address) as client:
        assert client.healthy()
        assert client.classify("digits", np.zeros((8, 8))).indices.shape == (1, 1)
