"""Map torso's errors to gRPC statuses on the server, and back to errors in the client.

| what went wrong | error | status and details |
|---|---|---|
| shape, dtype, byte count, NaN, image, top_k, bytes that are no request | InputError | INVALID_ARGUMENT + BadRequest |
| unknown model or version | UnknownModelError | NOT_FOUND |
| wrong kind of model | WrongKindError | FAILED_PRECONDITION |
| queue full | OverloadedError | RESOURCE_EXHAUSTED + RetryInfo |
| deadline passed while queued | DeadlineError | DEADLINE_EXCEEDED |
| draining, or model loading | UnavailableError | UNAVAILABLE (+ RetryInfo while loading) |
| no or bad token; role too low | UnauthenticatedError; ForbiddenError | UNAUTHENTICATED; PERMISSION_DENIED |
| anything else | any exception | INTERNAL, its message an incident id that the log has |
"""

from __future__ import annotations

import logging
import secrets
from typing import NamedTuple, Protocol, TypeVar

import grpc
from google.protobuf import any_pb2, message
from google.rpc import error_details_pb2, status_pb2

from torso import errors

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=message.Message)

DETAILS_KEY = "grpc-status-details-bin"
MAX_TEXT = 600  # characters a message or description may have on the wire: statuses travel in headers, which are small

CLASSES: dict[grpc.StatusCode, type[errors.ServiceError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: errors.UnknownModelError,
    grpc.StatusCode.FAILED_PRECONDITION: errors.WrongKindError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.OverloadedError,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineError,
    grpc.StatusCode.UNAVAILABLE: errors.UnavailableError,
    grpc.StatusCode.UNAUTHENTICATED: errors.UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: errors.ForbiddenError,
    grpc.StatusCode.INTERNAL: errors.InternalServiceError,
}
_CODES = {error_class: code for code, error_class in CLASSES.items()}
# Clients map one more: a server's gRPC cancels, of its own accord, calls beyond what it can take in.
_CLIENT_CLASSES: dict[grpc.StatusCode, type[errors.ServiceError]] = {
    **CLASSES,
    grpc.StatusCode.CANCELLED: errors.UnavailableError,
}


class WireStatus(NamedTuple):
    """Arguments of ``context.abort``."""

    code: grpc.StatusCode
    message: str
    trailing_metadata: tuple[tuple[str, bytes], ...]


class RpcFailure(Protocol):
    """Interface that ``grpc.RpcError`` and ``grpc.aio.AioRpcError`` of a failed call share."""

    def code(self) -> grpc.StatusCode:
        """Return the status."""

    def details(self) -> str | None:
        """Return the status message."""

    def trailing_metadata(self) -> object:
        """Return pairs of key and value, or None."""


def to_wire(error: BaseException, method: str) -> WireStatus:
    """Convert an exception of a request to the status that its caller sees; INTERNAL for unexpected ones."""
    if isinstance(error, errors.InputError):
        description = f"must be {error.expected}, got {error.got}"
        return _status(grpc.StatusCode.INVALID_ARGUMENT, str(error), ((error.field, description),))
    if not isinstance(error, errors.ServiceError) or type(error) not in _CODES:
        error = internal_error(error, method)
    return _status(_CODES[type(error)], str(error), error.violations, error.retry_after_s)


def internal_error(error: BaseException, where: str) -> errors.InternalServiceError:
    """Log an unexpected exception with its traceback; return the error for callers, which has only the incident id."""
    incident = secrets.token_hex(8)
    logger.error("internal error %s in %s", incident, where, exc_info=error)
    return errors.InternalServiceError(f"internal error; the server's log has it under id {incident}")


def from_wire(failure: RpcFailure, address: str, *, tls: bool = False) -> errors.ServiceError:
    """Convert a failed call to the typed error that a client raises. ``tls``: whether the client uses it."""
    code = failure.code()
    details = failure.details() or code.name
    rich = _rich_status(failure)
    if rich is None and code is grpc.StatusCode.UNAVAILABLE:
        details = f"no answer from {address}: {details.rstrip('.')}{_tls_advice(details, tls)}"
    violations: list[tuple[str, str]] = []
    retry_after_s: float | None = None
    for detail in rich.details if rich is not None else ():
        if bad_request := _unpacked(detail, error_details_pb2.BadRequest()):
            violations += [(violation.field, violation.description) for violation in bad_request.field_violations]
        if retry := _unpacked(detail, error_details_pb2.RetryInfo()):
            retry_after_s = retry.retry_delay.seconds + retry.retry_delay.nanos * 1e-9
    return _CLIENT_CLASSES.get(code, errors.InternalServiceError)(
        details, status=code.name, violations=tuple(violations), retry_after_s=retry_after_s
    )


# gRPC's texts of a connection that is closed before it is one, and of handshakes that fail.
_CLOSED = ("Socket closed", "Connection reset", "Broken pipe", "handshake failed")
_NO_TLS, _UNTRUSTED = "WRONG_VERSION_NUMBER", "CERTIFICATE_VERIFY_FAILED"
_OTHER_NAME = ("Hostname Verification", "is not in peer certificate")  # the latter in grpcio 1.76


def _tls_advice(details: str, tls: bool) -> str:
    """Return what to try where no connection was made, and TLS may be why; empty where it is not."""
    if _NO_TLS in details:
        return "; the server seems to use no TLS: try without tls and tls_ca"
    if _UNTRUSTED in details:
        return (
            "; the server's TLS certificate is not trusted: tls_ca must be the PEM file of the authority that issued it"
        )
    if any(words in details for words in _OTHER_NAME):
        return "; the server's TLS certificate is for other names: the address must have one of them as its host"
    if "failed to connect" not in details or not any(text in details for text in _CLOSED):
        return ""
    if tls:
        return "; the server may ask for a TLS client certificate: try tls_cert and tls_key"
    return "; the server may use TLS: try tls or tls_ca"


def _status(
    code: grpc.StatusCode, text: str, violations: tuple[tuple[str, str], ...], retry_after_s: float | None = None
) -> WireStatus:
    rich = status_pb2.Status(code=code.value[0], message=_truncated(text))
    if violations:
        fields = [
            error_details_pb2.BadRequest.FieldViolation(field=_truncated(field), description=_truncated(description))
            for field, description in violations
        ]
        rich.details.add().Pack(error_details_pb2.BadRequest(field_violations=fields))
    if retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(retry_after_s * 1e9))
        rich.details.add().Pack(retry)
    return WireStatus(code, rich.message, ((DETAILS_KEY, rich.SerializeToString()),))


def _rich_status(failure: RpcFailure) -> status_pb2.Status | None:
    """Return the google.rpc.Status of a failure; None where there is none or it cannot be parsed."""
    for key, value in failure.trailing_metadata() or ():  # type: ignore[attr-defined]
        if key == DETAILS_KEY:
            try:
                return status_pb2.Status.FromString(value)
            except message.DecodeError:
                return None
    return None


def _unpacked(detail: any_pb2.Any, target: M) -> M | None:
    """Unpack a detail into ``target``; None where it is of another type or cannot be parsed."""
    try:
        return target if detail.Unpack(target) else None
    except message.DecodeError:
        return None


def _truncated(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 3] + "..."
