"""Asyncio client of the prediction service, the twin of `torso.serve.client.sync_client`."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import grpc.aio
from numpy.typing import ArrayLike

from torso.errors import ServiceError
from torso.serve.client.arguments import check_count, check_timeout
from torso.serve.client.operations import Operation, Operations, Pause, UnaryCall
from torso.serve.client.pipelined import IN_FLIGHT, ROWS, Inputs, check_sizes, chunked, pipelined_async
from torso.serve.client.pool import ConnectionPool, Endpoint
from torso.serve.client.results import ActResult, ClassifyResult, ModelInfo, ModelSummary
from torso.serve.client.retries import RETRIES, RetryPolicy, check_policy, with_retries
from torso.serve.client.streams import AsyncActStream

T = TypeVar("T")


class AsyncClient:
    """`Client` for asyncio: the same operations, awaited. Create it inside the running loop.

    `classify_many` and `act_many` are for ``async for``, streams for ``async with``.
    """

    def __init__(
        self,
        address: str,
        token: str | None = None,
        *,
        timeout_s: float = 30.0,
        tls: bool = False,
        tls_ca: str | Path | None = None,
        tls_cert: str | Path | None = None,
        tls_key: str | Path | None = None,
        connections: int = 1,
        retries: RetryPolicy = RETRIES,
    ) -> None:
        self._timeout_s = check_timeout(timeout_s)
        self._retries = check_policy(retries)
        self._endpoint = Endpoint(address, token, tls=tls, tls_ca=tls_ca, tls_cert=tls_cert, tls_key=tls_key)
        self._operations = Operations()
        self._pool = ConnectionPool(
            [self._endpoint.aio_channel() for _ in range(check_count("connections", connections))]
        )

    async def classify(
        self, model: str, inputs: ArrayLike, top_k: int = 1, *, version: str = "", timeout_s: float | None = None
    ) -> ClassifyResult:
        """Classify rows. inputs: [B, *shape], one input without the batch, or flat rows, of any dtype that fits."""
        return await self._run(self._operations.classify(model, inputs, top_k, version), timeout_s)

    async def classify_images(
        self, model: str, images: Sequence[bytes], top_k: int = 1, *, version: str = "", timeout_s: float | None = None
    ) -> ClassifyResult:
        """Classify PNG or JPEG files, given as their bytes."""
        return await self._run(self._operations.classify_images(model, images, top_k, version), timeout_s)

    async def act(
        self,
        model: str,
        observations: ArrayLike,
        state: Sequence[ArrayLike] = (),
        *,
        version: str = "",
        timeout_s: float | None = None,
    ) -> ActResult:
        """Choose the greedy action of each row. observations: as `classify` takes inputs; one gives a batch of one.

        state: for a recurrent model, the last result's ``state``, a row an observation; none at an episode's start.
        """
        return await self._run(self._operations.act(model, observations, state, version), timeout_s)

    def classify_many(
        self,
        model: str,
        inputs: Inputs,
        top_k: int = 1,
        *,
        rows: int = ROWS,
        in_flight: int = IN_FLIGHT,
        version: str = "",
        timeout_s: float | None = None,
    ) -> AsyncIterator[ClassifyResult]:
        """Classify an array of [N, ...], or an iterable of single inputs, in requests of ``rows`` rows.

        Yields each request's result, in order, with up to ``in_flight`` in flight; ``timeout_s`` is each request's.
        """
        check_sizes(rows, in_flight)
        return pipelined_async(
            chunked(inputs, rows, "tensor"),
            lambda chunk: self.classify(model, chunk, top_k, version=version, timeout_s=timeout_s),
            in_flight,
        )

    def act_many(
        self,
        model: str,
        observations: Inputs,
        *,
        rows: int = ROWS,
        in_flight: int = IN_FLIGHT,
        version: str = "",
        timeout_s: float | None = None,
    ) -> AsyncIterator[ActResult]:
        """Choose actions for an array of [N, ...], or an iterable of single observations; see `classify_many`."""
        check_sizes(rows, in_flight)
        return pipelined_async(
            chunked(observations, rows, "observations"),
            lambda chunk: self.act(model, chunk, version=version, timeout_s=timeout_s),
            in_flight,
        )

    def act_stream(self, model: str, *, version: str = "") -> AsyncActStream:
        """Open a stream of episodes whose state the server holds, a context manager; see `ActStream.act`."""
        return AsyncActStream(
            self._pool.acquire(),
            self._endpoint,
            self._timeout_s,
            lambda: self.get_model(model, version=version),
            version,
        )

    async def list_models(self, *, timeout_s: float | None = None) -> tuple[ModelSummary, ...]:
        """List the served models, sorted by name."""
        return await self._run(self._operations.list_models(), timeout_s)

    async def get_model(self, name: str, *, version: str = "", timeout_s: float | None = None) -> ModelInfo:
        """Describe a model."""
        return await self._run(self._operations.get_model(name, version), timeout_s)

    async def healthy(self, name: str = "", *, timeout_s: float | None = None) -> bool:
        """Return whether the server, or one of its models, is ready."""
        return await self._run(self._operations.healthy(name), timeout_s)

    async def wait_ready(self, timeout_s: float = 30.0) -> None:
        """Wait until the server is ready; UnavailableError where it is not in time."""
        await self._run(self._operations.wait_ready(timeout_s), math.inf)  # the operation has its own deadline

    async def close(self) -> None:
        """Close the connections."""
        await asyncio.gather(*(connection.channel.close() for connection in self._pool.connections))

    async def _run(self, operation: Operation[T], timeout_s: float | None) -> T:
        limit_s = self._timeout_s if timeout_s is None else check_timeout(timeout_s)
        steps = with_retries(operation, self._retries, limit_s)
        try:
            step = next(steps)
            while True:
                try:
                    answer = await self._perform(step)
                except ServiceError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    async def _perform(self, step: UnaryCall | Pause) -> object:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        with self._pool.acquire() as connection:
            method = connection.method(step.method, type(step.request), step.response_class)
            try:
                return await method(step.request, timeout=step.timeout_s, metadata=self._endpoint.metadata)
            except grpc.aio.AioRpcError as error:
                raise self._endpoint.error(error) from None

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
