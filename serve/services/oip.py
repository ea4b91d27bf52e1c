"""Servicer of the Open Inference Protocol V2, ``inference.GRPCInferenceService``, on the batchers of torso's service.

As there, validation comes before queueing: no request can fail the batch that it is computed in.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from itertools import islice

import grpc

import torso
from torso.errors import InputError, UnavailableError, UnknownModelError, WrongKindError
from torso.proto import oip_pb2 as pb
from torso.serve.config import ServeConfig
from torso.serve.models.control import Control
from torso.serve.models.repository import Repository
from torso.serve.models.served_model import ServedModel
from torso.serve.services.callers import current_caller
from torso.serve.services.in_order import in_order
from torso.serve.services.method_table import MethodTable
from torso.serve.services.oip_statistics import model_statistics
from torso.serve.services.prediction import OFFLOAD_ROWS
from torso.serve.services.request_handler import OFFLOAD_BYTES, Call, Context, RequestHandler
from torso.serve.services.stream_messages import Messages
from torso.serve.wire.oip_signature import TensorMetadata
from torso.serve.wire.oip_tensors import (
    INPUT,
    OIP_SERVICE,
    check_input,
    read_input,
    requested_outputs,
    write_answer,
)
from torso.serve.wire.status import WireStatus
from torso.serve.wire.tensors import SERVICE, quoted

EXTENSIONS = ("classification", "model_configuration", "model_repository", "statistics")
MAX_CONCURRENT = 64  # requests of one stream that are answered at once
SHOWN_NAMES = 10
SHAPE = f"{INPUT}.shape"
FINAL_FLAG_REQUESTED, FINAL_FLAG = "triton_enable_empty_final_response", "triton_final_response"


class OipServicer:
    """Servicer of the protocol's methods. ``ready`` returns whether requests should be sent here."""

    def __init__(
        self,
        repository: Repository,
        handler: RequestHandler,
        control: Control,
        config: ServeConfig,
        ready: Callable[[], bool],
    ) -> None:
        self._repository = repository
        self._handler = handler
        self._control = control
        self._config = config
        self._ready = ready

    def add_to(self, table: MethodTable) -> None:
        """Register the methods. Messages pass as bytes: the request handler decodes and encodes them."""
        unary = self._handler.unary
        methods = {
            "ServerLive": grpc.unary_unary_rpc_method_handler(self.server_live),
            "ServerReady": grpc.unary_unary_rpc_method_handler(self.server_ready),
            "ServerMetadata": unary(self.server_metadata, pb.ServerMetadataRequest),
            "ModelReady": unary(self.model_ready, pb.ModelReadyRequest),
            "ModelMetadata": unary(self.model_metadata, pb.ModelMetadataRequest),
            "ModelConfig": unary(self.model_config, pb.ModelConfigRequest),
            "ModelInfer": unary(self.model_infer, pb.ModelInferRequest),
            "ModelStreamInfer": self._handler.stream(self.model_stream_infer),
            "ModelStatistics": unary(self.model_statistics, pb.ModelStatisticsRequest),
            "RepositoryIndex": unary(self.repository_index, pb.RepositoryIndexRequest),
            "RepositoryModelLoad": unary(self.repository_model_load, pb.RepositoryModelLoadRequest),
            "RepositoryModelUnload": unary(self.repository_model_unload, pb.RepositoryModelUnloadRequest),
        }
        table.add_registered_method_handlers(OIP_SERVICE, methods)

    # -- server: answered like health, also while the server drains ----------------------------------------------

    async def server_live(self, _request: bytes, _context: Context) -> bytes:
        """Report that the server is alive."""
        return pb.ServerLiveResponse(live=True).SerializeToString()

    async def server_ready(self, _request: bytes, _context: Context) -> bytes:
        """Report whether the server is ready for predictions."""
        return pb.ServerReadyResponse(ready=self._ready()).SerializeToString()

    async def server_metadata(self, _request: pb.ServerMetadataRequest, _call: Call) -> pb.ServerMetadataResponse:
        """Describe the server: its name, and, to authenticated callers, its version."""
        known = self._config.token_file is not None or self._config.tls_client_ca is not None
        return pb.ServerMetadataResponse(
            name="torso", version=torso.__version__ if known else "", extensions=EXTENSIONS
        )

    # -- models --------------------------------------------------------------------------------------------------

    async def model_ready(self, request: pb.ModelReadyRequest, _call: Call) -> pb.ModelReadyResponse:
        """Report whether a model is served; false for an unknown one."""
        try:
            self._repository.get(request.name, request.version)
        except (UnknownModelError, UnavailableError):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def model_metadata(self, request: pb.ModelMetadataRequest, _call: Call) -> pb.ModelMetadataResponse:
        """Describe a model's tensors, the batch as their first axis."""
        model = _stateless(self._repository.get(request.name, request.version))
        signature = model.signature
        return pb.ModelMetadataResponse(
            name=model.name,
            versions=[other.version for other in self._repository.served if other.name == model.name],
            platform=_platform(model),
            inputs=[_metadata(signature.input)],
            outputs=[_metadata(output) for output in signature.outputs.values()],
        )

    async def model_config(self, request: pb.ModelConfigRequest, _call: Call) -> pb.ModelConfigResponse:
        """Describe a model in Triton's terms, shapes without the batch axis."""
        model = _stateless(self._repository.get(request.name, request.version))
        signature = model.signature
        return pb.ModelConfigResponse(
            config=pb.ModelConfig(
                name=model.name,
                platform=_platform(model),
                backend="torso",
                max_batch_size=self._config.max_batch_rows,
                input=[
                    pb.ModelInput(
                        name=signature.input.name, data_type=_data_type(signature.input), dims=signature.input.shape
                    )
                ],
                output=[
                    pb.ModelOutput(name=tensor.name, data_type=_data_type(tensor), dims=tensor.shape)
                    for tensor in signature.outputs.values()
                ],
                parameters={name: pb.ModelParameter(string_value=text) for name, text in signature.parameters.items()},
                dynamic_batching=pb.ModelDynamicBatching(max_queue_delay_microseconds=self._config.max_delay_us),
            )
        )

    async def model_infer(self, request: pb.ModelInferRequest, call: Call) -> bytes:
        """Compute a request's rows; returns a serialised ModelInferResponse."""
        model = self._repository.get(request.model_name, request.model_version)
        call.metrics = model.metrics
        _stateless(model)
        signature = model.signature
        requested = requested_outputs(request, signature)
        request_input = await self._handler.offload(call.is_heavy, check_input, request, signature)
        heavy = request_input.rows * signature.row_bytes > OFFLOAD_BYTES
        _, answers = await self._handler.compute(
            model.batcher, call, request_input.rows, SHAPE, heavy, read_input, request_input, signature
        )
        version = (model.name, model.version)
        if request_input.rows <= OFFLOAD_ROWS:
            return write_answer(version, request.id, model.predictor, signature, answers, requested)
        return await self._handler.offload(
            True, write_answer, version, request.id, model.predictor, signature, answers, requested
        )

    async def model_stream_infer(self, requests: Messages, call: Call) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """Compute a stream's requests concurrently; answers come in order, and an error ends only its request."""

        async def answer(data: bytes) -> pb.ModelStreamInferResponse:
            try:
                return await self._answer_message(call, data)
            finally:
                requests.answered(len(data))

        async with aclosing(in_order(requests, answer, max_concurrent=MAX_CONCURRENT)) as answers:
            async for answered in answers:
                yield answered

    async def _answer_message(self, stream: Call, data: bytes) -> pb.ModelStreamInferResponse:
        request = pb.ModelInferRequest()

        async def answer(call: Call) -> pb.ModelInferResponse:
            nonlocal request
            request = await self._handler.parse(pb.ModelInferRequest, data)
            return pb.ModelInferResponse.FromString(await self.model_infer(request, call))

        answered = await self._handler.message(stream, answer, len(data))
        if isinstance(answered, WireStatus):
            failed = pb.ModelInferResponse(id=request.id)
            return pb.ModelStreamInferResponse(error_message=answered.message, infer_response=failed)
        if request.parameters[FINAL_FLAG_REQUESTED].bool_param:
            answered.parameters[FINAL_FLAG].bool_param = True  # each request has one answer
        return pb.ModelStreamInferResponse(infer_response=answered)

    async def model_statistics(self, request: pb.ModelStatisticsRequest, _call: Call) -> pb.ModelStatisticsResponse:
        """Report the statistics of every served version, or of one model's, over all workers."""
        if request.name:
            self._repository.get(request.name, request.version)  # raises where there is none
        keys = [
            (model.name, model.version)
            for model in self._repository.served
            if request.name in ("", model.name) and request.version in ("", model.version)
        ]
        counts = await self._control.snapshot()
        return pb.ModelStatisticsResponse(
            model_stats=[model_statistics(*key, counts[key]) for key in keys if key in counts]
        )

    # -- repository ----------------------------------------------------------------------------------------------

    async def repository_index(self, request: pb.RepositoryIndexRequest, _call: Call) -> pb.RepositoryIndexResponse:
        """List every model of the repository, or those that are ready; only admins see errors' own texts."""
        _check_repository(request.repository_name)
        is_admin = current_caller.get().role == "admin"
        return pb.RepositoryIndexResponse(
            models=[
                pb.RepositoryIndexResponse.ModelIndex(
                    name=state.name,
                    version=state.version,
                    state=state.state,
                    reason=state.reason if is_admin else state.public_reason,
                )
                for state in await self._control.index()
                if state.state == "READY" or not request.ready
            ]
        )

    async def repository_model_load(
        self, request: pb.RepositoryModelLoadRequest, _call: Call
    ) -> pb.RepositoryModelLoadResponse:
        """Load a model, or load it anew; it is served by all workers when this returns."""
        _check_repository(request.repository_name)
        if request.parameters:
            got = ", ".join(quoted(name) for name in islice(request.parameters, SHOWN_NAMES))
            raise InputError("parameters", expected="empty: models are loaded as the repository has them", got=got)
        await self._control.load(request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def repository_model_unload(
        self, request: pb.RepositoryModelUnloadRequest, _call: Call
    ) -> pb.RepositoryModelUnloadResponse:
        """Unload a model; no worker serves it when this returns. Parameters are ignored: no model has dependents."""
        _check_repository(request.repository_name)
        await self._control.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()


def _stateless(model: ServedModel) -> ServedModel:
    """Return a model; WrongKindError for a recurrent policy, which would lose its state from request to request."""
    if model.records is not None:
        raise WrongKindError(
            f"model {model.name!r} is recurrent, and this protocol carries no state here; use {SERVICE}'s Act or "
            "ActStream"
        )
    return model


def _check_repository(name: str) -> None:
    if name:
        raise InputError("repository_name", expected="empty: there is one repository", got=quoted(name))


def _platform(model: ServedModel) -> str:
    return f"torso_{model.predictor.backend.name}"


def _metadata(tensor: TensorMetadata) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=tensor.name, datatype=tensor.datatype, shape=(-1, *tensor.shape)
    )


def _data_type(tensor: TensorMetadata) -> pb.DataType:
    number: pb.DataType = pb.DataType.Value(f"TYPE_{tensor.datatype}")  # type: ignore[assignment]  # it is an int
    return number
