"""Streams of actions for playing episodes: a blocking one, and one for asyncio.

The server holds an episode's frame stack, and a recurrent model's state, until the stream ends. Where a stream breaks,
its episodes are lost: start them again on another.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, suppress
from queue import SimpleQueue
from types import TracebackType
from typing import Any

import grpc
import grpc.aio
import numpy as np
from numpy.typing import ArrayLike, NDArray

from torso.errors import DeadlineError, InputError, InvalidRequestError, ServiceError, UnavailableError
from torso.proto import prediction_pb2 as pb
from torso.serve.client.arguments import check_timeout
from torso.serve.client.pool import Connection, Endpoint
from torso.serve.client.results import ModelInfo, StepResult
from torso.serve.client.stream_steps import METHOD, Steps, settle


class ActStream:
    """A stream to one model, safe to share between threads; ``with`` ends it. Made by `Client.act_stream`."""

    def __init__(
        self,
        connection: AbstractContextManager[Connection[grpc.Channel]],
        endpoint: Endpoint,
        timeout_s: float,
        info: ModelInfo,
        version: str,
        describe: Callable[[], ModelInfo],
    ) -> None:
        self._steps = Steps(info, version)
        self._describe = describe
        self._timeout_s = _wait_limit(timeout_s)
        self._endpoint = endpoint
        self._exit_stack = ExitStack()  # the connection, until the stream is closed
        self._outgoing: SimpleQueue[pb.ActStreamRequest | None] = SimpleQueue()
        self._pending: deque[Future[StepResult]] = deque()
        self._lock = threading.Lock()
        self._error: ServiceError | None = None
        method = self._exit_stack.enter_context(connection).channel.stream_stream(*METHOD)
        self._call = method(iter(self._outgoing.get, None), metadata=endpoint.metadata)
        self._reading = threading.Thread(target=self._read, name="act-stream", daemon=True)
        self._reading.start()

    def act(
        self,
        observation: ArrayLike,
        *,
        episode: int = 0,
        start: bool = False,
        epsilon: float = 0.0,
        seed: int | None = None,
        timeout_s: float | None = None,
    ) -> StepResult:
        """Choose an action by an episode's next observation.

        observation: one, as the model takes it or, where ``ModelInfo.takes_frames``, its newest frame alone,
        [84, 84], or an Atari step's last two raw ones, uint8 [2, H, 160, 3]. episode: a number for it, of your choice.
        start: the episode begins with this observation. epsilon: the probability of an action drawn evenly from all;
        ``seed`` with ``start``: the seed of the episode's draws.

        Raises the errors of `Client.act`, after which the episode is as it was; WrongKindError also for an episode that
        was not started; DeadlineError where no answer comes in time, and none knows how far the episode is.
        """
        limit_s = self._timeout_s if timeout_s is None else _wait_limit(check_timeout(timeout_s))

        def act() -> StepResult:
            future = self.submit(observation, episode=episode, start=start, epsilon=epsilon, seed=seed)
            try:
                return future.result(limit_s)
            except TimeoutError:
                raise _deadline_error(limit_s) from None

        try:
            return act()
        except (InputError, InvalidRequestError):
            if not self._steps.adapt(self._describe()):
                raise
        return act()  # the model was replaced by one that takes other observations

    def submit(
        self,
        observation: ArrayLike,
        *,
        episode: int = 0,
        start: bool = False,
        epsilon: float = 0.0,
        seed: int | None = None,
    ) -> Future[StepResult]:
        """Do as `act` without waiting: several episodes' requests share batches. The server reads 64 ahead."""
        future: Future[StepResult] = Future()
        future.set_running_or_notify_cancel()  # what is sent cannot be cancelled
        request = self._steps.step(observation, episode, start, epsilon, seed)
        with self._lock:
            if self._error is not None:
                raise self._error
            self._pending.append(future)
            self._outgoing.put(self._steps.with_model(request))
        return future

    def act_together(
        self, observations: NDArray[Any], state: tuple[NDArray[np.int64], ...] = (), *, epsilon: float = 0.0
    ) -> tuple[NDArray[np.int64], tuple[NDArray[np.int64], ...]]:
        """Choose an action in each of several envs: int64 [B], and the next ``state``, the episodes' numbers.

        observations: [B, ...], each as `act` takes it. state: as the previous call returned it; ``()`` starts an
        episode in each env, and drops the previous ones.
        """
        start = not state
        numbers = np.arange(len(observations)) if start else state[0]
        futures = [
            self.submit(observation, episode=int(number), start=start, epsilon=epsilon)
            for observation, number in zip(observations, numbers, strict=True)
        ]
        try:
            actions = [each.result(self._timeout_s).action for each in futures]
        except TimeoutError:
            raise _deadline_error(self._timeout_s) from None
        return np.array(actions, dtype=np.int64), (numbers,)

    def end(self, episode: int = 0) -> None:
        """End an episode on the server."""
        request = self._steps.end(episode)
        with self._lock:
            if self._error is not None:
                raise self._error
            self._outgoing.put(self._steps.with_model(request))

    def close(self) -> None:
        """Close the stream, once all sent requests are answered."""
        self._outgoing.put(None)
        self._reading.join(self._timeout_s)
        self._cancel()

    def _cancel(self) -> None:
        self._call.cancel()
        self._outgoing.put(None)
        self._reading.join()
        self._exit_stack.close()

    def _read(self) -> None:
        """Resolve the pending futures, in order; runs in the stream's own thread."""
        error: ServiceError = UnavailableError("the stream has ended", status="UNAVAILABLE")
        try:
            for response in self._call:
                settle(self._pending.popleft(), response)
        except grpc.RpcError as failure:
            error = self._endpoint.error(failure)
        with self._lock:
            self._error = error
        for future in self._pending:
            future.set_exception(error)

    def __enter__(self) -> ActStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._cancel()


