"""Servicer of ``torso.v1.PredictionService``: validate, predict, encode the response.

Validation comes before queueing: no request can fail the batch that it is computed in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torso.arrays import Array, ArrayState
from torso.errors import InputError
from torso.pictures import count_pixels
from torso.proto import prediction_pb2 as pb
from torso.serve.config import ServeConfig
from torso.serve.inference.state_records import StateRecords
from torso.serve.models.repository import Repository
from torso.serve.models.served_model import ServedModel
from torso.serve.services.act_stream import ActStreams
from torso.serve.services.callers import current_caller
from torso.serve.services.method_table import MethodTable
from torso.serve.services.request_handler import Call, RequestHandler
from torso.serve.wire.tensors import INPUTS, KINDS, READOUTS, SERVICE, array_to_tensor, tensor_to_array

OFFLOAD_ROWS = 256
IMAGES = "images.encoded"


class PredictionServicer:
    """Servicer of torso's own methods."""

    def __init__(self, repository: Repository, handler: RequestHandler, config: ServeConfig) -> None:
        self._repository = repository
        self._handler = handler
        self._max_pixels = config.max_request_pixels
        self._streams = ActStreams(repository, handler, config)

    def add_to(self, table: MethodTable) -> None:
        """Register the methods. Messages pass as bytes: the request handler decodes and encodes them."""
        methods = {
            "Classify": self._handler.unary(self.classify, pb.ClassifyRequest),
            "Act": self._handler.unary(self.act, pb.ActRequest),
            "ListModels": self._handler.unary(self.list_models, pb.ListModelsRequest),
            "GetModel": self._handler.unary(self.get_model, pb.GetModelRequest),
        }
        self._streams.add_to(methods)
        table.add_registered_method_handlers(SERVICE, methods)

    # -- methods ----------------------------------------------------------------------------------------------------

    async def classify(self, request: pb.ClassifyRequest, call: Call) -> pb.ClassifyResponse | bytes:
        """Classify each row: its ``top_k`` labels with their probabilities."""
        model = self._repository.get(request.model, request.version)
        call.metrics = model.metrics  # whatever becomes of the call
        model.require("classifier")
        top_k = request.top_k if request.HasField("top_k") else 1
        if top_k < 1:
            raise InputError("top_k", expected="at least 1", got=str(top_k))
        match request.WhichOneof("inputs"):
            case "tensor":
                predicting = self._predict(model, request.tensor, "tensor", call)
            case "images":
                predicting = self._predict_images(model, list(request.images.encoded), call)
            case _:
                raise InputError("inputs", expected="a tensor or images", got="neither")
        del request  # a large one is not kept while it is computed
        answers = await predicting
        if len(answers) <= OFFLOAD_ROWS:
            return _rank(model, answers, top_k)
        return await self._handler.offload(True, _serialised_ranks, model, answers, top_k)

    async def act(self, request: pb.ActRequest, call: Call) -> pb.ActResponse:
        """Choose each row's greedy action; a recurrent model's next state is part of the answer."""
        model = self._repository.get(request.model, request.version)
        call.metrics = model.metrics  # whatever becomes of the call
        model.require("policy")
        if not request.HasField("observations"):
            raise InputError("observations", expected="a tensor", got="none")
        state: ArrayState = ()
        if model.records is not None:
            values, state = await self._step(model, model.records, request, call)
        elif request.state:
            raise InputError(
                "state", expected="empty: this model is not recurrent", got=f"{len(request.state)} tensors"
            )
        else:
            predicting = self._predict(model, request.observations, "observations", call)
            del request  # as above
            values = await predicting
        actions = model.predictor.greedy(values)
        response = pb.ActResponse(actions=actions.tolist(), values=array_to_tensor(values), version=model.version)
        if state:
            response.state.extend(map(array_to_tensor, state))
        return response

    async def list_models(self, _request: pb.ListModelsRequest, _call: Call) -> pb.ListModelsResponse:
        """List the served versions of all models."""
        summaries = [
            pb.ModelSummary(name=model.name, version=model.version, kind=KINDS[model.predictor.kind])
            for model in self._repository.served
        ]
        return pb.ListModelsResponse(models=summaries)

    async def get_model(self, request: pb.GetModelRequest, _call: Call) -> pb.GetModelResponse:
        """Describe one model, with its whole provenance for admins."""
        return model_description(
            self._repository.get(request.model, request.version), is_for_admin=current_caller.get().role == "admin"
        )

    # -- stages --------------------------------------------------------------------------------------------------------

    async def _predict(self, model: ServedModel, tensor: pb.Tensor, field: str, call: Call) -> NDArray[np.float32]:
        """Validate a tensor and compute its rows, [B, K]. They count as queued before anything is done for them."""
        rows = _claimed_rows(tensor)
        where = f"{field}.shape"
        computing = self._handler.compute(
            model.batcher, call, rows, where, call.is_heavy, _prepare, model, tensor, field
        )
        del tensor
        _, answers = await computing
        return answers

    async def _step(
        self, model: ServedModel, records: StateRecords, request: pb.ActRequest, call: Call
    ) -> tuple[NDArray[np.float32], ArrayState]:
        """Validate observations and states, and compute their rows, [B, A], and the next state, as `_predict` does."""
        rows = _claimed_rows(request.observations)
        where = "observations.shape"
        _, answers = await self._handler.compute(
            model.batcher, call, rows, where, call.is_heavy, _prepare_step, model, records, request
        )
        return records.unpack(answers)

    async def _predict_images(self, model: ServedModel, images: list[bytes], call: Call) -> NDArray[np.float32]:
        """Decode image files and compute their rows, [B, K]. They count as queued before any is decoded."""
        caller = call.caller
        with model.batcher.admit(len(images), IMAGES, caller.key, caller.limited) as admission:
            pixels = await self._handler.decode_images(0, _count_pixels, model, images, self._max_pixels, call)
            inputs = await self._handler.decode_images(pixels, _prepare_images, model, images, call)
            return await model.batcher.submit(inputs, admission, call.deadline)


