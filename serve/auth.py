"""Who may ask: tokens and their roles, and where a server may listen.

A token file has one token a line, four fields separated by white space; ``#`` starts a comment::

    # name     sha256 of the token                                                role     expires
    grafana    9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08   predict  2027-01-31
    operator   60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752   admin    never

``printf %s "$TOKEN" | sha256sum`` gives the second field; tokens should be long and random, for the hash has no salt.
``expires`` is the token's last day (UTC), or ``never``. Callers send ``authorization: Bearer TOKEN`` as metadata.
Role *predict* may ask every prediction method; *admin* may also use server reflection. Health is open to everyone.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import grpc.aio

from torso.errors import ForbiddenError, ServerError, UnauthenticatedError
from torso.serve import status

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # grpc's own class is generic only in its stubs

ROLES = {"predict": 0, "admin": 1}  # a higher role may do all that a lower one may
OPEN_SERVICES = ("/grpc.health.v1.Health/",)
ADMIN_SERVICES = ("/grpc.reflection.",)


@dataclass(frozen=True, kw_only=True)
class Token:
    """One line of a token file."""

    name: str
    sha256: str
    role: str
    expires: date | None  # the last day, UTC, on which it is good

    def expired(self, today: date) -> bool:
        """Say whether the token's last day is over."""
        return self.expires is not None and today > self.expires


def read_tokens(path: Path) -> tuple[Token, ...]:
    """Read a token file; ServerError, naming the line, where it cannot be understood or names nobody."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ServerError(f"token file {path}: cannot be read: {error}") from error
    tokens = []
    for number, line in enumerate(lines, start=1):
        fields = line.partition("#")[0].split()
        if fields:
            tokens.append(_token(fields, f"token file {path}, line {number}"))
    if not tokens:
        raise ServerError(f"token file {path}: expected a line `name sha256 role expires` or more, got none")
    return tuple(tokens)


def _token(fields: list[str], where: str) -> Token:
    if len(fields) != 4:
        raise ServerError(f"{where}: expected `name sha256 role expires`, got {len(fields)} fields")
    name, sha256, role, expires = fields
    if not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise ServerError(f"{where}: expected a SHA-256 of 64 hexadecimal digits, got {len(sha256)} characters")
    if role not in ROLES:
        raise ServerError(f"{where}: expected a role of {', '.join(ROLES)}, got {role!r}")
    try:
        last_day = None if expires == "never" else date.fromisoformat(expires)
    except ValueError as error:
        raise ServerError(f"{where}: expected a date such as 2027-01-31, or never, got {expires!r}") from error
    return Token(name=name, sha256=sha256.lower(), role=role, expires=last_day)


class TokenCheck(grpc.aio.ServerInterceptor):
    """Refuses calls without a good token, before their message is read."""

    def __init__(self, tokens: Iterable[Token]) -> None:
        self._tokens = tuple(tokens)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Hand the call on, or hand back a handler that refuses it."""
        method = str(handler_call_details.method)
        if not method.startswith(OPEN_SERVICES):
            try:
                self._check(method, handler_call_details.invocation_metadata)
            except (UnauthenticatedError, ForbiddenError) as error:
                return _refusal(error, method)
        return await continuation(handler_call_details)

    def _check(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        values = [value for key, value in metadata if key == "authorization"]
        if not values:
            raise UnauthenticatedError("no token: expected metadata `authorization: Bearer TOKEN`")
        token = self._find(values)
        if token is None:
            raise UnauthenticatedError("the token is not known here, or it has expired")
        if method.startswith(ADMIN_SERVICES) and ROLES[token.role] < ROLES["admin"]:
            raise ForbiddenError(f"{method} needs role admin; token {token.name!r} has role {token.role}")

    def _find(self, values: list[str | bytes]) -> Token | None:
        """Find whose token was sent; the time it takes does not depend on how much of a token is right."""
        if len(values) != 1 or not isinstance(values[0], str):
            return None
        scheme, _, secret = values[0].partition(" ")
        digest = hashlib.sha256(secret.strip().encode()).hexdigest()
        matches = [token for token in self._tokens if hmac.compare_digest(token.sha256, digest)]
        if scheme.lower() != "bearer" or not matches or matches[0].expired(datetime.now(UTC).date()):
            return None
        return matches[0]


def _refusal(error: UnauthenticatedError | ForbiddenError, method: str) -> Handler:
    """Build a handler that answers any kind of call with one status, without reading what was sent."""

    async def refuse(_requests: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        await context.abort(*status.to_wire(error, method))

    return grpc.stream_stream_rpc_method_handler(refuse)


def is_local(host: str) -> bool:
    """Say whether only this machine can reach an address: loopback, or a Unix socket (``unix:PATH``)."""
    if host.startswith("unix:") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_bind(host: str, *, tls: bool, tokens: bool, allow_plaintext: bool, allow_anonymous: bool) -> None:
    """Refuse, with ServerError, to listen beyond this machine without encryption and tokens unless told to."""
    if is_local(host):
        return
    if not tls and not allow_plaintext:
        raise ServerError(
            f"host {host} can be reached from other machines: expected --tls-cert and --tls-key, "
            "or --allow-plaintext to let everything travel unencrypted"
        )
    if not tokens and not allow_anonymous:
        raise ServerError(
            f"host {host} can be reached from other machines: expected --token-file, or --allow-anonymous for everyone"
        )