class AsyncActStream:
    """`ActStream` for asyncio: several `act` at once share batches. Made by `AsyncClient.act_stream`."""

    def __init__(
        self,
        connection: AbstractContextManager[Connection[grpc.aio.Channel]],
        endpoint: Endpoint,
        timeout_s: float,
        describe: Callable[[], Awaitable[ModelInfo]],
        version: str,
    ) -> None:
        self._connection = connection
        self._exit_stack = ExitStack()
        self._endpoint = endpoint
        self._timeout_s = _wait_limit(timeout_s)
        self._describe = describe
        self._version = version
        self._outgoing: asyncio.Queue[pb.ActStreamRequest | None] = asyncio.Queue()
        self._pending: deque[asyncio.Future[StepResult]] = deque()
        self._error: ServiceError | None = None

    async def act(
        self,
        observation: ArrayLike,
        *,
        episode: int = 0,
        start: bool = False,
        epsilon: float = 0.0,
        seed: int | None = None,
        timeout_s: float | None = None,
    ) -> StepResult:
        """See `ActStream.act`."""
        limit_s = self._timeout_s if timeout_s is None else _wait_limit(check_timeout(timeout_s))

        async def act() -> StepResult:
            request = self._steps.step(observation, episode, start, epsilon, seed)
            if self._error is not None:
                raise self._error
            future: asyncio.Future[StepResult] = asyncio.get_running_loop().create_future()
            self._pending.append(future)
            self._outgoing.put_nowait(self._steps.with_model(request))
            try:
                async with asyncio.timeout(limit_s):
                    return await future
            except TimeoutError:
                raise _deadline_error(limit_s) from None

        try:
            return await act()
        except (InputError, InvalidRequestError):
            if not self._steps.adapt(await self._describe()):
                raise
        return await act()  # the model was replaced by one that takes other observations

    async def end(self, episode: int = 0) -> None:
        """See `ActStream.end`."""
        request = self._steps.end(episode)
        if self._error is not None:
            raise self._error
        self._outgoing.put_nowait(self._steps.with_model(request))

    async def close(self) -> None:
        """See `ActStream.close`."""
        self._outgoing.put_nowait(None)
        await asyncio.wait((self._reading,), timeout=self._timeout_s)
        await self._cancel()

    async def _cancel(self) -> None:
        self._call.cancel()
        self._writing.cancel()
        await asyncio.wait((self._reading, self._writing))
        self._exit_stack.close()

    async def _write(self) -> None:
        # A task of its own: a write that is cancelled, as with an `act` that was not awaited, would cancel the stream.
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # `_read` gets the reason
            while (request := await self._outgoing.get()) is not None:
                await self._call.write(request)
            await self._call.done_writing()

    async def _read(self) -> None:
        error: ServiceError = UnavailableError("the stream has ended", status="UNAVAILABLE")
        try:
            async for response in self._call:
                settle(self._pending.popleft(), response)
        except grpc.aio.AioRpcError as failure:
            error = self._endpoint.error(failure)
        except asyncio.CancelledError:  # closed, or the channel is
            error = UnavailableError("the stream is closed", status="UNAVAILABLE")
        self._error = error
        for future in self._pending:
            if not future.done():
                future.set_exception(error)

    async def __aenter__(self) -> AsyncActStream:
        self._steps = Steps(await self._describe(), self._version)
        method = self._exit_stack.enter_context(self._connection).channel.stream_stream(*METHOD)
        self._call = method(metadata=self._endpoint.metadata)
        self._reading = asyncio.ensure_future(self._read())
        self._writing = asyncio.ensure_future(self._write())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            await self.close()
        else:
            await self._cancel()


def _wait_limit(timeout_s: float) -> float | None:
    """Convert a checked timeout to what waits take: None where there is no limit."""
    return None if timeout_s == math.inf else timeout_s


def _deadline_error(limit_s: float | None) -> DeadlineError:
    return DeadlineError(f"no answer within {limit_s:g} s", status="DEADLINE_EXCEEDED")
