"""``ActStream``: one observation a request, one action a response, in order, for as many episodes as a client plays.

Requests of different episodes are answered concurrently and so share batches; those of one episode one after the other,
since each depends on the episode's state after the one before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from contextlib import aclosing, suppress
from functools import partial

import grpc
import grpc.aio
from google.rpc import status_pb2

from torso.arrays import Array, ArrayState
from torso.errors import DeadlineError, InputError, TorsoError, UnavailableError
from torso.proto import prediction_pb2 as pb
from torso.serve.config import ServeConfig
from torso.serve.models.repository import Repository
from torso.serve.models.served_model import ServedModel
from torso.serve.services.episodes import Episodes, ServedEpisode
from torso.serve.services.in_order import in_order
from torso.serve.services.request_handler import OFFLOAD_BYTES, Call, RequestHandler
from torso.serve.wire.messages import parse_message
from torso.serve.wire.status import WireStatus, to_wire
from torso.serve.wire.tensors import array_to_tensor, tensor_to_array

MAX_CONCURRENT = 64  # requests of one stream that are answered at once; further ones are not read
STATUS_S = 0.1  # the most seconds that sending a status may take where the client does not read


class ActStreams:
    """Servicer of the ActStream method."""

    def __init__(self, repository: Repository, handler: RequestHandler, config: ServeConfig) -> None:
        self._repository = repository
        self._handler = handler
        self._config = config

    def add_to(self, methods: MutableMapping[str, grpc.RpcMethodHandler[bytes, bytes]]) -> None:
        """Add the method to a service's."""
        methods["ActStream"] = self._handler.stream(self.act_stream)

    async def act_stream(self, requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[pb.ActStreamResponse]:
        """Answer a stream's requests, each with an action.

        A stream without requests for ``stream_idle_s`` ends; one whose client does not read answers, either, is aborted
        after twice that. Once the server shuts down, the first request ends the stream.
        """
        idle_s = self._config.stream_idle_s
        stream = _Stream(self._repository, self._handler, self._config.max_episodes, call)
        watchdog = _Watchdog(call, 2 * idle_s)
        try:
            read = stream.read(_until_idle(requests, idle_s, watchdog))
            async with aclosing(in_order(read, stream.answer, max_concurrent=MAX_CONCURRENT)) as answers:
                async for answer in answers:
                    if answer is not None:
                        yield answer
                        watchdog.reset()
        finally:
            watchdog.stop()


class _Stream:
    """State of one client's stream: its model and its episodes."""

    def __init__(self, repository: Repository, handler: RequestHandler, max_episodes: int, call: Call) -> None:
        self._repository = repository
        self._handler = handler
        self._call = call
        self._model = ""
        self._version = ""
        self._episodes = Episodes(max_episodes)
        self._latest: dict[int, asyncio.Future[None]] = {}  # by episode: done once its last request is answered

    async def read(self, messages: AsyncIterator[bytes]) -> AsyncIterator[pb.ActStreamRequest]:
        """Decode requests. One that cannot be parsed, or a first one that names no served policy, ends the stream."""
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
            raise InputError("model", expected="given by name in a stream's first request", got="none")
        model = self._repository.get(request.model, request.version)
        self._call.metrics = model.metrics
        model.require("policy")
        self._model, self._version = request.model, request.version

    async def answer(self, request: pb.ActStreamRequest) -> pb.ActStreamResponse | None:
        """Answer a request, after the previous one of its episode; the end of an episode has no answer."""
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
        with self._episodes.acquire(request.episode, start=request.start, seed=seed) as episode:
            tensor = request.observation
            heavy = len(tensor.data) > OFFLOAD_BYTES
            prepared, readout = await self._handler.compute(
                model.batcher, call, 1, "observation", heavy, _prepare, episode, model, tensor
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


class _Watchdog:
    """Watchdog timer: abort the call of the current task once `reset` was not called for so many seconds."""

    def __init__(self, call: Call, seconds: float) -> None:
        self._context = call.context
        self._task = asyncio.current_task()
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._timer = self._loop.call_later(seconds, self._check_idle)
        self._aborting: asyncio.Task[None] | None = None

    def reset(self) -> None:
        self._last = self._loop.time()

    def stop(self) -> None:
        self._timer.cancel()

    def _check_idle(self) -> None:
        left_s = self._last + self._seconds - self._loop.time()
        if left_s > 0:
            self._timer = self._loop.call_later(left_s, self._check_idle)
        else:
            self._aborting = asyncio.ensure_future(self._abort_stream())

    async def _abort_stream(self) -> None:
        # Cancelling alone would send the caller no status at all. gRPC sends it, behind the answers that the client
        # does not read, where it can; waiting for that could take forever.
        with suppress(grpc.aio.AbortError, grpc.aio.UsageError, TimeoutError):
            async with asyncio.timeout(STATUS_S):
                await self._context.abort(
                    grpc.StatusCode.DEADLINE_EXCEEDED, "the client did not read the stream's answers"
                )
        if self._task is not None:
            self._task.cancel()


async def _until_idle(messages: AsyncIterator[bytes], idle_s: float, watchdog: _Watchdog) -> AsyncIterator[bytes]:
    """Yield messages; DeadlineError once none has come for ``idle_s`` seconds."""
    while True:
        try:
            async with asyncio.timeout(idle_s):
                data = await anext(messages)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise DeadlineError(f"the stream had no request for {idle_s:g} s") from None
        watchdog.reset()
        yield data


def _prepare(episode: ServedEpisode, model: ServedModel, observation: pb.Tensor) -> Array:
    prepared = episode.prepare(model.predictor, tensor_to_array(observation, "observation"))
    return prepared if model.records is None else episode.pack(model.records, prepared)


def _details(refusal: WireStatus) -> status_pb2.Status:
    """Parse the details that a unary call would have in its trailing metadata."""
    return status_pb2.Status.FromString(refusal.trailing_metadata[0][1])
