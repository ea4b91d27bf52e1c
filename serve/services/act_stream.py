"""``ActStream``: an observation a request, an action a response, in order, for as many episodes as a client plays.

Requests of different episodes are answered side by side and so share batches; those of one episode one after the other,
since each builds on what was held after the one before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from contextlib import aclosing, suppress
from functools import partial

import grpc
import grpc.aio
import numpy as np
from google.rpc import status_pb2
from numpy.typing import NDArray

from torso.errors import DeadlineError, InputError, TorsoError, UnavailableError
from torso.nets import Predictor
from torso.proto import prediction_pb2 as pb
from torso.serve.config import ServeConfig
from torso.serve.models.repository import Repository
from torso.serve.services.episodes import Episodes, ServedEpisode
from torso.serve.services.in_order import in_order
from torso.serve.services.request_handler import OFFLOAD_BYTES, Call, RequestHandler
from torso.serve.wire.messages import parse_message
from torso.serve.wire.status import WireStatus, to_wire
from torso.serve.wire.tensors import array_to_tensor, tensor_to_array

AT_ONCE = 64  # requests of one stream that are under way; further ones are not read
STATUS_S = 0.1  # what a status may take to leave where nobody reads


class ActStreams:
    """Answers ActStream."""

    def __init__(self, repository: Repository, handler: RequestHandler, config: ServeConfig) -> None:
        self._repository = repository
        self._handler = handler
        self._config = config

    def add_to(self, methods: MutableMapping[str, grpc.RpcMethodHandler[bytes, bytes]]) -> None:
        """Put the method among a service's."""
        methods["ActStream"] = self._handler.stream(self.act_stream)

    async def act_stream(self, requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[pb.ActStreamResponse]:
        """Play episodes.

        A stream without requests for ``stream_idle_s`` ends; one whose answers nobody takes, either, is cut off after
        twice that. Once the server ends, the first request ends the stream.
        """
        idle_s = self._config.stream_idle_s
        stream = _Stream(self._repository, self._handler, self._config.max_episodes, call)
        watch = _Watch(call, 2 * idle_s)
        try:
            read = stream.read(_until_idle(requests, idle_s, watch))
            async with aclosing(in_order(read, stream.answer, at_once=AT_ONCE)) as answers:
                async for answer in answers:
                    if answer is not None:
                        yield answer
                        watch.moved()
        finally:
            watch.stop()


class _Stream:
    """One client's stream: its model and its episodes."""

    def __init__(self, repository: Repository, handler: RequestHandler, max_episodes: int, call: Call) -> None:
        self._repository = repository
        self._handler = handler
        self._call = call
        self._model = ""
        self._version = ""
        self._episodes = Episodes(max_episodes)
        self._latest: dict[int, asyncio.Future[None]] = {}  # by episode: that its last request is answered

    async def read(self, messages: AsyncIterator[bytes]) -> AsyncIterator[pb.ActStreamRequest]:
        """Decode requests. What cannot be read, or a first request that names no policy of ours, ends the stream."""
        async for data in messages:
            try:
                heavy = len(data) > OFFLOAD_BYTES
                request = await self._handler.offload(heavy, parse_message, pb.ActStreamRequest, data)
                if not self._model:
                    self._open(request)
            except TorsoError as error:
                self._call.metrics.ended(to_wire(error, self._call.method).code.name, 0.0)
                raise
            yield request

    def _open(self, request: pb.ActStreamRequest) -> None:
        if not request.model:
            raise InputError("model", expected="a model's name in a stream's first request", got="none")
        model = self._repository.get(request.model, request.version)
        self._call.metrics = model.metrics
        model.require("policy")
        self._model, self._version = request.model, request.version

    async def answer(self, request: pb.ActStreamRequest) -> pb.ActStreamResponse | None:
        """Answer a request, after the one before of its episode; an end has no answer."""
        number, answered = request.episode, asyncio.get_running_loop().create_future()
        before, self._latest[number] = self._latest.get(number), answered
        try:
            if before is not None:
                await before
            if request.end and not request.HasField("observation"):
                self._episodes.end(number)
                return None
            response = await self._handler.message(self._call, partial(self._act, request))
        finally:
            if self._latest[number] is answered:
                del self._latest[number]
            if not answered.done():  # cancelled, with who waited for it, where the stream ends
                answered.set_result(None)
        if not isinstance(response, WireStatus):
            return response
        if self._handler.closed:
            raise UnavailableError("the server is shutting down")  # whoever plays must go elsewhere, and begin anew
        return pb.ActStreamResponse(episode=number, error=_details(response))

    async def _act(self, request: pb.ActStreamRequest, call: Call) -> pb.ActStreamResponse:
        model = self._repository.get(self._model, self._version)  # as it is served now
        call.metrics = self._call.metrics = model.metrics
        predictor = model.require("policy").predictor
        self._check(request)
        seed = request.seed if request.HasField("seed") else None
        with self._episodes.turn(request.episode, start=request.start, seed=seed) as episode:
            tensor = request.observation
            heavy = len(tensor.data) > OFFLOAD_BYTES
            prepared, readout = await self._handler.compute(
                model.batcher, call, 1, "observation", heavy, _prepare, episode, predictor, tensor
            )
            action = episode.advance(predictor, prepared, readout, request.epsilon)
        return pb.ActStreamResponse(
            episode=request.episode, action=action, values=array_to_tensor(readout[0]), version=model.version
        )

    def _check(self, request: pb.ActStreamRequest) -> None:
        for name, got, own in (("model", request.model, self._model), ("version", request.version, self._version)):
            if got not in ("", own):
                raise InputError(name, expected=f"none after a stream's first request, {own!r}", got=repr(got[:128]))
        if not 0 <= request.epsilon <= 1:
            raise InputError("epsilon", expected="a number in [0, 1]", got=str(request.epsilon))
        if request.end or not request.HasField("observation"):
            expected, got = ("none with `end`", "one") if request.end else ("a tensor", "none")
            raise InputError("observation", expected=expected, got=got)


class _Watch:
    """Cuts the call off whose task it is made in, once nothing has moved for so many seconds."""

    def __init__(self, call: Call, seconds: float) -> None:
        self._context = call.context
        self._task = asyncio.current_task()
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._timer = self._loop.call_later(seconds, self._look)
        self._ending: asyncio.Task[None] | None = None

    def moved(self) -> None:
        self._last = self._loop.time()

    def stop(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        left_s = self._last + self._seconds - self._loop.time()
        if left_s > 0:
            self._timer = self._loop.call_later(left_s, self._look)
        else:
            self._ending = asyncio.ensure_future(self._cut_off())

    async def _cut_off(self) -> None:
        # Cancelling alone would tell the caller nothing, ever. The status leaves, behind the answers that nobody takes,
        # where gRPC can send it; waiting for that has no end.
        with suppress(grpc.aio.AbortError, grpc.aio.UsageError, TimeoutError):
            async with asyncio.timeout(STATUS_S):
                await self._context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "nobody took the stream's answers")
        if self._task is not None:
            self._task.cancel()


async def _until_idle(messages: AsyncIterator[bytes], idle_s: float, watch: _Watch) -> AsyncIterator[bytes]:
    """What comes, for as long as something does; DeadlineError then."""
    while True:
        try:
            async with asyncio.timeout(idle_s):
                data = await anext(messages)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise DeadlineError(f"the stream had no request for {idle_s:g} s") from None
        watch.moved()
        yield data


def _prepare(episode: ServedEpisode, predictor: Predictor, observation: pb.Tensor) -> NDArray[np.generic]:
    return episode.prepare(predictor, tensor_to_array(observation, "observation"))


def _details(refusal: WireStatus) -> status_pb2.Status:
    """What a unary call's caller would find in its trailing metadata."""
    return status_pb2.Status.FromString(refusal.trailing_metadata[0][1])
