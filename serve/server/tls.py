"""TLS certificates of the server and its client authorities: load, verify, reload while it serves."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Any

import grpc

from torso.errors import ServerError
from torso.serve.config import ServeConfig
from torso.serve.server.file_modes import require_owner_writes

logger = logging.getLogger(__name__)


class Certificates:
    """Contents of ``tls_cert``, ``tls_key`` and ``tls_client_ca`` as last read.

    Existing connections keep the certificate that they began with; new ones get the one read last. Raises ServerError
    where the files cannot be used: unreadable, not of one pair, expired, a key that needs a pass phrase, or a key or
    authorities that others than their owner may write.
    """

    def __init__(self, config: ServeConfig) -> None:
        self._config = config
        self._current = self._read()

    def reload(self) -> list[str]:
        """Read the files again, where there are any, and return what was read, for the log.

        ServerError where they cannot be used, and then the old ones stay.
        """
        if self._config.tls_cert is None:
            return []
        self._current = self._read()
        authority = self._config.tls_client_ca
        read = [f"the certificate {self._config.tls_cert}"]
        return read if authority is None else [*read, f"the client authorities {authority}"]

    def credentials(self) -> grpc.ServerCredentials | None:
        """Build the credentials of a listening server, which follow `reload`; None where there is no TLS."""
        if self._current is None:
            return None
        loaded: Any = self._current

        def fetch_newer() -> Any:  # called before each handshake; None: nothing was reloaded since
            nonlocal loaded
            if loaded is self._current:
                return None
            loaded = self._current
            return loaded

        return grpc.dynamic_ssl_server_credentials(
            loaded, fetch_newer, require_client_authentication=self._config.tls_client_ca is not None
        )

    def _read(self) -> grpc.ServerCertificateConfiguration | None:
        cert, key, authority = self._config.tls_cert, self._config.tls_key, self._config.tls_client_ca
        if cert is None or key is None:
            return None
        try:
            require_owner_writes("TLS key", key)
            expires = _verify_pair(cert, key)
            pair = (key.read_bytes(), cert.read_bytes())
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise ServerError(f"cannot use the certificate {cert} with {key}: {_reason(error)}") from error
        try:
            roots = None if authority is None else _read_authorities(authority)
        except (OSError, ValueError) as error:
            raise ServerError(f"cannot use the client authorities {authority}: {_reason(error)}") from error
        logger.info("certificate %s is good until %s", cert, expires)
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=roots)


def _verify_pair(cert: Path, key: Path) -> str:
    """Verify a pair by an in-memory handshake with a client that trusts the certificate; return its expiry."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key, password=_refuse_passphrase)
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


def _read_authorities(path: Path) -> bytes:
    require_owner_writes("client authorities", path)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    return path.read_bytes()


def _refuse_passphrase() -> str:
    raise ValueError("the key needs a pass phrase, and nobody is there to type it; use a key without one")


def _reason(error: Exception) -> str:
    return error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else str(error)
