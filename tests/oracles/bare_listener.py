"""gRPC listener for tests: echo methods that need no model, under the real services' names."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from torso.serve import ServeConfig
from torso.serve.server.listener import Listener
from torso.serve.services.method_table import MethodTable
from torso.serve.services.reflection import enable_reflection


@dataclass
class Listening:
    """Running listener on an event loop in another thread, with methods that need no model."""

    listener: Listener
    loop: asyncio.AbstractEventLoop

    @property
    def address(self) -> str:
        return self.listener.address

    def reload(self) -> None:
        self._run(_call(self.listener.reload))

    def break_down(self) -> None:
        """Stop the gRPC server as a request path that is not text does; return when another has replaced it."""
        self._run(self._break_down())

    async def _break_down(self) -> None:
        broken = self.listener._server
        await broken.stop(0)
        while self.listener._server is broken:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)  # it is starting, and its next step is on the loop

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)


async def _call(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    return function(*arguments, **keywords)


async def _echo(data: bytes, _context: object) -> bytes:
    return data


async def _chat(requests: AsyncIterator[bytes], _context: object) -> AsyncIterator[bytes]:
    async for data in requests:
        yield data


def _register(servicer: health.aio.HealthServicer, table: MethodTable) -> None:
    """Register echo methods for everything that a caller may lack permission for."""
    echo, chat = grpc.unary_unary_rpc_method_handler(_echo), grpc.stream_stream_rpc_method_handler(_chat)
    services = {
        "test.Echo": {"Echo": echo, "Chat": chat},
        "torso.v1.PredictionService": {"ListModels": echo, "ActStream": chat},
        "inference.GRPCInferenceService": dict.fromkeys(
            ("ModelInfer", "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"), echo
        ),
    }
    for service, methods in services.items():
        table.add_registered_method_handlers(service, methods)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, table)
    enable_reflection(table, ())


@contextlib.contextmanager
def listening(reuse_port: bool = False, **settings: Any) -> Iterator[Listening]:
    """``with listening(max_connections=2, ...) as server:`` for tests of a listener alone."""
    config = ServeConfig(**{"models": ("unused",), "port": 0, **settings})
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        servicer = health.aio.HealthServicer()
        making = _call(Listener, config, functools.partial(_register, servicer), reuse_port=reuse_port)
        listener = asyncio.run_coroutine_threadsafe(making, loop).result(30)
        server = Listening(listener, loop)
        server._run(servicer.set("secret_model", health_pb2.HealthCheckResponse.SERVING))
        server._run(listener.start())
        try:
            yield server
        finally:
            server._run(listener.stop(0))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
