"""Client operations without transport: encode requests, decode responses, as generators (sans I/O).

An operation is a generator: it yields a `UnaryCall` (or a `Pause`), is sent the response, and returns the operation's
result. The blocking and the asyncio client differ only in how they perform a step (`torso.serve.client.sync_client`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from numpy.typing import ArrayLike, NDArray

from torso.errors import (
    DeadlineError,
    InputError,
    InvalidRequestError,
    TorsoError,
    UnavailableError,
    UnknownModelError,
    WrongKindError,
)
from torso.proto import prediction_pb2 as pb
from torso.serve.client.arguments import check_images, check_text, check_timeout, check_top_k, to_array, to_state_arrays
from torso.serve.client.results import ActResult, ClassifyResult, ImageInput, ModelInfo, ModelSummary, TensorSpec
from torso.serve.wire.tensors import SERVICE, array_to_tensor, kind_name, tensor_to_array
from torso.space_spec import SpaceSpec
from torso.tables import columns_by_name

T = TypeVar("T")

POLL_S = 0.05


@dataclass(frozen=True, kw_only=True)
class UnaryCall:
    """A unary gRPC call to make."""

    method: str
    request: Message
    response_class: type[Message]
    timeout_s: float | None = None
    """Timeout in seconds; None: the operation's."""
    retried: bool = True
    """Whether it may be retried."""


@dataclass(frozen=True)
class Pause:
    """A wait before the next step."""

    seconds: float


Operation = Generator[UnaryCall | Pause, Any, T]


class Operations:
    """Operations of a client, with a cache of model descriptions."""

    def __init__(self) -> None:
        self._infos: dict[tuple[str, str], ModelInfo] = {}  # by name and requested version

    def classify(self, model: str, inputs: ArrayLike, top_k: int, version: str) -> Operation[ClassifyResult]:
        """Classify arrays."""
        rows, k = RowsToSend(inputs, "tensor"), check_top_k(top_k)

        def encode(info: ModelInfo) -> pb.ClassifyRequest:
            return pb.ClassifyRequest(model=model, version=version, tensor=rows.encode(info), top_k=k)

        response: pb.ClassifyResponse = yield from self._predict(
            model, version, "Classify", encode, pb.ClassifyResponse
        )
        return _classification(response)

    def classify_images(
        self, model: str, images: Sequence[bytes], top_k: int, version: str
    ) -> Operation[ClassifyResult]:
        """Classify PNG or JPEG files."""
        request = pb.ClassifyRequest(
            model=check_text("model", model),
            version=check_text("version", version),
            images=pb.Images(encoded=check_images(images)),
            top_k=check_top_k(top_k),
        )
        response: pb.ClassifyResponse = yield _call("Classify", request, pb.ClassifyResponse)
        return _classification(response)

    def act(
        self, model: str, observations: ArrayLike, state: Sequence[ArrayLike], version: str
    ) -> Operation[ActResult]:
        """Choose actions."""
        rows, state_arrays = RowsToSend(observations, "observations"), to_state_arrays(state)

        def encode(info: ModelInfo) -> pb.ActRequest:
            tensors = _encode_state(state_arrays, info)
            return pb.ActRequest(model=model, version=version, observations=rows.encode(info), state=tensors)

        response: pb.ActResponse = yield from self._predict(model, version, "Act", encode, pb.ActResponse)
        return ActResult(
            actions=np.array(response.actions, dtype=np.int64),
            values=tensor_to_array(response.values, "values").astype(np.float32, copy=False),
            state=tuple(tensor_to_array(tensor, "state") for tensor in response.state),
            version=response.version,
        )

    def list_models(self) -> Operation[tuple[ModelSummary, ...]]:
        """List the served models."""
        response: pb.ListModelsResponse = yield _call("ListModels", pb.ListModelsRequest(), pb.ListModelsResponse)
        return tuple(
            ModelSummary(name=model.name, version=model.version, kind=kind_name(model.kind))
            for model in response.models
        )

    def get_model(self, name: str, version: str) -> Operation[ModelInfo]:
        """Describe a model."""
        request = pb.GetModelRequest(model=check_text("model", name), version=check_text("version", version))
        response: pb.GetModelResponse = yield _call("GetModel", request, pb.GetModelResponse)
        info = self._infos[name, version] = _model_info(response)
        return info

    def healthy(self, name: str) -> Operation[bool]:
        """Check health; a server that cannot be reached, or does not know the name, is not healthy."""
        check_text("model", name)
        try:
            return (yield from self._check_health(name, None))
        except (UnavailableError, UnknownModelError, DeadlineError):
            return False

    def wait_ready(self, timeout_s: float) -> Operation[None]:
        """Poll health until the server is ready."""
        end = time.monotonic() + check_timeout(timeout_s)
        last = "it answers, and is not ready"
        while (left_s := end - time.monotonic()) > 0:
            try:
                if (yield from self._check_health("", left_s)):
                    return
            except (UnavailableError, DeadlineError) as error:
                last = str(error)
            yield Pause(POLL_S)
        raise UnavailableError(f"not ready within {timeout_s:g} s: {last}", status="UNAVAILABLE")

    def _check_health(self, name: str, timeout_s: float | None) -> Operation[bool]:
        response: health_pb2.HealthCheckResponse = yield UnaryCall(
            method="/grpc.health.v1.Health/Check",
            request=health_pb2.HealthCheckRequest(service=name),
            response_class=health_pb2.HealthCheckResponse,
            timeout_s=timeout_s,
            retried=False,  # health is about now
        )
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    def _predict(
        self,
        model: str,
        version: str,
        method: str,
        encode: Callable[[ModelInfo], Message],
        response_class: type[Message],
    ) -> Operation[Any]:
        """Call a model with a request that is encoded by its description, which is fetched once and cached.

        The server may have replaced the model since. So where the request is refused, or another version answers, the
        description is fetched anew, and where the model takes other inputs now, it is called again with those.
        """
        key = (check_text("model", model), check_text("version", version))
        cached = self._infos.get(key)
        if cached is None:
            return (yield _call(method, encode((yield from self.get_model(*key))), response_class))
        response: Any = None
        refusal: TorsoError | None = None
        try:
            response = yield _call(method, encode(cached), response_class)
            if response.version == cached.version:
                return response
        except (InputError, InvalidRequestError, UnknownModelError, WrongKindError) as error:
            refusal = error
        del self._infos[key]
        fresh = yield from self.get_model(*key)
        if (fresh.inputs, fresh.observation_space) != (cached.inputs, cached.observation_space):
            return (yield _call(method, encode(fresh), response_class))
        if refusal is not None:
            raise refusal
        return response


