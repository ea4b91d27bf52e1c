"""Cost of a message, told from its bytes before it is decoded.

A field of two bytes may become an object of a hundred, and a packed number of one byte one of eight: 64 MB of such
fields take gigabytes, and seconds in which nothing else runs.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from torso.errors import InputError

SMALL_BYTES = 1 << 15  # messages of no more cannot take much, and are not looked at
MAX_FIELDS = 1 << 14  # in a message, its parts and their parts together
MAX_NUMBERS = 1 << 10  # of a packed field, unless it holds a tensor's values
VALUES = "_contents"  # ends the names of fields that hold a tensor's values
MAX_DEPTH = 8  # of messages in messages
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types; the others, of groups, are not proto3's

_EIGHT_BYTES = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64, FieldDescriptor.CPPTYPE_DOUBLE)
_NOT_PACKED = (FieldDescriptor.CPPTYPE_STRING, FieldDescriptor.CPPTYPE_MESSAGE)
_FIXED = {
    FieldDescriptor.TYPE_FIXED32: 4,
    FieldDescriptor.TYPE_SFIXED32: 4,
    FieldDescriptor.TYPE_FLOAT: 4,
    FieldDescriptor.TYPE_FIXED64: 8,
    FieldDescriptor.TYPE_SFIXED64: 8,
    FieldDescriptor.TYPE_DOUBLE: 8,
}  # bytes of a number of fixed width on the wire


class _Field(NamedTuple):
    name: str
    parts: dict[int, _Field] | None  # fields of its messages, by number, where it holds messages
    width: int  # bytes of a decoded number, where it is packed; else 0
    wire_width: int  # of a number on the wire, where that is fixed; else 0


def check_cost(message_class: type[Message], data: bytes, *, max_fields: int = MAX_FIELDS, max_bytes: int) -> None:
    """Check what decoding a message would take.

    Args:
        message_class: type of the message.
        data: its bytes.
        max_fields: most fields, repeated ones counted each time.
        max_bytes: most bytes of all its packed numbers, once decoded.

    Raises:
        InputError: it would take more, or its bytes are no fields.
    """
    if len(data) > SMALL_BYTES:
        _Scan(data, max_fields, max_bytes).scan(_fields(message_class.DESCRIPTOR), 0, len(data), 0)


class _Scan:
    """Pass over the fields of one message."""

    def __init__(self, data: bytes, max_fields: int, max_bytes: int) -> None:
        self._data = data
        self._max_fields = max_fields
        self._max_bytes = max_bytes
        self._count = 0
        self._decoded_bytes = 0

    def scan(self, fields: dict[int, _Field], position: int, end: int, depth: int) -> None:
        """Count the fields in ``data[position:end]``, and those of messages among them."""
        numbers: dict[int, int] = {}
        while position < end:
            self._count += 1
            if self._count > self._max_fields:
                raise _refusal(f"at most {self._max_fields} fields", "more")
            tag, position = self._varint(position, end)
            wire_type = tag & 7
            if wire_type == LENGTH:
                length, position = self._varint(position, end)
                stop = position + length
                if stop > end:
                    raise _unreadable(len(self._data))
                if (field := fields.get(tag >> 3)) is not None:
                    if field.parts is not None:
                        if depth == MAX_DEPTH:
                            raise _refusal(f"at most {MAX_DEPTH} messages in each other", "more")
                        self.scan(field.parts, position, stop, depth + 1)
                    elif field.width:
                        self._check_numbers(field, numbers, tag >> 3, position, stop)
                position = stop
            elif wire_type == VARINT:
                _, position = self._varint(position, end)
            elif wire_type in (FIXED64, FIXED32):
                position += 8 if wire_type == FIXED64 else 4
            else:
                raise _unreadable(len(self._data))
        if position != end:
            raise _unreadable(len(self._data))

    def _check_numbers(self, field: _Field, numbers: dict[int, int], number: int, position: int, stop: int) -> None:
        """Count the numbers of a packed field."""
        if field.wire_width:
            count = (stop - position) // field.wire_width
        else:  # a number's last byte is below 128
            count = int(np.count_nonzero(np.frombuffer(self._data, np.int8, stop - position, position) >= 0))
        numbers[number] = numbers.get(number, 0) + count
        if numbers[number] > MAX_NUMBERS and not field.name.endswith(VALUES):
            raise InputError(field.name, expected=f"at most {MAX_NUMBERS} numbers", got=str(numbers[number]))
        self._decoded_bytes += count * field.width
        if self._decoded_bytes > self._max_bytes:
            expected = f"values of at most {self._max_bytes} bytes in all; raw contents take the fewest"
            raise InputError(field.name, expected=expected, got=f"{self._decoded_bytes} so far")

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        """Read a number of variable length; return it and the position behind it."""
        value = shift = 0
        while position < end and shift < 70:
            byte = self._data[position]
            position += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, position
            shift += 7
        raise _unreadable(len(self._data))


@cache
def _fields(descriptor: Any) -> dict[int, _Field]:
    return {field.number: _field(field) for field in descriptor.fields}


def _field(field: FieldDescriptor) -> _Field:
    parts = None if field.message_type is None else _fields(field.message_type)
    width = 0
    if field.is_repeated and field.cpp_type not in _NOT_PACKED:
        width = 8 if field.cpp_type in _EIGHT_BYTES else 1 if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL else 4
    return _Field(field.name, parts, width, _FIXED.get(field.type, 0))


def _refusal(expected: str, got: str) -> InputError:
    return InputError("request", expected=f"a message of {expected}", got=got)


def _unreadable(size: int) -> InputError:
    return InputError("request", expected="a message of fields", got=f"{size} bytes that cannot be parsed as one")
