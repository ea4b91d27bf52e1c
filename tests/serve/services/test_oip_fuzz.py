"""Any bytes give a status, never a crash: the Open Inference Protocol."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

ALLOWED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
}
METHODS = [method.name for method in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods]
ABSENT = {"CudaSharedMemoryRegister", "CudaSharedMemoryStatus", "CudaSharedMemoryUnregister", "LogSettings"} | {
    *("SystemSharedMemoryRegister", "SystemSharedMemoryStatus", "SystemSharedMemoryUnregister", "TraceSetting")
}
UNARY = [method for method in METHODS if method not in ABSENT and method != "ModelStreamInfer"]
inputs = st.builds(
    service_pb2.ModelInferRequest.InferInputTensor,
    name=st.sampled_from(["tensor", "observations", ""]),
    datatype=st.sampled_from(["UINT8", "FP32", "BYTES", "FP16", "BOOL", "nothing"]),
    shape=st.lists(st.integers(-1, 8) | st.integers(-(2**63), 2**63 - 1), max_size=4)
    | st.sampled_from([[1, 8, 8], [1, 4], [1, 3]]),
    contents=st.none()
    | st.builds(
        service_pb2.InferTensorContents,
        uint_contents=st.lists(st.integers(0, 2**32 - 1), max_size=4) | st.just([1] * 64),
        fp32_contents=st.sampled_from([[], [float("nan")] * 4, [0.0] * 3]),
    ),
)
requests = st.builds(
    service_pb2.ModelInferRequest,
    model_name=st.sampled_from(["digits", "cartpole", "frames", "plain", "", "nobody"]),
    model_version=st.sampled_from(["", "1", "01", "x"]),
    inputs=st.lists(inputs, max_size=2),
    outputs=st.lists(
        st.builds(
            service_pb2.ModelInferRequest.InferRequestedOutputTensor,
            name=st.sampled_from(["probabilities", "actions", "values", ""]),
        ),
        max_size=3,
    ),
    raw_input_contents=st.lists(st.binary(max_size=64) | st.sampled_from([bytes(64), bytes(16)]), max_size=2),
).map(lambda request: request.SerializeToString())


def test_any_bytes_give_a_status(served: Any, caplog: pytest.LogCaptureFixture) -> None:
    seen = Counter[str]()
    with grpc.insecure_channel(served.address) as channel, caplog.at_level(logging.WARNING):
        calls = {method: channel.unary_unary(f"/inference.GRPCInferenceService/{method}") for method in UNARY}
        stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        bodies = st.tuples(st.sampled_from(UNARY), st.binary(max_size=200)) | st.tuples(st.just("ModelInfer"), requests)

        @settings(
            max_examples=150,
            database=None,
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )
        @given(st.lists(bodies, min_size=20, max_size=20))
        def ask(pairs: list[tuple[str, bytes]]) -> None:
            answers = [calls[method].future(body, timeout=60) for method, body in pairs]
            for answer in answers:
                status = answer.code()  # waits
                assert status in ALLOWED, (status, answer.details())
                seen[status.name] += 1
            assert len(list(stream(iter([body for _, body in pairs]), timeout=60))) == len(pairs)

        ask()
    assert set(seen) == {status.name for status in ALLOWED}  # each was met
    assert caplog.records == []
    assert set(METHODS) - ABSENT == {*UNARY, "ModelStreamInfer"}
