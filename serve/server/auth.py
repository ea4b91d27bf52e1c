"""Authentication and authorisation: tokens, roles, bind rules.

A token file has one token a line, four fields separated by white space; ``#`` starts a comment::

    # name     sha256 of the token                                                role     expires
    grafana    9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08   predict  2027-01-31
    operator   60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752   admin    never

``printf %s "$TOKEN" | sha256sum`` gives the second field; tokens should be long and random, for the hash has no salt.
``expires`` is the token's last day (UTC), or ``never``. Callers send ``authorization: Bearer TOKEN`` as metadata.

Role *predict* may call all methods that do not change the server; *admin* may also load and unload models, use
reflection, and see how models were trained. Where there is no token file, callers on this machine are admins, and
callers from other machines may predict, with a client certificate or without. Callers without a valid token see whether
the server as a whole is healthy, and nothing else: no names, not even whether a model of a name exists.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2

from torso.errors import ForbiddenError, InputError, ServerError, ServiceError, UnauthenticatedError
from torso.serve.config import ServeConfig
from torso.serve.server.file_modes import require_owner_writes
from torso.serve.services.roles import ROLES, caller_role
from torso.serve.wire import status
from torso.serve.wire.messages import parse_message
from torso.serve.wire.tensors import SERVICE

RpcHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # grpc's own class is generic only in its stubs

ADMIN_METHODS = (
    "/grpc.reflection.",
    "/inference.GRPCInferenceService/RepositoryModelLoad",
    "/inference.GRPCInferenceService/RepositoryModelUnload",
)  # prefixes of methods
OPEN_METHODS = ("/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch")  # for these services:
OPEN_SERVICES = ("", SERVICE, "inference.GRPCInferenceService")
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
UNKNOWN = "the token is not known here, or it has expired"


@dataclass(frozen=True, kw_only=True)
class Token:
    """One line of a token file."""

    name: str
    sha256: str
    role: str
    expires: date | None  # the last day, UTC, on which it is valid

    def expired(self, today: date) -> bool:
        """Check whether the token's last day is over."""
        return self.expires is not None and today > self.expires


def read_tokens(path: Path) -> tuple[Token, ...]:
    """Read a token file; ServerError, naming the line, where it cannot be parsed or has no token.

    So it is where others than its owner may write it.
    """
    try:
        require_owner_writes("token file", path)
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ServerError(f"token file {path} cannot be read: {error}") from error
    tokens: dict[str, Token] = {}
    for number, line in enumerate(lines, start=1):
        fields = line.partition("#")[0].split()
        if fields:
            where = f"token file {path}, line {number}"
            token = _parse_token(fields, where)
            if token.sha256 in tokens:
                raise ServerError(f"{where}: {token.name!r} has the same token as {tokens[token.sha256].name!r} above")
            tokens[token.sha256] = token
    if not tokens:
        raise ServerError(f"token file {path} must have at least one line `name sha256 role expires`, got none")
    return tuple(tokens.values())


def _parse_token(fields: list[str], where: str) -> Token:
    if len(fields) != 4:
        raise ServerError(f"{where} must be `name sha256 role expires`, got {len(fields)} fields")
    name, sha256, role, expires = fields
    if not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise ServerError(f"{where}: sha256 must be 64 hexadecimal digits, got {len(sha256)} characters")
    if sha256.lower() == EMPTY_SHA256:
        raise ServerError(
            f"{where}: sha256 must be of a token, got that of nothing; was the token's variable unset when it was made?"
        )
    if role not in ROLES:
        raise ServerError(f"{where}: role must be one of {', '.join(ROLES)}; got {role!r}")
    try:
        last_day = None if expires == "never" else date.fromisoformat(expires)
    except ValueError as error:
        raise ServerError(f"{where}: expires must be a date such as 2027-01-31, or never, got {expires!r}") from error
    return Token(name=name, sha256=sha256.lower(), role=role, expires=last_day)


