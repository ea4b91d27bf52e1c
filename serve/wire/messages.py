"""Decode protobuf messages from untrusted bytes."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message

from torso.errors import InputError
from torso.serve.wire.message_cost import MAX_FIELDS, check_cost

Request = TypeVar("Request", bound=Message)

MAX_VALUE_BYTES = 1 << 27  # of a message's packed numbers, once decoded, unless told otherwise


class MessageLimits(NamedTuple):
    """Limits of a message: see `check_cost`."""

    max_fields: int = MAX_FIELDS
    max_bytes: int = MAX_VALUE_BYTES


USUAL_LIMITS = MessageLimits()


def parse_message(request_class: type[Request], data: bytes, limits: MessageLimits = USUAL_LIMITS) -> Request:
    """Decode a message; InputError where the bytes cannot be parsed as one, or would take more than the limits."""
    check_cost(request_class, data, max_fields=limits.max_fields, max_bytes=limits.max_bytes)
    try:
        return request_class.FromString(data)
    except DecodeError as error:
        expected = f"a {request_class.DESCRIPTOR.full_name}"
        raise InputError("request", expected=expected, got=f"{len(data)} bytes that cannot be parsed as one") from error
