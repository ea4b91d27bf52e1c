"""Where a server listens: its address, whether that is free, its certificate, and that it goes on listening."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Sequence

import grpc
import grpc.aio

from torso.errors import ServerError
from torso.serve.config import ServeConfig

logger = logging.getLogger(__name__)

WATCH_S = 0.1


class Listener:
    """A ``grpc.aio`` server on one address, for as long as it is wanted.

    ``register`` gives a server its methods. A call whose path is not UTF-8 makes ``grpc.aio`` (grpcio 1.85) shut down,
    whoever sent it; then a new server takes over the address, and the old one ends what it had begun.
    Raises ServerError where the address is taken or not ours, or the certificate cannot be used.
    """

    def __init__(
        self,
        config: ServeConfig,
        register: Callable[[grpc.aio.Server], None],
        interceptors: Sequence[grpc.aio.ServerInterceptor],
    ) -> None:
        self._config = config
        self._register = register
        self._interceptors = interceptors
        self._credentials = _credentials(config)
        self._broken: set[asyncio.Task[None]] = set()  # servers that broke down, ending
        self._watch: asyncio.Task[None] | None = None
        self.port = config.port
        self._server = self._listen()
        self.address = _address(config.host, self.port)

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
        address = _address(self._config.host, self.port)
        _check_free(self._config.host, self.port)  # gRPC would say the same, but in several lines on stderr
        options = (
            ("grpc.so_reuseport", 0),  # or a port that is taken would be shared without a word
            ("grpc.max_receive_message_length", self._config.max_message_mib << 20),
            ("grpc.max_send_message_length", -1),
        )
        server = grpc.aio.server(interceptors=self._interceptors, options=options)
        self._register(server)
        try:
            if self._credentials is None:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, self._credentials)
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


def _address(host: str, port: int) -> str:
    if host.startswith("unix:"):
        return host
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def _check_free(host: str, port: int) -> None:
    if host.startswith("unix:"):
        path = host.removeprefix("unix:")
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(path) == 0:
                raise ServerError(f"cannot listen on {host}: another server does; stop it, or choose another path")
        return
    advice = "; choose another with --port, or --port 0 for a free one" if port else ""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise ServerError(f"cannot listen on {host} port {port}: {error.strerror or error}{advice}") from error


def _credentials(config: ServeConfig) -> grpc.ServerCredentials | None:
    if config.tls_cert is None or config.tls_key is None:
        return None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.tls_cert, config.tls_key)
        return grpc.ssl_server_credentials([(config.tls_key.read_bytes(), config.tls_cert.read_bytes())])
    except OSError as error:  # ssl.SSLError is one
        raise ServerError(f"cannot use the certificate {config.tls_cert} with {config.tls_key}: {error}") from error