class AuthInterceptor(grpc.aio.ServerInterceptor):
    """Interceptor that authenticates and authorises calls before their message is read, and streams at each message.

    ``anonymous_role`` is everyone's where there is no token file. ``on_refusal`` is called with the status of every
    call that is refused.
    """

    def __init__(
        self, token_file: Path | None, anonymous_role: str, on_refusal: Callable[[str], None] = lambda _status: None
    ) -> None:
        self._path = token_file
        self._on_refusal = on_refusal
        self._anonymous = Token(name="anonymous", sha256="", role=anonymous_role, expires=None)
        self._tokens = () if token_file is None else read_tokens(token_file)

    @property
    def can_refuse(self) -> bool:
        """True where any call can be refused."""
        return self._path is not None or self._anonymous.role != "admin"

    def reload(self) -> list[str]:
        """Read the token file again, where there is one, and return what was read, for the log.

        ServerError where it cannot be used, and then the old tokens stay.
        """
        if self._path is None:
            return []
        self._tokens = read_tokens(self._path)
        return [f"{len(self._tokens)} {'token' if len(self._tokens) == 1 else 'tokens'} of {self._path}"]

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[RpcHandler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> RpcHandler | None:
        """Continue with the call, or return a handler that refuses it."""
        method = str(handler_call_details.method)
        try:
            token = self._authorize(method, handler_call_details.invocation_metadata)
        except (UnauthenticatedError, ForbiddenError) as error:
            if method in OPEN_METHODS:
                return _server_health_only(await continuation(handler_call_details), error, method)
            refusal = status.to_wire(error, method)
            self._on_refusal(refusal.code.name)
            return _refusal_handler(refusal)
        caller_role.set(token.role)  # of this call alone, which is a task of its own
        handler = await continuation(handler_call_details)
        if handler is None or not handler.request_streaming or token is self._anonymous:
            return handler
        return self._recheck_stream(handler, token, method)

    def _authorize(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> Token:
        token = self._anonymous if self._path is None else self._authenticate(metadata)
        if method.startswith(ADMIN_METHODS) and ROLES[token.role] < ROLES["admin"]:
            if token is self._anonymous:
                raise ForbiddenError("this needs role admin, which only a token gives, and this server has no tokens")
            raise ForbiddenError(f"{method} needs role admin; token {token.name!r} has role {token.role}")
        return token

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

    def _recheck_stream(self, handler: RpcHandler, token: Token, method: str) -> RpcHandler:
        """Wrap a stream: the first message after its token has expired, or was revoked, ends it."""
        answer: Any = handler.stream_stream  # an async generator: its type is the blocking server's

        async def checked(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
            async for request in requests:
                if token.expired(_today()) or token not in self._tokens:
                    raise UnauthenticatedError(UNKNOWN)
                yield request

        async def rechecked(
            requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]
        ) -> AsyncIterator[Any]:
            try:
                async with aclosing(answer(checked(requests), context)) as responses:
                    async for response in responses:
                        yield response
            except UnauthenticatedError as error:  # of a handler that does not turn errors into statuses itself
                await context.abort(*status.to_wire(error, method))

        return grpc.stream_stream_rpc_method_handler(
            rechecked, handler.request_deserializer, handler.response_serializer
        )


def _today() -> date:
    return datetime.now(UTC).date()


def _refusal_handler(refusal: status.WireStatus) -> RpcHandler:
    """Build a handler that answers any kind of call with one status, without reading its messages."""

    async def refuse(_requests: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        await context.abort(*refusal)

    return grpc.stream_stream_rpc_method_handler(refuse)


def _server_health_only(handler: RpcHandler | None, error: ServiceError, method: str) -> RpcHandler | None:
    """Wrap a health method so that it reports the server as a whole, and no model."""
    if handler is None:
        return None
    answer: Any = handler.unary_stream or handler.unary_unary
    build = grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler

    async def restricted(data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            request = parse_message(health_pb2.HealthCheckRequest, data)
            if request.service not in OPEN_SERVICES:
                raise error
        except (InputError, ServiceError) as refusal:
            await context.abort(*status.to_wire(refusal, method))
        return await answer(request, context)

    return build(restricted, response_serializer=handler.response_serializer)


def is_local(host: str) -> bool:
    """Check whether only this machine can reach an address: loopback, or a Unix socket (``unix:PATH``)."""
    if host.startswith("unix:") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


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
