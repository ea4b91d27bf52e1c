"""Values of options: read from text by the option's type, and written as text for the help."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from torso.cli.arguments.options import Option
from torso.errors import ConfigError

_MAX_DIGITS = 18  # of a whole number; 1e999999999 would fill the memory
_BOOLS = {"true": True, "on": True, "yes": True, "1": True, "false": False, "off": False, "no": False, "0": False}


def read_value(option: Option, text: str) -> Any:
    """Read one value of an option; ConfigError where it is of no type that the option takes."""
    if option.takes_none and text.lower() == "none":
        return None
    for kind in option.types:
        try:
            return _reader(kind)(text)
        except ValueError:
            continue
    raise ConfigError(f"{option.label} must be {expected(option)}, got {text!r}")


def expected(option: Option) -> str:
    """Describe the values that an option takes, such as "a whole number, or none"."""
    if option.choices:
        words = [*option.choices, *(["none"] if option.takes_none else [])]
        return f"one of {', '.join(words)}"
    parts = [_described(kind) for kind in option.types]
    return ", or ".join([*parts, *(["none"] if option.takes_none else [])])


def _described(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    names = {int: "a whole number such as 1000 or 1e3", float: "a number", bool: "true or false"}
    return names.get(kind, "a path" if kind is Path else "a text")


def _reader(kind: Any) -> Callable[[str], Any]:
    if get_origin(kind) is Literal:
        return lambda text: _choice(kind, text)
    readers: dict[Any, Callable[[str], Any]] = {int: _whole, bool: _bool, Path: _path}
    reader: Callable[[str], Any] = readers.get(kind, kind)
    return reader


def _whole(text: str) -> int:
    """Read a whole number: 100000, 100_000 and 1e5 are the same."""
    try:
        number = Decimal(text)
    except InvalidOperation as error:
        raise ValueError(text) from error
    if not number.is_finite() or number.adjusted() > _MAX_DIGITS or number != number.to_integral_value():
        raise ValueError(text)
    return int(number)


def _bool(text: str) -> bool:
    if text.lower() not in _BOOLS:
        raise ValueError(text)
    return _BOOLS[text.lower()]


def _path(text: str) -> Path:
    if not text:
        raise ValueError(text)
    return Path(text)


def _choice(kind: Any, text: str) -> Any:
    for word in get_args(kind):
        if str(word) == text:
            return word
    raise ValueError(text)


def written(value: Any) -> str:
    """Write a value as it is given on a command line."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return " ".join(map(written, value))
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:_}"
    if isinstance(value, float) and value.is_integer() and math.fabs(value) < 1e15:
        return str(int(value))
    return "none" if value is None else str(value)
