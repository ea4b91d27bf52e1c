"""Synchronous (blocking) client of the prediction service; `torso.serve.client.async_client` is its asyncio twin.

The two are equal line by line, which `tests/serve/client/test_twins.py` checks. Both import grpc, numpy and the wire
format, and no framework. An error status of the service is raised as `torso.errors.ServiceError`; an array that no
request can carry as `InputError`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import grpc
from numpy.typing import ArrayLike

from torso.errors import ServiceError
from torso.serve.client.arguments import check_count, check_timeout
from torso.serve.client.operations import Operation, Operations, Pause, UnaryCall
from torso.serve.client.pipelined import IN_FLIGHT, ROWS, Inputs, check_sizes, chunked, pipelined
from torso.serve.client.pool import ConnectionPool, Endpoint
from torso.serve.client.results import ActResult, ClassifyResult, ModelInfo, ModelSummary
from torso.serve.client.retries import RETRIES, RetryPolicy, check_policy, with_retries
from torso.serve.client.streams import ActStream

T = TypeVar("T")


class Client:
    """A client of a prediction service, safe to share between threads.

    ``address`` is ``HOST:PORT`` or ``unix:PATH``. ``timeout_s`` limits each operation, with all its calls and
    retries; each takes a ``timeout_s`` of its own too. ``tls_ca`` is a PEM file to trust (``tls`` alone trusts what the
    system does); without either, nothing is encrypted. ``tls_cert`` and ``tls_key`` are the client's own certificate,
    for a server that requires one. ``connections``: size of the connection pool. ``retries``: policy for failed calls.
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
        self._pool = ConnectionPool([self._endpoint.channel() for _ in range(check_count("connections", connections))])

    def classify(
        self, model: str, inputs: ArrayLike, top_k: int = 1, *, version: str = "", timeout_s: float | None = None
    ) -> ClassifyResult:
        """Classify rows. inputs: [B, *shape], one input without the batch, or flat rows, of any dtype that fits."""
        return self._run(self._operations.classify(model, inputs, top_k, version), timeout_s)

    def classify_images(
        self, model: str, images: Sequence[bytes], top_k: int = 1, *, version: str = "", timeout_s: float | None = None
    ) -> ClassifyResult:
        """Classify PNG or JPEG files, given as their bytes."""
        return self._run(self._operations.classify_images(model, images, top_k, version), timeout_s)

    def act(
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
        return self._run(self._operations.act(model, observations, state, version), timeout_s)

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
    ) -> Iterator[ClassifyResult]:
        """Classify an array of [N, ...], or an iterable of single inputs, in requests of ``rows`` rows.

        Yields each request's result, in order, with up to ``in_flight`` in flight; ``timeout_s`` is each request's.
        """
        check_sizes(rows, in_flight)
        return pipelined(
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
    ) -> Iterator[ActResult]:
        """Choose actions for an array of [N, ...], or an iterable of single observations; see `classify_many`."""
        check_sizes(rows, in_flight)
        return pipelined(
            chunked(observations, rows, "observations"),
            lambda chunk: self.act(model, chunk, version=version, timeout_s=timeout_s),
            in_flight,
        )

    def act_stream(self, model: str, *, version: str = "") -> ActStream:
        """Open a stream of episodes whose state the server holds, a context manager; see `ActStream.act`."""
        info = self.get_model(model, version=version)
        return ActStream(
            self._pool.acquire(),
            self._endpoint,
            self._timeout_s,
            info,
            version,
            lambda: self.get_model(model, version=version),
        )

    def list_models(self, *, timeout_s: float | None = None) -> tuple[ModelSummary, ...]:
        """List the served models, sorted by name."""
        return self._run(self._operations.list_models(), timeout_s)

    def get_model(self, name: str, *, version: str = "", timeout_s: float | None = None) -> ModelInfo:
        """Describe a model."""
        return self._run(self._operations.get_model(name, version), timeout_s)

    def healthy(self, name: str = "", *, timeout_s: float | None = None) -> bool:
        """Return whether the server, or one of its models, is ready."""
        return self._run(self._operations.healthy(name), timeout_s)

    def wait_ready(self, timeout_s: float = 30.0) -> None:
        """Wait until the server is ready; UnavailableError where it is not in time."""
        self._run(self._operations.wait_ready(timeout_s), math.inf)  # the operation has its own deadline

    def close(self) -> None:
        """Close the connections."""
        for connection in self._pool.connections:
            connection.channel.close()

    def _run(self, operation: Operation[T], timeout_s: float | None) -> T:
        limit_s = self._timeout_s if timeout_s is None else check_timeout(timeout_s)
        steps = with_retries(operation, self._retries, limit_s)
        try:
            step = next(steps)
            while True:
                try:
                    answer = self._perform(step)
                except ServiceError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    def _perform(self, step: UnaryCall | Pause) -> object:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        with self._pool.acquire() as connection:
            method = connection.method(step.method, type(step.request), step.response_class)
            try:
                return method(step.request, timeout=step.timeout_s, metadata=self._endpoint.metadata)
            except grpc.RpcError as error:
                raise self._endpoint.error(error) from None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