class RowsToSend:
    """Inputs of a call, to be encoded for a model once that is known. InputError where they are no array."""

    def __init__(self, inputs: ArrayLike, field: str) -> None:
        self._inputs = inputs
        self._field = field
        structured = is_structured(inputs)  # sent only to a model whose observations were flattened
        self._array = None if structured or hasattr(inputs, "columns") else to_array(inputs, field)

    def encode(self, info: ModelInfo) -> pb.Tensor:
        """Convert the inputs to a model's dtype and batch, where that loses nothing; the server validates the rest."""
        space, inputs = info.observation_space, columns_by_name(self._inputs, info.feature_names, self._field)
        rows = None if space is None else space.flatten(inputs, self._field)[0]
        if rows is None:
            rows = to_array(inputs, self._field) if self._array is None else self._array
        return array_to_tensor(coerce_to_spec(rows, info.inputs[0]) if info.inputs else rows, self._field)


def _call(method: str, request: Message, response_class: type[Message]) -> UnaryCall:
    return UnaryCall(method=f"/{SERVICE}/{method}", request=request, response_class=response_class)


def _encode_state(arrays: Sequence[NDArray[Any]], info: ModelInfo) -> list[pb.Tensor]:
    """Encode a recurrent state as inputs are."""
    specs = info.inputs[1:]
    if len(specs) == len(arrays):
        arrays = [coerce_to_spec(array, spec) for array, spec in zip(arrays, specs, strict=True)]
    return [array_to_tensor(array, f"state[{index}]") for index, array in enumerate(arrays)]


def is_structured(values: object) -> bool:
    """Whether values hold a dict or a tuple, so that they may be the parts of observations rather than an array."""
    if isinstance(values, (Mapping, tuple)):
        return True
    return isinstance(values, list) and any(isinstance(item, (Mapping, tuple)) for item in values)


def coerce_to_spec(array: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """Coerce an array to ``[batch, *spec.shape]`` of ``spec.dtype``, where that loses nothing.

    One input becomes a batch of one; flat rows get the model's shape; numbers become the model's dtype if they fit in
    it (any number fits a float). An array that cannot be converted is returned as it is.
    """
    if array.shape == spec.shape:
        array = array[np.newaxis]
    elif array.ndim == 2 and len(spec.shape) != 1 and array.shape[1] == int(np.prod(spec.shape)):
        array = array.reshape(-1, *spec.shape)
    target = np.dtype(spec.dtype)
    if array.dtype == target or array.dtype.kind not in "biuf":
        return array
    with np.errstate(invalid="ignore", over="ignore"):
        cast = array.astype(target)
    return cast if target.kind == "f" or np.array_equal(cast, array) else array


def _classification(response: pb.ClassifyResponse) -> ClassifyResult:
    return ClassifyResult(
        labels=tuple(tuple(row.labels) for row in response.rows),
        indices=np.array([row.indices for row in response.rows], dtype=np.int64),
        probabilities=np.array([row.probabilities for row in response.rows], dtype=np.float32),
        version=response.version,
    )


def _model_info(response: pb.GetModelResponse) -> ModelInfo:
    image = response.image
    names = ("channels", "height", "width", "polarity", "centring", "max_value")
    return ModelInfo(
        name=response.name,
        version=response.version,
        kind=kind_name(response.kind),
        inputs=tuple(_tensor_spec(info) for info in response.inputs),
        outputs=tuple(_tensor_spec(info) for info in response.outputs),
        labels=tuple(response.labels),
        image=ImageInput(**{name: getattr(image, name) for name in names}) if response.HasField("image") else None,
        provenance=dict(response.provenance),
        backend=response.backend,
        observation_space=_space_spec(response.observation_space),
        action_start=response.action_start if response.HasField("action_start") else None,
        feature_names=tuple(response.feature_names) or None,
    )


def _space_spec(text: str) -> SpaceSpec | None:
    """Parse a model's observation space; None where it has none, or one that only a newer torso describes."""
    try:
        return SpaceSpec.from_json(json.loads(text)) if text else None
    except (ValueError, RecursionError):  # ValueError includes SpecError
        return None


def _tensor_spec(info: pb.TensorInfo) -> TensorSpec:
    return TensorSpec(name=info.name, dtype=info.dtype, shape=tuple(info.shape)[1:])
