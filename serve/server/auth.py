"""Authentication and authorisation: who a caller is, what it may do, and where the server may listen.

Role *predict* may call all methods that do not change the server; *admin* may also load and unload models, use
reflection, and see how models were trained. Where there is no token file, callers on this machine are admins, and
callers from other machines may predict, with a client certificate or without. Callers without a valid token see whether
the server as a whole is healthy, and nothing else: no names, not even whether a model of a name exists.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from datetime import UTC, date, datetime
from pathlib import Path

from torso.errors import ForbiddenError, ServerError, UnauthenticatedError
from torso.serve.config import ServeConfig, is_local
from torso.serve.server.tokens import Token, read_tokens
from torso.serve.services.callers import Caller
from torso.serve.wire.tensors import SERVICE

ADMIN_METHODS = (
    "/grpc.reflection.",
    "/inference.GRPCInferenceService/RepositoryModelLoad",
    "/inference.GRPCInferenceService/RepositoryModelUnload",
)  # prefixes of methods
OPEN_METHODS = ("/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch")  # for these services:
OPEN_SERVICES = ("", SERVICE, "inference.GRPCInferenceService")
UNKNOWN = "the token is not known here, or it has expired"
LOCAL_PEERS = ("unix:", "ipv4:127.", "ipv6:%5B::1%5D:", "ipv6:[::1]:")
MAX_KEPT = 8192  # callers that are remembered while they do nothing


class Authority:
    """Authority that tells callers by their tokens or addresses, and says what they may do.

    ``anonymous_role`` is everyone's where there is no token file. Raises ServerError where that cannot be used.
    """

    def __init__(self, token_file: Path | None, anonymous_role: str) -> None:
        self._path = token_file
        self._anonymous_role = anonymous_role
        self._tokens = () if token_file is None else read_tokens(token_file)
        self._callers: dict[str, Caller] = {}  # by key

    @property
    def has_tokens(self) -> bool:
        """Whether callers must send a token."""
        return self._path is not None

    def reload(self) -> list[str]:
        """Read the token file again, where there is one, and return what was read, for the log.

        ServerError where it cannot be used, and then the old tokens stay.
        """
        if self._path is None:
            return []
        self._tokens = read_tokens(self._path)
        return [f"{len(self._tokens)} {'token' if len(self._tokens) == 1 else 'tokens'} of {self._path}"]

    def authorize(self, method: str, metadata: Iterable[tuple[str, str | bytes]], peer: str) -> Caller:
        """Return who calls a method, by its path, or raise UnauthenticatedError or ForbiddenError.

        metadata: the call's; only where there is a token file is it read. peer: the connection's address, as gRPC
        writes it. A method of the health service has strangers, too: see `check_open`.
        """
        if self._path is None:
            caller = self._anonymous_caller(peer)
        else:
            try:
                caller = self._token_caller(self._authenticate(metadata))
            except UnauthenticatedError:
                if method not in OPEN_METHODS:
                    raise
                return self._caller_at(peer.rpartition(":")[0], None, limited=True)
        if method.startswith(ADMIN_METHODS) and caller.role != "admin":
            if not isinstance(caller.token, Token):
                raise ForbiddenError("this needs role admin, which only a token gives, and this server has no tokens")
            raise ForbiddenError(f"{method} needs role admin; token {caller.token.name!r} has role {caller.role}")
        return caller

    def check_valid(self, caller: Caller) -> None:
        """Check that a caller's token is still in force; UnauthenticatedError where it was revoked, or has expired."""
        token = caller.token
        if isinstance(token, Token) and (token.expired(_today()) or token not in self._tokens):
            raise UnauthenticatedError(UNKNOWN)

    def _authenticate(self, metadata: Iterable[tuple[str, str | bytes]]) -> Token:
        """Find the token that was sent, in a time that does not depend on how much of it is right."""
        values = [value for key, value in metadata if key == "authorization"]
        if not values:
            raise UnauthenticatedError("no token: metadata must have `authorization: Bearer TOKEN`, got none")
        scheme, _, secret = str(values[0]).partition(" ")
        digest = hashlib.sha256(secret.strip().encode()).hexdigest()
        matches = [token for token in self._tokens if hmac.compare_digest(token.sha256, digest)]
        if len(values) != 1 or scheme.lower() != "bearer" or not matches or matches[0].expired(_today()):
            raise UnauthenticatedError(UNKNOWN)
        return matches[0]

    def _token_caller(self, token: Token) -> Caller:
        caller = self._callers.get(token.sha256)
        if caller is None or caller.token != token:
            caller = self._remember(Caller(token.sha256, token.role, limited=True, token=token))
        return caller

    def _anonymous_caller(self, peer: str) -> Caller:
        """Return the caller at an address; on this machine each connection is one, and has no limits."""
        caller = self._callers.get(peer)
        if caller is not None:
            return caller
        if peer.startswith(LOCAL_PEERS):
            return self._caller_at(peer, self._anonymous_role, limited=False)
        return self._caller_at(peer.rpartition(":")[0], self._anonymous_role, limited=True)

    def _caller_at(self, address: str, role: str | None, *, limited: bool) -> Caller:
        return self._callers.get(address) or self._remember(Caller(address, role, limited=limited))

    def _remember(self, caller: Caller) -> Caller:
        if len(self._callers) >= MAX_KEPT:
            self._callers = {key: kept for key, kept in self._callers.items() if kept.calls}
        self._callers[caller.key] = caller
        return caller


def check_open(caller: Caller, service: str) -> None:
    """Check that a caller may see the health of a service or model; UnauthenticatedError where it may not."""
    if caller.role is None and service not in OPEN_SERVICES:
        raise UnauthenticatedError("this needs a token: metadata must have `authorization: Bearer TOKEN`")


def _today() -> date:
    return datetime.now(UTC).date()


def check_bind(config: ServeConfig) -> None:
    """Check the bind rules: reachable from other machines only with TLS and authentication, or explicit exceptions.

    Callers authenticate by token or client certificate. Raises ServerError.
    """
    if is_local(config.host):
        return
    if config.tls_cert is None and not config.allow_plaintext:
        raise ServerError(
            f"host {config.host} can be reached from other machines and must have --tls-cert and --tls-key, "
            "or --allow-plaintext for unencrypted traffic; got neither"
        )
    if config.token_file is None and config.tls_client_ca is None and not config.allow_anonymous:
        raise ServerError(
            f"host {config.host} can be reached from other machines and must have --token-file or --tls-client-ca, "
            "or --allow-anonymous for everyone; got neither"
        )
