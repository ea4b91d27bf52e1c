"""``torso.v1.PredictionService``: decode, validate, predict, encode.

Calls arrive as bytes, so that whatever a stranger sends, readable or not, ends in a status. Validation comes before
queueing: no request can spoil the batch that it lands in.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import grpc
import grpc.aio
import numpy as np
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from torso.errors import InputError, UnavailableError
from torso.proto import prediction_pb2 as pb
from torso.serve.repository import Model, Repository
from torso.serve.status import to_wire
from torso.serve.wire import KINDS, SERVICE, array_to_tensor, tensor_to_array

Array = NDArray[Any]
Context = grpc.aio.ServicerContext[bytes, bytes]
Request = TypeVar("Request", bound=Message)
T = TypeVar("T")

OFFLOAD_BYTES = 1 << 18  # work on more than this leaves the event loop for a thread
OFFLOAD_ROWS = 256
WORKERS = 2  # threads that decode images and handle large messages


class PredictionServicer:
    """Answers the four methods, counts what is in flight, and turns failures into statuses."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._workers = ThreadPoolExecutor(max_workers=WORKERS, thread_name_prefix="codec")
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the methods. Messages pass as bytes: the servicer decodes and encodes them itself."""
        methods = {
            "Classify": self._method(self.classify, pb.ClassifyRequest),
            "Act": self._method(self.act, pb.ActRequest),
            "ListModels": self._method(self.list_models, pb.ListModelsRequest),
            "GetModel": self._method(self.get_model, pb.GetModelRequest),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))

    @property
    def busy(self) -> bool:
        """Whether requests are in flight."""
        return self._in_flight > 0

    async def wait_idle(self) -> None:
        """Return once no request is in flight."""
        await self._idle.wait()

    def close(self) -> None:
        """End the worker threads."""
        self._workers.shutdown(wait=True)

    def _method(
        self, answer: Callable[[Request, float | None], Awaitable[Message]], request_class: type[Request]
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Wrap one method: bytes in, bytes or a status out."""
        name = answer.__name__

        async def handle(data: bytes, context: Context) -> bytes:
            if self.draining:  # not counted as in flight, or a stream of refusals would keep the server alive
                await context.abort(*to_wire(UnavailableError("the server is shutting down"), name))
            self._in_flight += 1
            self._idle.clear()
            try:
                remaining_s = context.time_remaining()
                deadline = None if remaining_s is None else asyncio.get_running_loop().time() + remaining_s
                request = await self._offload(len(data) > OFFLOAD_BYTES, _parse, request_class, data)
                response = await answer(request, deadline)
                return response.SerializeToString()
            except Exception as error:  # noqa: BLE001 - the boundary: to_wire logs what is not the caller's fault
                await context.abort(*to_wire(error, name))
            finally:
                self._in_flight -= 1
                if self._in_flight == 0:
                    self._idle.set()

        return grpc.unary_unary_rpc_method_handler(handle)

    async def _offload(self, heavy: bool, work: Callable[..., T], *arguments: Any) -> T:
        """Call ``work`` here, or, where it is heavy, in a thread."""
        if heavy:
            return await asyncio.get_running_loop().run_in_executor(self._workers, work, *arguments)
        return work(*arguments)

    # -- the methods ------------------------------------------------------------------------------------------------

    async def classify(self, request: pb.ClassifyRequest, deadline: float | None) -> pb.ClassifyResponse:
        """Label each row."""
        model = self._repository.get(request.model, request.version).require("classifier")
        top_k = request.top_k if request.HasField("top_k") else 1
        if top_k < 1:
            raise InputError("top_k", expected="at least 1", came=str(top_k))
        match request.WhichOneof("inputs"):
            case "tensor":
                readout = await self._predict(model, request.tensor, "tensor", deadline)
            case "images":
                readout = await self._predict_images(model, list(request.images.encoded), deadline)
            case _:
                raise InputError("inputs", expected="tensor or images", came="neither")
        return await self._offload(len(readout) > OFFLOAD_ROWS, _rank, model, readout, top_k)

    async def act(self, request: pb.ActRequest, deadline: float | None) -> pb.ActResponse:
        """Choose each row's greedy action."""
        model = self._repository.get(request.model, request.version).require("policy")
        if request.state:
            raise InputError(
                "state", expected="none: this model is not recurrent", came=f"{len(request.state)} tensors"
            )
        if not request.HasField("observations"):
            raise InputError("observations", expected="a tensor", came="none")
        values = await self._predict(model, request.observations, "observations", deadline)
        actions = model.predictor.greedy(values)
        return pb.ActResponse(actions=actions.tolist(), values=array_to_tensor(values), version=model.version)

    async def list_models(self, _request: pb.ListModelsRequest, _deadline: float | None) -> pb.ListModelsResponse:
        """Name what is served."""
        summaries = [
            pb.ModelSummary(name=model.name, version=model.version, kind=KINDS[model.predictor.kind])
            for model in self._repository.models.values()
        ]
        return pb.ListModelsResponse(models=summaries)

    async def get_model(self, request: pb.GetModelRequest, _deadline: float | None) -> pb.GetModelResponse:
        """Describe one model."""
        return describe(self._repository.get(request.model, request.version))

    # -- the stages ----------------------------------------------------------------------------------------------------

    async def _predict(
        self, model: Model, tensor: pb.Tensor, field: str, deadline: float | None
    ) -> NDArray[np.float32]:
        """Validate a tensor and compute its rows, [B, K]. They count as queued before anything is done for them."""
        rows = max(tensor.shape[0], 0) if tensor.shape else 0  # as claimed; validation holds the claim to it
        with model.batcher.admit(rows, f"{field}.shape") as admission:
            inputs = await self._offload(len(tensor.data) > OFFLOAD_BYTES, _prepare, model, tensor, field)
            return await model.batcher.submit(inputs, admission, deadline)

    async def _predict_images(self, model: Model, images: list[bytes], deadline: float | None) -> NDArray[np.float32]:
        """Decode image files and compute their rows, [B, K]. They count as queued before any is decoded."""
        with model.batcher.admit(len(images), "images.encoded") as admission:
            inputs = await self._offload(True, _prepare_images, model, images)
            return await model.batcher.submit(inputs, admission, deadline)


