"""Where a server listens: its address, whether that is free, its limits, and that it goes on listening."""

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
from torso.serve.config import ServeConfig
from torso.serve.server.auth import Guard, check_bind, is_local
from torso.serve.server.tls import Certificates

logger = logging.getLogger(__name__)

WATCH_S = 0.1
ANSWER_S = 20.0  # what a peer may take for its part of a handshake, or to answer a ping
PING_INTERVAL_S = 10.0  # a connection that is pinged more often than this, again and again, is ended
MAX_PENDING = 1 << 20
FOREVER_MS = 2**31 - 1  # gRPC's own word for it
SPARE_FILES = 256  # file descriptors for all but connections


class Listener:
    """A ``grpc.aio`` server on one address, for as long as it is wanted.

    ``register`` gives a server its methods. With ``reuse_port`` other processes may listen there too, and connections
    spread over all. ``on_refusal`` is told the status of every call that its caller may not make. A call whose path is
    not UTF-8 makes ``grpc.aio`` (grpcio 1.85) shut down, whoever sent it; then a new server takes over the address, and
    the old one ends what it had begun.

    Raises ServerError where the address is taken, not ours, or open to more than it may be, and where the token file
    or the certificates cannot be used.
    """

    def __init__(
        self,
        config: ServeConfig,
        register: Callable[[grpc.aio.Server], None],
        *,
        reuse_port: bool = False,
        on_refusal: Callable[[str], None] = lambda _status: None,
    ) -> None:
        check_bind(config)
        self._config = config
        self._register = register
        self._reuse_port = reuse_port
        self._guard = Guard(config.token_file, "admin" if is_local(config.host) else "predict", on_refusal)
        self._interceptors = (self._guard,) if self._guard.needed else ()
        self._certificates = Certificates(config)
        self._broken: set[asyncio.Task[None]] = set()  # servers that broke down, ending
        self._watch: asyncio.Task[None] | None = None
        self.port = config.port
        self._server = self._listen()
        self.address = address_of(config.host, self.port)

    def reload(self) -> None:
        """Read tokens and certificates again. What cannot be used is logged, and what was read before stays in use."""
        for what in (self._guard, self._certificates):
            try:
                what.reload()
            except ServerError as error:
                logger.error("not reloaded: %s; what was read before stays in use", error)

    async def start(self) -> None:
        """Begin to answer."""
        await self._server.start()
        self._watch = asyncio.ensure_future(self._keep_listening())

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls at once, and cancel those that still run after ``grace_s`` seconds."""
        if self._watch is not None:
            self._watch.cancel()
        await self._server.stop(grace_s)
        await asyncio.gather(*self._broken)

    def _listen(self) -> grpc.aio.Server:
        address = address_of(self._config.host, self.port)
        _check_free(self._config.host, self.port, self._reuse_port)  # gRPC would say so in several lines on stderr
        options = _options(self._config, self._reuse_port)
        server = grpc.aio.server(interceptors=self._interceptors, options=options)
        self._register(server)
        try:
            credentials = self._certificates.credentials()
            if credentials is None:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise ServerError(f"cannot listen on {address}: {error}") from error
        self.port = 0 if self._config.host.startswith("unix:") else port
        return server

    async def _keep_listening(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            try:
                await self._server.start()  # does nothing while it runs
            except grpc.aio.UsageError:
                logger.error("the gRPC server on %s broke down; another takes over", self.address)
                ending = asyncio.ensure_future(self._server.stop(self._config.finish_s))
                self._broken.add(ending)
                ending.add_done_callback(self._broken.discard)
                await self._listen_again()

    async def _listen_again(self) -> None:
        while True:
            try:
                self._server = self._listen()
            except ServerError as error:  # its predecessor has not let go of the port yet
                logger.info("%s", error)
                await asyncio.sleep(WATCH_S)
            else:
                return await self._server.start()


def allow_connections(count: int) -> None:
    """Let this process have as many files open as so many connections need, as far as the operating system lets it."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    wanted = count + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        logger.warning(
            "max_connections %d needs %d open files, and this process may have %d; raise `ulimit -n`, or lower it",
            *(count, wanted, allowed),
        )


def _options(config: ServeConfig, reuse_port: bool) -> tuple[tuple[str, int], ...]:
    """Return gRPC's options for what the configuration allows. Connections are counted before any handshake."""
    metadata_bytes = config.max_metadata_kib << 10
    keepalive_ms = _milliseconds(config.keepalive_s)
    answer_ms = min(keepalive_ms, _milliseconds(ANSWER_S))
    return (
        ("grpc.so_reuseport", int(reuse_port)),  # unless asked for: a port that is taken would be shared without a word
        ("grpc.max_receive_message_length", config.max_message_mib << 20),
        ("grpc.max_metadata_size", metadata_bytes),
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


def address_of(host: str, port: int) -> str:
    """Write an address as gRPC reads it."""
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
        raise cannot_listen(host, port, error) from error


def resolve_address(host: str, port: int) -> tuple[socket.AddressFamily, socket.SocketKind, int, Any]:
    """Return a socket's family, kind, protocol and address for a place to listen. OSError where the host is unknown."""
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    return family, kind, protocol, address


def cannot_listen(host: str, port: int, error: OSError) -> ServerError:
    """The error that says so."""
    advice = "; choose another with --port, or --port 0 for a free one" if port else ""
    return ServerError(f"cannot listen on {host} port {port}: {error.strerror or error}{advice}")
