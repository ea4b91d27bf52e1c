"""gRPC server that takes calls of any path: `grpc.aio`'s, with an accepting loop of its own.

`grpc.aio`'s loop decodes the path of every call, and a path that is not UTF-8 ends it, and with it the server and
everybody's calls (grpcio 1.85). Calls of registered methods carry no path, so here every method is registered, one
task a method accepts its calls, and another one refuses all others without looking at their paths. grpcio before
registered methods has the loop alone; there the listener takes over from a server that broke down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextvars import ContextVar, copy_context
from typing import Any

import grpc
import grpc.aio

from torso.private_apis import grpc_core
from torso.serve.services.method_table import RpcHandler

cygrpc: Any = grpc_core()

CAN_ACCEPT = all(
    hasattr(owner, name)
    for owner, names in (
        (cygrpc, ("_handle_rpc", "_schedule_rpc_coro", "_MethodResolver")),
        (
            getattr(cygrpc, "AioServer", None),
            ("_make_request_call_future", "_request_call", "_request_registered_call"),
        ),
    )
    for name in names
)

# The task that holds the call whose handler runs; cancelled, it lets go of the call, and gRPC ends that. Nothing else
# ends a call whose client reads no answers, since its status waits behind them.
holding_task: ContextVar[asyncio.Task[None] | None] = ContextVar("holding_task", default=None)


def build_server(
    methods: Mapping[str, RpcHandler], unknown: RpcHandler, options: Sequence[tuple[str, int]]
) -> grpc.aio.Server:
    """Build a server of methods, by path; ``unknown`` answers calls of all other paths."""
    if CAN_ACCEPT:
        return _accepting_server(methods, unknown, options)
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers((_Handlers(methods, unknown),))
    return server


class _Handlers(grpc.GenericRpcHandler):
    """Methods by path, and the handler of all other paths."""

    def __init__(self, methods: Mapping[str, RpcHandler], unknown: RpcHandler) -> None:
        self._methods = methods
        self._unknown = unknown

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> RpcHandler:
        """Return the handler of a call."""
        return self._methods.get(str(handler_call_details.method), self._unknown)


def _accepting_server(
    methods: Mapping[str, RpcHandler], unknown: RpcHandler, options: Sequence[tuple[str, int]]
) -> grpc.aio.Server:
    """Build `grpc.aio`'s server around another core."""
    server = grpc.aio.server()
    core = _Core(cygrpc.get_working_loop(), options)
    core.accept_calls(methods, unknown)
    server._server = core  # type: ignore[attr-defined]  # its stubs leave that out
    return server


class _Core(cygrpc.AioServer):  # type: ignore[misc]  # it has no stubs
    """Core of a server. `grpc.aio`'s loop waits for its accepting tasks, which end when the server shuts down."""

    def __init__(self, loop: asyncio.AbstractEventLoop, options: Sequence[tuple[str, int]]) -> None:
        super().__init__(loop, None, (), (), tuple(options), None)
        self._own_loop = loop
        self._calls: set[asyncio.Task[None]] = set()  # the loop itself refers to them weakly

    def accept_calls(self, methods: Mapping[str, RpcHandler], unknown: RpcHandler) -> None:
        """Register the methods to accept calls of; before the start."""
        self.add_registered_method_handlers(dict(methods))
        self._resolver = cygrpc._MethodResolver([_Handlers({}, unknown)], dict(methods))

    def _make_request_call_future(self, method: bytes | None) -> asyncio.Task[None]:
        """Begin to accept the calls of a registered method, or those of no such."""
        return self._own_loop.create_task(self._accept(method))

    async def _accept(self, method: bytes | None) -> None:
        name = "" if method is None else method.decode()
        while True:
            if method is None:
                state = await self._request_call()
            else:
                state = await self._request_registered_call(method)
            answering = cygrpc._handle_rpc(name, self._resolver, (), state, self._own_loop, False)
            context = copy_context()
            call = self._own_loop.create_task(
                cygrpc._schedule_rpc_coro(answering, state, self._own_loop, name), context=context
            )
            context.run(holding_task.set, call)
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
            del state, answering, context, call  # whatever refers to a state holds its call
