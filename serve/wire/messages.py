"""Decode protobuf messages from untrusted bytes."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from torso.errors import InputError

Request = TypeVar("Request", bound=Message)


def parse_message(request_class: type[Request], data: bytes) -> Request:
    """Decode a message; InputError where the bytes cannot be parsed as one."""
    try:
        return request_class.FromString(data)
    except DecodeError as error:
        expected = f"a {request_class.DESCRIPTOR.full_name}"
        raise InputError("request", expected=expected, got=f"{len(data)} bytes that cannot be parsed as one") from error
