"""Listener: the gRPC server on one address, with limits, a gate before its methods, and recovery from breakdowns."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from torso.errors import ServerError
from torso.serve.config import ServeConfig, is_local
from torso.serve.server.acceptor import build_server
from torso.serve.server.auth import Authority, check_bind
from torso.serve.server.connections import Connections
from torso.serve.server.gate import Gate
from torso.serve.server.inflow import Inflow
from torso.serve.server.tls import Certificates
from torso.serve.services.method_table import MethodTable

logger = logging.getLogger(__name__)

WATCH_S = 0.1
ANSWER_S = 20.0  # the most seconds that a peer may take for its part of a handshake, or to answer a ping
PING_INTERVAL_S = 10.0  # a connection that is pinged more often than this, again and again, is ended
MAX_PENDING = 1 << 20
AHEAD_BYTES = 1 << 20  # gRPC's own 64 KiB would be slow over long lines
FOREVER_MS = 2**31 - 1  # gRPC's own value for it
STOP_S = 0.5  # the most seconds that ending calls may take once they are cancelled
SPARE_FILES = 256  # file descriptors for all but connections
EXPIRY_S = 10.0  # between two looks for streams whose token has expired


class Listener:
    """Listener on one address: a ``grpc.aio`` server, replaced by another where it breaks down.

    ``register`` adds the methods to a table. With ``reuse_port`` other processes may listen there too, and connections
    spread over all. ``on_refusal`` is called with the status of every call that the gate ends. Where the gRPC server
    breaks down, a new one takes over the address, and the old one finishes the calls that it had begun.

    Raises ServerError where the address is in use, is not this machine's, or violates `check_bind`, and where the token
    file or the certificates cannot be used.
    """

    def __init__(
        self,
        config: ServeConfig,
        register: Callable[[MethodTable], None],
        *,
        reuse_port: bool = False,
        on_refusal: Callable[[str], None] = lambda _status: None,
    ) -> None:
        check_bind(config)
        self._config = config
        self._reuse_port = reuse_port
        self._authority = Authority(config.token_file, "admin" if is_local(config.host) else "predict")
        self._certificates = Certificates(config)
        self._connections = Connections(config.max_connections)
        message_bytes = config.max_message_mib << 20
        self._inflow = Inflow(
            self._connections,
            limit_bytes=max(config.max_in_flight_mib << 20, 2 * message_bytes),
            max_message_bytes=message_bytes,
            receive_s=config.receive_s,
        )
        self._gate = Gate(config, self._authority, self._inflow, self._connections, on_refusal)
        table = MethodTable()
        register(table)
        self._methods = {path: self._gate.guard(path, handler) for path, handler in table.handlers.items()}
        self._failed: dict[asyncio.Task[None], grpc.aio.Server] = {}  # servers that broke down and are stopping
        self._tasks: tuple[asyncio.Task[None], ...] = ()  # that watch over the server
        self.port = config.port
        self._server = self._listen()
        self.address = format_address(config.host, self.port)

    def reload(self) -> None:
        """Reload tokens and certificates. Files that cannot be used are logged, and the old ones stay in use."""
        for reloadable in (self._authority, self._certificates):
            try:
                for read in reloadable.reload():
                    logger.info("read again: %s", read)
            except ServerError as error:
                logger.error("not reloaded: %s; what was read before stays in use", error)
        self._gate.end_invalid_streams()

    async def start(self) -> None:
        """Start answering calls."""
        await self._server.start()
        watches = (self._keep_listening(), self._sweep_connections(), self._end_expired_streams())
        self._tasks = tuple(asyncio.ensure_future(watch) for watch in watches)

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls at once, and cancel those that still run after ``grace_s`` seconds.

        Calls that have not ended soon after that are left behind.
        """
        for task in self._tasks:
            task.cancel()
        stopping = [asyncio.ensure_future(server.stop(grace_s)) for server in (self._server, *self._failed.values())]
        await asyncio.wait((*stopping, *self._failed), timeout=grace_s + STOP_S)
        self._inflow.close()

    def _listen(self) -> grpc.aio.Server:
        address = format_address(self._config.host, self.port)
        _check_free(self._config.host, self.port, self._reuse_port)  # gRPC would say so in several lines on stderr
        options = _options(self._config, self._reuse_port)
        server = build_server(self._methods, self._gate.unknown_method(), options)
        try:
            credentials = self._certificates.credentials()
            if credentials is None:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise ServerError(f"cannot listen on {address}: {error}") from error
        self.port = self._connections.port = 0 if self._config.host.startswith("unix:") else port
        return server

    async def _sweep_connections(self) -> None:
        while True:
            await asyncio.sleep(self._connections.sweep())

    async def _end_expired_streams(self) -> None:
        while True:
            await asyncio.sleep(EXPIRY_S)
            self._gate.end_invalid_streams()

    async def _keep_listening(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            try:
                await self._server.start()  # does nothing while it runs
            except grpc.aio.UsageError:
                logger.error("the gRPC server on %s broke down; another takes over", self.address)
                ending = asyncio.ensure_future(self._server.stop(self._config.finish_s))
                self._failed[ending] = self._server
                ending.add_done_callback(self._failed.pop)
                await self._listen_again()

    async def _listen_again(self) -> None:
        while True:
            try:
                self._server = self._listen()
            except ServerError as error:  # its predecessor has not released the port yet
                logger.info("%s", error)
                await asyncio.sleep(WATCH_S)
            else:
                return await self._server.start()


def raise_open_file_limit(count: int) -> None:
    """Raise this process' limit of open files to what so many connections need, as far as the hard limit allows."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    required = count + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= required:
        return
    allowed = required if hard == resource.RLIM_INFINITY else min(required, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < required:
        logger.warning(
            "max_connections %d needs %d open files, and this process may have %d; raise `ulimit -n`, or lower it",
            *(count, required, allowed),
        )


def _options(config: ServeConfig, reuse_port: bool) -> tuple[tuple[str, int], ...]:
    """Convert the configuration's limits to gRPC's options. Connections are counted before any handshake."""
    metadata_bytes = config.max_metadata_kib << 10
    keepalive_ms = _milliseconds(config.keepalive_s)
    answer_ms = min(keepalive_ms, _milliseconds(ANSWER_S))
    return (
        ("grpc.so_reuseport", int(reuse_port)),  # gRPC's default would share a port that is in use, without an error
        ("grpc.max_receive_message_length", config.max_message_mib << 20),
        ("grpc.per_message_decompression", 0),  # the gate inflates them, within bounds
        ("grpc.max_metadata_size", metadata_bytes),
        # What a connection may send ahead of the gate; probing, gRPC would let a fast one send many MiB.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", AHEAD_BYTES),
        ("grpc.absolute_max_metadata_size", metadata_bytes),  # between the two, gRPC would refuse at random
        ("grpc.max_concurrent_streams", config.max_concurrent_streams),
        ("grpc.max_allowed_incoming_connections", config.max_connections),
        # Calls not read yet: beyond about a thousand gRPC would cancel some at random; the handler refuses better.
        ("grpc.server.max_pending_requests", MAX_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING),
        ("grpc.server_handshake_timeout_ms", answer_ms),
        ("grpc.http2.settings_timeout", answer_ms),
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.http2.ping_timeout_ms", answer_ms),  # grpc.keepalive_timeout_ms alone ends nothing (grpcio 1.85)
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _milliseconds(PING_INTERVAL_S)),
        ("grpc.max_connection_age_ms", _milliseconds(config.max_connection_age_s) or FOREVER_MS),  # calls may go on
    )


def _milliseconds(seconds: float) -> int:
    return min(math.ceil(seconds * 1000), FOREVER_MS)


def format_address(host: str, port: int) -> str:
    """Format an address as gRPC parses it."""
    if host.startswith("unix:"):
        return host
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def _check_free(host: str, port: int, reuse_port: bool) -> None:
    if host.startswith("unix:"):
        path = host.removeprefix("unix:")
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(path) == 0:
                raise ServerError(f"cannot listen on {host}: another server does; stop it, or choose another path")
        return
    try:
        family, kind, protocol, address = resolve_address(host, port)
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            probe.bind(address)
    except OSError as error:
        raise listen_error(host, port, error) from error


def resolve_address(host: str, port: int) -> tuple[socket.AddressFamily, socket.SocketKind, int, Any]:
    """Resolve a host and port to listen on: family, kind, protocol, address. OSError where the host is unknown."""
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    return family, kind, protocol, address


def listen_error(host: str, port: int, error: OSError) -> ServerError:
    """Build the error for an address that cannot be bound."""
    advice = "; choose another with --port, or --port 0 for a free one" if port else ""
    return ServerError(f"cannot listen on {host} port {port}: {error.strerror or error}{advice}")
