"""Statuses and details of the error table that a single request can cause."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest

from torso import errors
from torso.proto import prediction_pb2 as pb
from torso.proto.prediction_pb2_grpc import PredictionServiceStub
from torso.serve import Client, ServeConfig
from torso.serve.wire.tensors import array_to_tensor

GOOD = array_to_tensor(np.zeros((2, 8, 8), dtype=np.uint8))
NAN = np.array([[0, np.nan, 0, 0]], dtype=np.float32)


@pytest.mark.parametrize(
    ("tensor", "field", "description"),
    [
        (np.zeros((2, 8, 7), np.uint8), "tensor.shape", "must be uint8 [batch, 8, 8], got [2, 8, 7]"),
        (np.zeros((8, 8), np.uint8), "tensor.shape", "must be uint8 [batch, 8, 8], got [8, 8]"),
        (np.zeros((2, 64), np.uint8), "tensor.shape", "got [2, 64]"),
        (np.uint8(0), "tensor.shape", "got []"),
        (np.zeros((2, 8, 8), np.float32), "tensor.dtype", "must be uint8, got float32"),
        (np.zeros((0, 8, 8), np.uint8), "tensor.shape", "must be at least 1 row, got 0 rows"),
        (np.zeros((5000, 8, 8), np.uint8), "tensor.shape", "must be at most 4096 rows a request, got 5000"),
        (pb.Tensor(dtype="uint8", shape=[1, 8, 8], data=b"x" * 63), "tensor.data", "must be 64 bytes"),
        (pb.Tensor(dtype="uint8", shape=[-1, 8, 8], data=b""), "tensor.shape", "got [-1, 8, 8]"),
        (pb.Tensor(dtype="uint8", shape=[2**62, 8, 8], data=b""), "tensor.shape", "got 4611686018427387904"),
        (pb.Tensor(dtype="str", shape=[1, 8, 8], data=b""), "tensor.dtype", "got 'str'"),
    ],
)
def test_an_input_that_does_not_fit_is_an_invalid_argument(
    stub: Any, refused: Any, tensor: Any, field: str, description: str
) -> None:
    if not isinstance(tensor, pb.Tensor):
        tensor = array_to_tensor(tensor)
    with refused(errors.InvalidRequestError, field=field, description=description):
        stub.Classify(pb.ClassifyRequest(model="digits", tensor=tensor))


@pytest.mark.parametrize(
    ("method", "request_message", "field", "description"),
    [
        ("Classify", pb.ClassifyRequest(model="digits", tensor=GOOD, top_k=0), "top_k", "must be at least 1, got 0"),
        ("Classify", pb.ClassifyRequest(model="digits", tensor=GOOD, top_k=-3), "top_k", "must be at least 1, got -3"),
        ("Classify", pb.ClassifyRequest(model="digits"), "inputs", "must be a tensor or images, got neither"),
        ("Act", pb.ActRequest(model="cartpole"), "observations", "must be a tensor, got none"),
        ("Act", pb.ActRequest(model="cartpole", observations=array_to_tensor(NAN)), "observations", "got NaN"),
        (
            "Act",
            pb.ActRequest(model="cartpole", observations=array_to_tensor(NAN), state=[GOOD]),
            "state",
            "must be empty: this model is not recurrent",
        ),
    ],
)
def test_a_request_that_makes_no_sense_is_an_invalid_argument(
    stub: Any, refused: Any, method: str, request_message: Any, field: str, description: str
) -> None:
    with refused(errors.InvalidRequestError, field=field, description=description):
        getattr(stub, method)(request_message)


def test_bytes_that_are_no_message_are_an_invalid_argument(served: Any, refused: Any) -> None:
    with grpc.insecure_channel(served.address) as channel:
        call = channel.unary_unary("/torso.v1.PredictionService/Classify")
        description = "must be a torso.v1.ClassifyRequest, got 3 bytes that cannot be parsed as one"
        with refused(errors.InvalidRequestError, field="request", description=description):
            call(b"\xff\xff\xff")


@pytest.mark.parametrize(
    ("method", "request_message"),
    [
        ("Classify", pb.ClassifyRequest(model="nobody", tensor=GOOD)),
        ("Classify", pb.ClassifyRequest(model="digits", version="2", tensor=GOOD)),
        ("Act", pb.ActRequest(model="")),
        ("GetModel", pb.GetModelRequest(model="x" * 100_000)),
        ("GetModel", pb.GetModelRequest(model="digits", version="1.0")),
    ],
)
def test_an_unknown_model_or_version_is_not_found(stub: Any, refused: Any, method: str, request_message: Any) -> None:
    with refused(errors.UnknownModelError):
        getattr(stub, method)(request_message)


def test_the_wrong_kind_of_model_is_a_failed_precondition(stub: Any, refused: Any) -> None:
    with refused(errors.WrongKindError):
        stub.Act(pb.ActRequest(model="digits", observations=GOOD))
    with refused(errors.WrongKindError):
        stub.Classify(pb.ClassifyRequest(model="cartpole", tensor=GOOD))


def test_the_wrong_kind_of_model_is_counted_for_the_model(
    config: Callable[..., ServeConfig], running: Any, refused: Any
) -> None:
    with running(config()) as server:
        with grpc.insecure_channel(server.address) as channel:
            stub = PredictionServiceStub(channel)
            with refused(errors.WrongKindError):
                stub.Act(pb.ActRequest(model="digits", observations=GOOD))
            with refused(errors.WrongKindError):
                list(stub.ActStream(iter([pb.ActStreamRequest(model="digits", start=True)])))
            with refused(errors.WrongKindError):
                stub.Classify(pb.ClassifyRequest(model="cartpole", tensor=GOOD))
            with refused(errors.UnknownModelError):
                stub.Act(pb.ActRequest(model="nobody", observations=GOOD))
        models_served, unknown = server.server.repository.served, server.server.handler.metrics.unknown
        server.run(server.server.stop())  # a call is counted once its caller has the answer
        counted = {model.name: model.metrics.statuses for model in models_served}
        assert counted == {"cartpole": {"FAILED_PRECONDITION": 1}, "digits": {"FAILED_PRECONDITION": 2}}
        assert unknown.statuses == {"NOT_FOUND": 1}
        assert unknown.in_flight == sum(model.metrics.in_flight for model in models_served) == 0


def test_a_message_beyond_the_limit_is_refused(models: Any, config: Callable[..., ServeConfig], running: Any) -> None:
    with running(config(models.digits, max_message_mib=1)) as server, Client(server.address) as client:
        with pytest.raises(errors.OverloadedError, match="larger than max") as caught:
            client.classify_images("digits", [bytes(2 << 20)])
        assert caught.value.retry_after_s is None  # coming back later would not help
        assert client.healthy()
