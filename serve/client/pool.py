"""Connection pool: an endpoint, its channels, and least-loaded selection of a connection for each call."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from torso.errors import ConfigError, ServiceError
from torso.serve.client.arguments import check_address, check_flag, check_path, check_token
from torso.serve.wire.status import RpcFailure, from_wire

GrpcChannel = TypeVar("GrpcChannel", grpc.Channel, grpc.aio.Channel)

OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # a channel's connection is its own
    ("grpc.initial_reconnect_backoff_ms", 100),  # a server that has just started is found soon
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


class Endpoint:
    """Server address and credentials: a token, a client certificate.

    ``tls_ca``: a PEM file of certificates to trust (``tls`` alone: those that the system trusts). ``tls_cert`` and
    ``tls_key``: PEM files of the client's own certificate chain and its key, for a server that asks for one.
    Raises ConfigError where a setting cannot be used or several do not go together.
    """

    def __init__(
        self,
        address: str,
        token: str | None = None,
        *,
        tls: bool = False,
        tls_ca: str | Path | None = None,
        tls_cert: str | Path | None = None,
        tls_key: str | Path | None = None,
    ) -> None:
        self.address = check_address(address)
        token = check_token(token)
        self.metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        self.credentials: grpc.ChannelCredentials | None = None
        for name, path in (("tls_ca", tls_ca), ("tls_cert", tls_cert), ("tls_key", tls_key)):
            check_path(name, path)
        if (tls_cert is None) != (tls_key is None):
            raise ConfigError("tls_cert and tls_key must go together, got one; give both or neither")
        if check_flag("tls", tls) or tls_ca is not None or tls_cert is not None:
            self.credentials = grpc.ssl_channel_credentials(
                _read_ca_certificates(tls_ca), *_read_client_certificate(tls_cert, tls_key)
            )

    def channel(self) -> grpc.Channel:
        """Open a channel with its own connection."""
        if self.credentials is None:
            return grpc.insecure_channel(self.address, OPTIONS)
        return grpc.secure_channel(self.address, self.credentials, OPTIONS)

    def aio_channel(self) -> grpc.aio.Channel:
        """Open a channel with its own connection, for the running event loop."""
        if self.credentials is None:
            return grpc.aio.insecure_channel(self.address, OPTIONS)
        return grpc.aio.secure_channel(self.address, self.credentials, OPTIONS)

    def error(self, failure: RpcFailure) -> ServiceError:
        """Convert a failed call to the error that a client raises."""
        return from_wire(failure, self.address, tls=self.credentials is not None)


class Connection(Generic[GrpcChannel]):
    """A channel, its calls in flight, and its cached methods."""

    def __init__(self, channel: GrpcChannel) -> None:
        self.channel: GrpcChannel = channel
        self.in_flight = 0
        self._methods: dict[str, Callable[..., Any]] = {}

    def method(self, path: str, request_class: type[Message], response_class: type[Message]) -> Callable[..., Any]:
        """Return a callable of a unary method, cached by path."""
        method = self._methods.get(path)
        if method is None:
            method = self.channel.unary_unary(path, request_class.SerializeToString, response_class.FromString)
            self._methods[path] = method
        return method


class ConnectionPool(Generic[GrpcChannel]):
    """Pool of connections to one endpoint, round robin among the least loaded. Safe to share between threads."""

    def __init__(self, channels: Sequence[GrpcChannel]) -> None:
        self.connections: tuple[Connection[GrpcChannel], ...] = tuple(Connection(channel) for channel in channels)
        self._next = 0
        self._lock = threading.Lock()

    @contextmanager
    def acquire(self) -> Iterator[Connection[GrpcChannel]]:
        """Acquire the connection with the fewest calls in flight, for one call."""
        with self._lock:
            count = len(self.connections)
            index = min(range(self._next, self._next + count), key=lambda index: self._at(index).in_flight)
            connection = self._at(index)
            connection.in_flight += 1
            self._next = (index + 1) % count
        try:
            yield connection
        finally:
            with self._lock:
                connection.in_flight -= 1

    def _at(self, index: int) -> Connection[GrpcChannel]:
        return self.connections[index % len(self.connections)]


def _read_ca_certificates(tls_ca: str | Path | None) -> bytes | None:
    """Read trusted CA certificates; gRPC itself would fail only when it connects, and not in the caller."""
    if tls_ca is None:
        return None
    try:
        ssl.create_default_context(cafile=tls_ca)
        return Path(tls_ca).read_bytes()
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"tls_ca: cannot read {tls_ca} as PEM certificates: {error}") from error


def _read_client_certificate(
    tls_cert: str | Path | None, tls_key: str | Path | None
) -> tuple[bytes | None, bytes | None]:
    """Read the client's key and certificate chain, in gRPC's order."""
    if tls_cert is None or tls_key is None:
        return None, None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(tls_cert, tls_key)
        return Path(tls_key).read_bytes(), Path(tls_cert).read_bytes()
    except OSError as error:
        raise ConfigError(f"tls_cert: cannot use {tls_cert} with {tls_key}: {error}") from error