def _claimed_rows(tensor: pb.Tensor) -> int:
    """Return the rows that a tensor's shape claims; validation checks it."""
    return max(tensor.shape[0], 0) if tensor.shape else 0


def _prepare(model: ServedModel, tensor: pb.Tensor, field: str) -> Array:
    return model.predictor.prepare(tensor_to_array(tensor, field), strict=True, field=field)


def _prepare_step(model: ServedModel, records: StateRecords, request: pb.ActRequest) -> Array:
    observations = _prepare(model, request.observations, "observations")
    state = [tensor_to_array(tensor, f"state[{index}]") for index, tensor in enumerate(request.state)]
    return records.pack(observations, state)


def _count_pixels(model: ServedModel, images: list[bytes], max_pixels: int, call: Call) -> int:
    """Count the pixels of image files by their headers, as long as their caller waits; InputError on too many."""
    pixels = 0
    if model.predictor.input.image is not None:
        for index, data in enumerate(images):
            call.check_wanted()
            pixels += count_pixels(data, field=f"{IMAGES}[{index}]")
            if pixels > max_pixels:
                got = f"{pixels} in the first {index + 1} of {len(images)} images"
                raise InputError(IMAGES, expected=f"images of at most {max_pixels} pixels in all", got=got)
    return pixels


def _prepare_images(model: ServedModel, images: list[bytes], call: Call) -> Array:
    """Decode image files, [B, *shape], as long as their caller waits."""
    return model.predictor.prepare_images(images, field=IMAGES, before_each=call.check_wanted)


def _rank(model: ServedModel, answers: NDArray[np.float32], top_k: int) -> pb.ClassifyResponse:
    labels = [str(label) for label in model.predictor.labels]
    indices, probabilities = model.predictor.top_k(answers, top_k)
    rows = [
        pb.Ranking(labels=[labels[index] for index in row], indices=row, probabilities=best)
        for row, best in zip(indices.tolist(), probabilities.tolist(), strict=True)
    ]
    return pb.ClassifyResponse(rows=rows, version=model.version)


def _serialised_ranks(model: ServedModel, answers: NDArray[np.float32], top_k: int) -> bytes:
    return _rank(model, answers, top_k).SerializeToString()


def model_description(model: ServedModel, *, is_for_admin: bool = True) -> pb.GetModelResponse:
    """Describe a model: inputs, outputs, a recurrent policy's state in both, labels, provenance, backend.

    is_for_admin: whether the provenance is whole; others learn what an agent needs to act in the env of the training.
    """
    predictor = model.predictor
    spec, provenance = predictor.input, predictor.card.provenance
    state = (
        []
        if model.records is None
        else [
            pb.TensorInfo(name=f"state_{index}", dtype=part.dtype.name, shape=[-1, *part.shape[1:]])
            for index, part in enumerate(predictor.initial_state)
        ]
    )
    description = pb.GetModelResponse(
        name=model.name,
        version=model.version,
        kind=KINDS[predictor.kind],
        inputs=[
            pb.TensorInfo(name=INPUTS[predictor.kind], dtype=spec.dtype, shape=[-1, *spec.shape]),
            *state,
        ],
        outputs=[
            pb.TensorInfo(name=READOUTS[predictor.kind], dtype="float32", shape=[-1, predictor.num_outputs]),
            *state,
        ],
        labels=[str(label) for label in predictor.labels] if predictor.kind == "classifier" else [],
        feature_names=predictor.card.feature_names,
        provenance={
            str(key): value if isinstance(value, str) else json.dumps(value)
            for key, value in (provenance if is_for_admin else _public_provenance(provenance)).items()
        },
        backend=predictor.backend.name,
    )
    if predictor.kind == "policy":
        description.action_start = predictor.card.action_start
    if predictor.observation_space is not None:
        description.observation_space = json.dumps(predictor.observation_space.to_json())
    if spec.image is not None:
        image = {name: getattr(spec.image, name) for name in pb.ImageInfo.DESCRIPTOR.fields_by_name}
        description.image.CopyFrom(pb.ImageInfo(**image))
    return description


def _public_provenance(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Select what any caller may see of a provenance: algorithm and env, without the module that registers it."""
    public = {name: provenance[name] for name in ("env_id", "env_kwargs", "wrappers") if name in provenance}
    if isinstance(env_id := public.get("env_id"), str):
        public["env_id"] = env_id.rpartition(":")[2]
    config = provenance.get("config")
    algorithm = config.get("algorithm") if isinstance(config, Mapping) else None
    return public if algorithm is None else {**public, "algorithm": str(algorithm)}
