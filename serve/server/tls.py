"""The server's certificate, and whom it takes certificates from: read, proven, and read again while it serves."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Any

import grpc

from torso.errors import ServerError
from torso.serve.config import ServeConfig

logger = logging.getLogger(__name__)


class Certificates:
    """What ``tls_cert``, ``tls_key`` and ``tls_client_ca`` hold, as they were last read.

    Connections that exist keep what they began with; new ones get what was read last. Raises ServerError where the
    files cannot be used: unreadable, not of one pair, out of date, or a key that only a pass phrase opens.
    """

    def __init__(self, config: ServeConfig) -> None:
        self._config = config
        self._current = self._read()

    def reload(self) -> None:
        """Read the files again; ServerError where they cannot be used, and then the old ones stay."""
        if self._config.tls_cert is not None:
            self._current = self._read()

    def credentials(self) -> grpc.ServerCredentials | None:
        """Return what a server listens with, which follows `reload`; None where there is no TLS."""
        if self._current is None:
            return None
        given: Any = self._current

        def newer() -> Any:  # asked before each handshake; None: what was given last is still good
            nonlocal given
            if given is self._current:
                return None
            given = self._current
            return given

        return grpc.dynamic_ssl_server_credentials(
            given, newer, require_client_authentication=self._config.tls_client_ca is not None
        )

    def _read(self) -> grpc.ServerCertificateConfiguration | None:
        cert, key, authority = self._config.tls_cert, self._config.tls_key, self._config.tls_client_ca
        if cert is None or key is None:
            return None
        try:
            expires = _prove(cert, key)
            pair = (key.read_bytes(), cert.read_bytes())
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise ServerError(f"cannot use the certificate {cert} with {key}: {_reason(error)}") from error
        try:
            roots = None if authority is None else _authorities(authority)
        except (OSError, ValueError) as error:
            raise ServerError(f"cannot use the client authorities {authority}: {_reason(error)}") from error
        logger.info("certificate %s is good until %s", cert, expires)
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=roots)


def _prove(cert: Path, key: Path) -> str:
    """Shake hands with a client that trusts the certificate itself, in memory; return until when it is good."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key, password=_refuse_to_ask)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cadata=cert.read_text())
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_side = client.wrap_bio(to_client, to_server)
    server_side = server.wrap_bio(to_server, to_client, server_side=True)
    while True:
        try:
            client_side.do_handshake()
        except ssl.SSLWantReadError:
            try:
                server_side.do_handshake()
            except ssl.SSLWantReadError:
                continue
        else:
            shown = client_side.getpeercert() or {}
            return str(shown["notAfter"])


def _authorities(path: Path) -> bytes:
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    return path.read_bytes()


def _refuse_to_ask() -> str:
    raise ValueError("the key needs a pass phrase, and nobody is there to type it; expected a key without")


def _reason(error: Exception) -> str:
    return error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else str(error)
