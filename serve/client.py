"""Clients of the prediction service: one that blocks, and its twin for asyncio.

Both import grpc, numpy and the wire format, nothing else of torso. Every error that the service answers with is a
`torso.errors.ServiceError`; an array that no request can carry is an `InputError`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message
from numpy.typing import ArrayLike

from torso.errors import ConfigError, ServiceError
from torso.serve.calls import Call, Operation, Operations, Pause
from torso.serve.results import ActResult, ClassifyResult, ModelInfo, ModelSummary
from torso.serve.status import from_wire

T = TypeVar("T")

OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # a client's connection is its own
    ("grpc.initial_reconnect_backoff_ms", 100),  # a server that has just started is found soon
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


class _Settings:
    """What both clients are told, in the form that grpc wants it."""

    def __init__(self, address: str, token: str | None, timeout_s: float, tls: bool, tls_ca: str | Path | None) -> None:
        if not timeout_s > 0:
            raise ConfigError(f"timeout_s: expected more than 0 seconds, got {timeout_s}")
        self.address = address
        self.timeout_s = timeout_s
        self.metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        self.credentials: grpc.ChannelCredentials | None = None
        if tls or tls_ca is not None:
            try:
                roots = None if tls_ca is None else Path(tls_ca).read_bytes()
            except OSError as error:
                raise ConfigError(f"tls_ca: cannot read {tls_ca}: {error}") from error
            self.credentials = grpc.ssl_channel_credentials(roots)

    def arguments(self, call: Call) -> dict[str, Any]:
        """Return what a call is made with besides its request."""
        return {"timeout": call.timeout_s or self.timeout_s, "metadata": self.metadata}


class Client:
    """A client of a prediction service, safe to share between threads.

    ``address`` is ``HOST:PORT`` or ``unix:PATH``. ``timeout_s`` limits each call. ``tls_ca`` is a PEM file to trust
    (``tls`` alone trusts what the system does); without either, nothing is encrypted.
    """

    def __init__(
        self,
        address: str,
        token: str | None = None,
        *,
        timeout_s: float = 30.0,
        tls: bool = False,
        tls_ca: str | Path | None = None,
    ) -> None:
        self._settings = _Settings(address, token, timeout_s, tls, tls_ca)
        self._operations = Operations()
        if self._settings.credentials is None:
            self._channel = grpc.insecure_channel(address, OPTIONS)
        else:
            self._channel = grpc.secure_channel(address, self._settings.credentials, OPTIONS)

    def classify(self, model: str, inputs: ArrayLike, top_k: int = 1) -> ClassifyResult:
        """Label rows. inputs: [B, *shape], one input without the batch axis, or flat rows, of any dtype that fits."""
        return self._run(self._operations.classify(model, inputs, top_k))

    def classify_images(self, model: str, images: Sequence[bytes], top_k: int = 1) -> ClassifyResult:
        """Label PNG or JPEG files, given as their bytes."""
        return self._run(self._operations.classify_images(model, images, top_k))

    def act(self, model: str, observations: ArrayLike, state: Sequence[ArrayLike] = ()) -> ActResult:
        """Choose the greedy action of each row. observations: as `classify` takes inputs; one gives a batch of one."""
        return self._run(self._operations.act(model, observations, state))

    def list_models(self) -> tuple[ModelSummary, ...]:
        """List what is served, sorted by name."""
        return self._run(self._operations.list_models())

    def get_model(self, name: str) -> ModelInfo:
        """Describe a model."""
        return self._run(self._operations.get_model(name))

    def healthy(self, name: str = "") -> bool:
        """Say whether the server, or one of its models, serves now."""
        return self._run(self._operations.healthy(name))

    def wait_ready(self, timeout_s: float = 30.0) -> None:
        """Return once the server serves; UnavailableError where it does not in time."""
        self._run(self._operations.wait_ready(timeout_s))

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def _run(self, operation: Operation[T]) -> T:
        try:
            step = next(operation)
            while True:
                try:
                    answer = self._perform(step)
                except ServiceError as error:
                    step = operation.throw(error)
                else:
                    step = operation.send(answer)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    def _perform(self, step: Call | Pause) -> Message | None:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        call = self._channel.unary_unary(
            step.method, type(step.request).SerializeToString, step.response_class.FromString
        )
        try:
            return call(step.request, **self._settings.arguments(step))
        except grpc.RpcError as error:
            raise from_wire(error, self._settings.address) from None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """`Client` for asyncio: the same operations, awaited. Create it inside the running loop."""

    def __init__(
        self,
        address: str,
        token: str | None = None,
        *,
        timeout_s: float = 30.0,
        tls: bool = False,
        tls_ca: str | Path | None = None,
    ) -> None:
        self._settings = _Settings(address, token, timeout_s, tls, tls_ca)
        self._operations = Operations()
        if self._settings.credentials is None:
            self._channel = grpc.aio.insecure_channel(address, OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(address, self._settings.credentials, OPTIONS)

    async def classify(self, model: str, inputs: ArrayLike, top_k: int = 1) -> ClassifyResult:
        """See `Client.classify`."""
        return await self._run(self._operations.classify(model, inputs, top_k))

    async def classify_images(self, model: str, images: Sequence[bytes], top_k: int = 1) -> ClassifyResult:
        """See `Client.classify_images`."""
        return await self._run(self._operations.classify_images(model, images, top_k))

    async def act(self, model: str, observations: ArrayLike, state: Sequence[ArrayLike] = ()) -> ActResult:
        """See `Client.act`."""
        return await self._run(self._operations.act(model, observations, state))

    async def list_models(self) -> tuple[ModelSummary, ...]:
        """See `Client.list_models`."""
        return await self._run(self._operations.list_models())

    async def get_model(self, name: str) -> ModelInfo:
        """See `Client.get_model`."""
        return await self._run(self._operations.get_model(name))

    async def healthy(self, name: str = "") -> bool:
        """See `Client.healthy`."""
        return await self._run(self._operations.healthy(name))

    async def wait_ready(self, timeout_s: float = 30.0) -> None:
        """See `Client.wait_ready`."""
        await self._run(self._operations.wait_ready(timeout_s))

    async def close(self) -> None:
        """End the connection."""
        await self._channel.close()

    async def _run(self, operation: Operation[T]) -> T:
        try:
            step = next(operation)
            while True:
                try:
                    answer = await self._perform(step)
                except ServiceError as error:
                    step = operation.throw(error)
                else:
                    step = operation.send(answer)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    async def _perform(self, step: Call | Pause) -> object:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        call = self._channel.unary_unary(
            step.method, type(step.request).SerializeToString, step.response_class.FromString
        )
        try:
            return await call(step.request, **self._settings.arguments(step))
        except grpc.aio.AioRpcError as error:
            raise from_wire(error, self._settings.address) from None

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
