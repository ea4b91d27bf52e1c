"""ActStream messages without transport: encode requests for the steps of episodes, decode responses."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

import grpc
import numpy as np
from google.rpc import status_pb2
from numpy.typing import ArrayLike

from torso.errors import InputError, ServiceError
from torso.proto import prediction_pb2 as pb
from torso.serve.client.arguments import check_epsilon, check_start, check_uint64, to_array
from torso.serve.client.operations import coerce_to_spec
from torso.serve.client.results import ModelInfo, StepResult
from torso.serve.wire.status import DETAILS_KEY, from_wire
from torso.serve.wire.tensors import SERVICE, array_to_tensor, tensor_to_array

METHOD = f"/{SERVICE}/ActStream", pb.ActStreamRequest.SerializeToString, pb.ActStreamResponse.FromString
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Steps:
    """Encoder of one stream's requests, the first of which names the model."""

    def __init__(self, info: ModelInfo, version: str) -> None:
        self._input = info.inputs[0]
        self._space = info.observation_space
        self._model = info.name
        self._version = version

    def adapt(self, info: ModelInfo) -> bool:
        """Encode for a model's description from now on; return whether it takes other observations than before."""
        before = self._input, self._space
        self._input, self._space = info.inputs[0], info.observation_space
        return before != (self._input, self._space)

    def step(
        self, observation: ArrayLike, episode: int, start: bool, epsilon: float, seed: int | None
    ) -> pb.ActStreamRequest:
        """Encode an episode's next observation, in the model's dtype where lossless; the server validates it."""
        rows, is_one = (None, True) if self._space is None else self._space.flatten(observation, "observation")
        if rows is not None and not is_one:
            raise InputError("observation", expected=f"one of {self._space}", got=f"{len(rows)}")
        array = to_array(observation, "observation") if rows is None else rows[0]
        return pb.ActStreamRequest(
            episode=check_uint64("episode", episode),
            start=check_start(start),
            observation=array_to_tensor(coerce_to_spec(array[np.newaxis], self._input)[0], "observation"),
            epsilon=check_epsilon(epsilon),
            seed=None if seed is None else check_uint64("seed", seed),
        )

    def end(self, episode: int) -> pb.ActStreamRequest:
        """Encode the end of an episode."""
        return pb.ActStreamRequest(episode=check_uint64("episode", episode), end=True)

    def with_model(self, request: pb.ActStreamRequest) -> pb.ActStreamRequest:
        """Fill in the model's name and version where the request is the stream's first; returns the request."""
        request.model, request.version = self._model, self._version
        self._model = self._version = ""
        return request


def settle(future: Future[StepResult] | asyncio.Future[StepResult], response: pb.ActStreamResponse) -> None:
    """Resolve a future with a response's result or error."""
    if future.done():  # cancelled
        return
    if response.HasField("error"):
        future.set_exception(_error(response.error))
        return
    values = tensor_to_array(response.values, "values").astype(np.float32, copy=False)
    future.set_result(StepResult(action=response.action, values=values, version=response.version))


def _error(status: status_pb2.Status) -> ServiceError:
    return from_wire(_Failure(status), "the server")


class _Failure:
    """Adapter of a status within a message to `RpcFailure`."""

    def __init__(self, status: status_pb2.Status) -> None:
        self._status = status

    def code(self) -> grpc.StatusCode:
        return _CODES.get(self._status.code, grpc.StatusCode.UNKNOWN)

    def details(self) -> str:
        return str(self._status.message)

    def trailing_metadata(self) -> object:
        return ((DETAILS_KEY, self._status.SerializeToString()),)
