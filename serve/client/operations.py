"""Client operations without transport: encode requests, decode responses, as generators (sans I/O).

An operation is a generator: it yields a `UnaryCall` (or a `Pause`), is sent the response, and returns the operation's
result. The blocking and the asyncio client differ only in how they perform a step (`torso.serve.client.sync_client`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from numpy.typing import ArrayLike, NDArray

from torso.errors import DeadlineError, InputError, InvalidRequestError, UnavailableError, UnknownModelError
from torso.proto import prediction_pb2 as pb
from torso.serve.client.results import ActResult, ClassifyResult, ImageInput, ModelInfo, ModelSummary, TensorSpec
from torso.serve.wire.tensors import SERVICE, array_to_tensor, kind_name, tensor_to_array
from torso.space_spec import SpaceSpec

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
        array = yield from self._prepare(model, version, inputs, "tensor")
        request = pb.ClassifyRequest(
            model=model, version=version, tensor=array_to_tensor(array), top_k=_int32(top_k, "top_k")
        )
        response: pb.ClassifyResponse = yield from self._call_model("Classify", request, pb.ClassifyResponse)
        return _classification(response)

    def classify_images(
        self, model: str, images: Sequence[bytes], top_k: int, version: str
    ) -> Operation[ClassifyResult]:
        """Classify PNG or JPEG files."""
        if isinstance(images, (bytes, bytearray)):
            raise InputError("images", expected="a list of files' bytes", got="one file's bytes")
        request = pb.ClassifyRequest(
            model=model, version=version, images=pb.Images(encoded=images), top_k=_int32(top_k, "top_k")
        )
        response: pb.ClassifyResponse = yield from self._call_model("Classify", request, pb.ClassifyResponse)
        return _classification(response)

    def act(
        self, model: str, observations: ArrayLike, state: Sequence[ArrayLike], version: str
    ) -> Operation[ActResult]:
        """Choose actions."""
        array = yield from self._prepare(model, version, observations, "observations")
        tensors = self._encode_state(model, version, state)
        request = pb.ActRequest(model=model, version=version, observations=array_to_tensor(array), state=tensors)
        response: pb.ActResponse = yield from self._call_model("Act", request, pb.ActResponse)
        return ActResult(
            actions=np.array(response.actions, dtype=np.int64),
            values=tensor_to_array(response.values, "values").astype(np.float32, copy=False),
            state=tuple(tensor_to_array(tensor, "state") for tensor in response.state),
            version=response.version,
        )

    def list_models(self) -> Operation[tuple[ModelSummary, ...]]:
        """List the served models."""
        response: pb.ListModelsResponse = yield UnaryCall(
            method=f"/{SERVICE}/ListModels", request=pb.ListModelsRequest(), response_class=pb.ListModelsResponse
        )
        return tuple(
            ModelSummary(name=model.name, version=model.version, kind=kind_name(model.kind))
            for model in response.models
        )

    def get_model(self, name: str, version: str) -> Operation[ModelInfo]:
        """Describe a model."""
        response: pb.GetModelResponse = yield UnaryCall(
            method=f"/{SERVICE}/GetModel",
            request=pb.GetModelRequest(model=name, version=version),
            response_class=pb.GetModelResponse,
        )
        info = self._infos[name, version] = _model_info(response)
        return info

    def healthy(self, name: str) -> Operation[bool]:
        """Check health; a server that cannot be reached, or does not know the name, is not healthy."""
        try:
            return (yield from self._check_health(name, None))
        except (UnavailableError, UnknownModelError, DeadlineError):
            return False

    def wait_ready(self, timeout_s: float) -> Operation[None]:
        """Poll health until the server is ready."""
        end = time.monotonic() + timeout_s
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

    def _call_model(self, method: str, request: Any, response_class: type[Message]) -> Operation[Any]:
        """Call a model; where the request does not fit it, drop its cached description: it may have been replaced."""
        try:
            return (yield UnaryCall(method=f"/{SERVICE}/{method}", request=request, response_class=response_class))
        except (InvalidRequestError, UnknownModelError):
            self._infos.pop((request.model, request.version), None)
            raise

    def _prepare(self, model: str, version: str, inputs: ArrayLike, field: str) -> Operation[NDArray[Any]]:
        """Convert inputs to a model's dtype and batch, where that loses nothing; the server validates the rest."""
        structured = is_structured(inputs)  # sent only to a model whose observations were flattened
        array = None if structured else _as_array(inputs, field)
        info = self._infos.get((model, version)) or (yield from self.get_model(model, version))
        rows = None if info.observation_space is None else info.observation_space.flatten(inputs, field)[0]
        if rows is None:
            rows = _as_array(inputs, field) if array is None else array
        return coerce_to_spec(rows, info.inputs[0]) if info.inputs else rows

    def _encode_state(self, model: str, version: str, state: Sequence[ArrayLike]) -> list[pb.Tensor]:
        """Encode a recurrent state as `_prepare` converts inputs, once the model's description is cached."""
        info = self._infos.get((model, version))
        specs = info.inputs[1:] if info is not None else ()
        arrays = [_as_array(part, f"state[{index}]") for index, part in enumerate(state)]
        if len(specs) == len(arrays):
            arrays = [coerce_to_spec(array, spec) for array, spec in zip(arrays, specs, strict=True)]
        return [array_to_tensor(array, f"state[{index}]") for index, array in enumerate(arrays)]


def is_structured(values: object) -> bool:
    """Whether values hold a dict or a tuple, so that they may be the parts of observations rather than an array."""
    if isinstance(values, (Mapping, tuple)):
        return True
    return isinstance(values, list) and any(isinstance(item, (Mapping, tuple)) for item in values)


def _as_array(values: ArrayLike, field: str) -> NDArray[Any]:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise InputError(field, expected="an array of one shape", got=f"a ragged one ({error})") from error


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


def _int32(value: int, field: str) -> int:
    if not -(2**31) <= value < 2**31:
        raise InputError(field, expected="a 32-bit number", got=str(value))
    return int(value)


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
    )


def _space_spec(text: str) -> SpaceSpec | None:
    """Parse a model's observation space; None where it has none, or one that only a newer torso describes."""
    try:
        return SpaceSpec.from_json(json.loads(text)) if text else None
    except (ValueError, RecursionError):  # ValueError includes SpecError
        return None


def _tensor_spec(info: pb.TensorInfo) -> TensorSpec:
    return TensorSpec(name=info.name, dtype=info.dtype, shape=tuple(info.shape)[1:])
