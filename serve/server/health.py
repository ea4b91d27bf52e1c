"""Health service, ``grpc.health.v1.Health``: states by name, and watchers that nobody waits for."""

from __future__ import annotations

import asyncio
from collections import Counter

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

HealthContext = grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

HEALTH_SERVICE: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

MAX_NAME = 256  # characters; no model's name is longer
MAX_WATCHES = 4096
MAX_WATCHES_OF_PEER = 256  # of one connection


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # its package has no types
    """Servicer of Check and Watch. `set`, `announce_shutdown` and `end_watches` only note what is to be sent.

    Each watcher is sent the latest state by its own call: one that reads slowly, or not at all, misses what came in
    between, and holds up nobody else. It counts as one of its connection's watches for as long as that lives: gRPC lets
    no server end a call while a message of it is being sent.
    """

    def __init__(self) -> None:
        self._states: dict[str, health_pb2.HealthCheckResponse.ServingStatus.ValueType] = {}
        self._watchers: dict[asyncio.Event, str] = {}  # what wakes each, and the connection that it belongs to
        self._by_peer: Counter[str] = Counter()
        self._shutting_down = False  # all states are NOT_SERVING for good
        self._ended = False

    @property
    def watches(self) -> int:
        """Number of watches that go on."""
        return len(self._watchers)

    def set(self, name: str, serving: bool) -> None:
        """Set the state of a service or model; without effect once a shutdown was announced."""
        if not self._shutting_down:
            self._states[name] = SERVING if serving else NOT_SERVING
            self._wake()

    def announce_shutdown(self) -> None:
        """Set all states to NOT_SERVING, for good."""
        self._shutting_down = True
        self._states = dict.fromkeys(self._states, NOT_SERVING)
        self._wake()

    def end_watches(self) -> None:
        """End every Watch as UNAVAILABLE, and all that begin later. Check still answers."""
        self._ended = True
        self._wake()

    async def Check(  # noqa: N802 - the service's name
        self, request: health_pb2.HealthCheckRequest, context: HealthContext
    ) -> health_pb2.HealthCheckResponse:
        """Return a state; NOT_FOUND for an unknown name."""
        state = self._states.get(request.service)
        if state is None:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return health_pb2.HealthCheckResponse(status=state)

    async def Watch(  # noqa: N802 - the service's name
        self, request: health_pb2.HealthCheckRequest, context: HealthContext
    ) -> None:
        """Send a state, and again whenever it changes; SERVICE_UNKNOWN while the name is unknown."""
        name, peer = request.service, context.peer()
        if len(name) > MAX_NAME:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"service must be a name of at most {MAX_NAME} characters, got {len(name)}",
            )
        if len(self._watchers) >= MAX_WATCHES or self._by_peer[peer] >= MAX_WATCHES_OF_PEER:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"watches must be at most {MAX_WATCHES_OF_PEER} of one connection and {MAX_WATCHES} in all; "
                "end some, or use Check",
            )
        changed = asyncio.Event()
        self._watchers[changed] = peer
        self._by_peer[peer] += 1
        try:
            await self._send_changes(name, context, changed)
        finally:
            del self._watchers[changed]
            self._by_peer[peer] -= 1
            if not self._by_peer[peer]:
                del self._by_peer[peer]
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")

    async def List(self, _request: object, context: HealthContext) -> None:  # noqa: N802 - the service's name
        """Refuse to list names, as servers may; the method is younger than the service."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "names are not listed; use Check")

    async def _send_changes(self, name: str, context: HealthContext, changed: asyncio.Event) -> None:
        """Send the states of a name until `end_watches`."""
        sent = None
        while True:
            changed.clear()
            state = self._states.get(name, UNKNOWN)
            if state != sent:
                await context.write(health_pb2.HealthCheckResponse(status=state))
                sent = state
            elif self._ended:
                return
            else:
                await changed.wait()

    def _wake(self) -> None:
        for changed in self._watchers:
            changed.set()