def _parse(request_class: type[Request], data: bytes) -> Request:
    try:
        return request_class.FromString(data)
    except DecodeError as error:
        expected = f"a {request_class.DESCRIPTOR.full_name}"
        raise InputError(
            "request", expected=expected, came=f"{len(data)} bytes that cannot be parsed as one"
        ) from error


def _prepare(model: Model, tensor: pb.Tensor, field: str) -> Array:
    return model.predictor.prepare(tensor_to_array(tensor, field), strict=True, field=field)


def _prepare_images(model: Model, images: list[bytes]) -> Array:
    return model.predictor.prepare_images(images, field="images.encoded")


def _rank(model: Model, readout: NDArray[np.float32], top_k: int) -> pb.ClassifyResponse:
    labels = [str(label) for label in model.predictor.labels]
    indices, probabilities = model.predictor.top_k(model.predictor.probabilities(readout), top_k)
    rows = [
        pb.Ranking(labels=[labels[index] for index in row], indices=row, probabilities=best)
        for row, best in zip(indices.tolist(), probabilities.tolist(), strict=True)
    ]
    return pb.ClassifyResponse(rows=rows, version=model.version)


def describe(model: Model) -> pb.GetModelResponse:
    """Describe a model: what it takes, what it answers, where it came from."""
    predictor = model.predictor
    spec = predictor.input
    classifier = predictor.kind == "classifier"
    description = pb.GetModelResponse(
        name=model.name,
        version=model.version,
        kind=KINDS[predictor.kind],
        inputs=[
            pb.TensorInfo(name="tensor" if classifier else "observations", dtype=spec.dtype, shape=[-1, *spec.shape])
        ],
        outputs=[
            pb.TensorInfo(
                name="probabilities" if classifier else "values", dtype="float32", shape=[-1, predictor.num_outputs]
            )
        ],
        labels=[str(label) for label in predictor.labels] if classifier else [],
        provenance={
            str(key): value if isinstance(value, str) else json.dumps(value)
            for key, value in predictor.card.provenance.items()
        },
        backend=predictor.backend.name,
    )
    if spec.image is not None:
        image = {name: getattr(spec.image, name) for name in pb.ImageInfo.DESCRIPTOR.fields_by_name}
        description.image.CopyFrom(pb.ImageInfo(**image))
    return description
