"""Plain data: values that JSON holds, and conversion from JSON to specification dataclasses."""

from __future__ import annotations

import dataclasses
import math
import re
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from torso.errors import SpecError

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 120
_LONGEST_PLACE = 500  # characters of an error's place


def shown(value: object) -> str:
    """Return a ``repr`` for error messages: one short line, whatever the value's size or depth."""
    return re.sub(r"\s*\n\s*", " ", _REPR.repr(value))


def plain(value: Any, what: str) -> Any:
    """Convert a value to the form in which JSON gives it back: tuples as lists, numpy's scalars as Python's.

    Raises:
        SpecError: a value that JSON cannot hold, such as an array, a path, NaN or infinity; ``what`` names its place.
    """
    return _plain(value, (what,))


def _plain(value: Any, place: tuple[str, ...]) -> Any:
    """Convert a value. ``place``: the names that lead to it, which are joined only for an error."""
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise SpecError(f"{_joined(place)} must have strings as keys, got {shown(key)}")
        return {_as_text(str(key), place): _plain(item, (*place, str(key))) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, place) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise SpecError(f"{_joined(place)} must be finite, got {value}")
    if isinstance(value, str):
        return _as_text(value, place)
    if value is not None and not isinstance(value, (bool, int, float)):
        raise SpecError(f"{_joined(place)} must be plain data (text, numbers, lists, dicts), got {shown(value)}")
    return value


def _joined(place: tuple[str, ...]) -> str:
    text = ".".join(place)
    return text if len(text) <= _LONGEST_PLACE else f"{text[:_LONGEST_PLACE]}..."


def _as_text(value: str, place: tuple[str, ...]) -> str:
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise SpecError(f"{_joined(place)} must be text that UTF-8 can hold, got {ascii(value)[:120]}") from error
    return value


def from_fields(spec_class: type, fields: object, what: str) -> Any:
    """Build a specification from JSON's fields; lists become tuples, unknown or missing fields are SpecErrors."""
    if not isinstance(fields, Mapping):
        raise SpecError(f"{what} must be an object, got {shown(fields)}")
    known = {field.name for field in dataclasses.fields(spec_class)}
    unknown = sorted(map(str, set(fields) - known))
    if unknown:
        raise SpecError(f"{what} has unknown fields {shown(unknown)}; known are {sorted(known)}")
    try:
        return spec_class(**{key: _tuples(value) for key, value in fields.items()})
    except TypeError as error:
        raise SpecError(f"{what} cannot be built from {shown(dict(fields))}: {error}") from error


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return value
