"""``ActStream``: one observation a request, one action a response, in order, for as many episodes as a client plays.

Requests of different episodes are answered concurrently and so share batches; those of one episode one after the other,
since each depends on the episode's state after the one before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from contextlib import aclosing
from functools import partial

import grpc
from google.rpc import status_pb2

from torso.arrays import Array, ArrayState
from torso.errors import InputError, TorsoError, UnavailableError
from torso.proto import prediction_pb2 as pb
from torso.serve.config import ServeConfig
from torso.serve.models.repository import Repository
from torso.serve.models.served_model import ServedModel
from torso.serve.services.episodes import EpisodeRoom, Episodes, ServedEpisode, episode_bytes
from torso.serve.services.in_order import in_order
from torso.serve.services.request_handler import Call, RequestHandler
from torso.serve.services.stream_messages import Messages
from torso.serve.wire.status import WireStatus, to_wire
from torso.serve.wire.tensors import array_to_tensor, tensor_to_array

MAX_CONCURRENT = 64  # requests of one stream that are answered at once; further ones are not read


class ActStreams:
    """Servicer of the ActStream method."""

    def __init__(self, repository: Repository, handler: RequestHandler, config: ServeConfig) -> None:
        self._repository = repository
        self._handler = handler
        self._max_episodes = config.max_episodes
        self._room = EpisodeRoom(config.max_episodes_mib << 20)

    def add_to(self, methods: MutableMapping[str, grpc.RpcMethodHandler[bytes, bytes]]) -> None:
        """Add the method to a service's."""
        methods["ActStream"] = self._handler.stream(self.act_stream)

    async def act_stream(self, requests: Messages, call: Call) -> AsyncIterator[pb.ActStreamResponse]:
        """Answer a stream's requests, each with an action. Once the server shuts down, the first ends the stream."""
        episodes = Episodes(self._max_episodes, self._room, call.caller)
        stream = _Stream(self._repository, self._handler, episodes, requests, call)
        try:
            async with aclosing(in_order(stream.read(), stream.answer, max_concurrent=MAX_CONCURRENT)) as answers:
                async for answer in answers:
                    if answer is not None:
                        yield answer
        finally:
            episodes.close()


class _Stream:
    """State of one client's stream: its model and its episodes."""

    def __init__(
        self, repository: Repository, handler: RequestHandler, episodes: Episodes, messages: Messages, call: Call
    ) -> None:
        self._repository = repository
        self._handler = handler
        self._episodes = episodes
        self._messages = messages
        self._call = call
        self._model = ""
        self._version = ""
        self._latest: dict[int, asyncio.Future[None]] = {}  # by episode: done once its last request is answered

    async def read(self) -> AsyncIterator[tuple[pb.ActStreamRequest, int]]:
        """Decode requests; yield each with its bytes' number.

        One that cannot be parsed, or a first one that names no served policy, ends the stream.
        """
        async for data in self._messages:
            try:
                request = await self._handler.parse(pb.ActStreamRequest, data)
                if not self._model:
                    self._open(request)
            except TorsoError as error:
                self._call.metrics.ended(to_wire(error, self._call.method).code.name, 0.0)
                raise
            yield request, len(data)

    def _open(self, request: pb.ActStreamRequest) -> None:
        if not request.model:
            raise InputError("model", expected="given by name in a stream's first request", got="none")
        model = self._repository.get(request.model, request.version)
        self._call.metrics = model.metrics
        model.require("policy")
        self._model, self._version = request.model, request.version

    async def answer(self, sized_request: tuple[pb.ActStreamRequest, int]) -> pb.ActStreamResponse | None:
        """Answer a request, after the previous one of its episode; the end of an episode has no answer."""
        request, size = sized_request
        number, answered = request.episode, asyncio.get_running_loop().create_future()
        before, self._latest[number] = self._latest.get(number), answered
        try:
            if before is not None:
                await before
            if request.end and not request.HasField("observation"):
                self._episodes.end(number)
                return None
            response = await self._handler.message(self._call, partial(self._act, request), size)
        finally:
            self._messages.answered(size)
            if self._latest[number] is answered:
                del self._latest[number]
            if not answered.done():  # cancelled, with those that awaited it, where the stream ends
                answered.set_result(None)
        if not isinstance(response, WireStatus):
            return response
        if self._handler.closed:
            raise UnavailableError("the server is shutting down")  # clients must start anew on another server
        return pb.ActStreamResponse(episode=number, error=_details(response))

    async def _act(self, request: pb.ActStreamRequest, call: Call) -> pb.ActStreamResponse:
        model = self._repository.get(self._model, self._version)  # as it is served now
        call.metrics = self._call.metrics = model.metrics
        model.require("policy")
        self._check(request)
        seed = request.seed if request.HasField("seed") else None
        size = episode_bytes(model.predictor) if request.start else 0
        with self._episodes.acquire(request.episode, start=request.start, seed=seed, size=size) as episode:
            tensor = request.observation
            prepared, readout = await self._handler.compute(
                model.batcher, call, 1, "observation", call.is_heavy, _prepare, episode, model, tensor
            )
            state: ArrayState = ()
            if model.records is not None:
                (prepared, _), (readout, state) = model.records.unpack(prepared), model.records.unpack(readout)
            action = episode.advance(model.predictor, prepared, readout, request.epsilon, state)
        return pb.ActStreamResponse(
            episode=request.episode, action=action, values=array_to_tensor(readout[0]), version=model.version
        )

    def _check(self, request: pb.ActStreamRequest) -> None:
        for name, got, own in (("model", request.model, self._model), ("version", request.version, self._version)):
            if got not in ("", own):
                raise InputError(
                    name, expected=f"empty after a stream's first request, or again {own!r}", got=repr(got[:128])
                )
        if not 0 <= request.epsilon <= 1:
            raise InputError("epsilon", expected="a number in [0, 1]", got=str(request.epsilon))
        if request.end or not request.HasField("observation"):
            expected, got = ("unset with `end`", "a tensor") if request.end else ("a tensor", "none")
            raise InputError("observation", expected=expected, got=got)


def _prepare(episode: ServedEpisode, model: ServedModel, observation: pb.Tensor) -> Array:
    prepared = episode.prepare(model.predictor, tensor_to_array(observation, "observation"))
    return prepared if model.records is None else episode.pack(model.records, prepared)


def _details(refusal: WireStatus) -> status_pb2.Status:
    """Parse the details that a unary call would have in its trailing metadata."""
    return status_pb2.Status.FromString(refusal.trailing_metadata[0][1])
