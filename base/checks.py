"""Validate the fields of a specification: each check names the field, what it must be and what it got."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np

from torso.errors import SpecError
from torso.plain import shown

T = TypeVar("T")
FLOAT32 = np.finfo(np.float32)
_LARGEST_SIZE = 2**31 - 1
MAX_AXES = 31  # numpy has had 32 before 2.0, and one is the batch's


def choice(name: str, value: object, known: tuple[str, ...]) -> None:
    """Check that a value is one of the strings in ``known``."""
    if not isinstance(value, str) or value not in known:
        raise SpecError(f"{name} must be one of {', '.join(known)}; got {shown(value)}")


def whole(name: str, value: object, *, least: int = 1, most: int | None = _LARGEST_SIZE) -> int:
    """Return a whole number as Python's int, whichever library's it was."""
    if isinstance(value, Integral) and not isinstance(value, bool) and least <= int(value):
        if most is None or int(value) <= most:
            return int(value)
        raise SpecError(f"{name} must be a whole number of at most {most}, got {shown(value)}")
    raise SpecError(f"{name} must be a whole number of at least {least}, got {shown(value)}")


def count(name: str, value: object) -> int:
    """Return a whole number of at least 1, however large."""
    return whole(name, value, most=None)


def number(name: str, value: object) -> float:
    """Return a number as Python's float: one that float32, in which networks compute, can hold."""
    if isinstance(value, Real) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            if abs(float(value)) <= float(FLOAT32.max):
                return float(value)
    raise SpecError(f"{name} must be a finite number, got {shown(value)}")


def positive(name: str, value: object) -> float:
    """Return a number above 0, and not so small that float32 makes it 0."""
    found = number(name, value)
    if found < float(FLOAT32.tiny):
        raise SpecError(f"{name} must be positive, got {found}")
    return found


def fraction(name: str, value: object) -> float:
    """Return a number in [0, 1)."""
    found = number(name, value)
    if not 0 <= found < 1:
        raise SpecError(f"{name} must lie in [0, 1), got {found}")
    return found


def share(name: str, value: object) -> float:
    """Return a number in [0, 1]."""
    found = number(name, value)
    if not 0 <= found <= 1:
        raise SpecError(f"{name} must lie in [0, 1], got {found}")
    return found


def optional(check: Callable[[str, object], T]) -> Callable[[str, object], T | None]:
    """Return a check that lets None pass."""
    return lambda name, value: None if value is None else check(name, value)


def text(name: str, value: object) -> str:
    """Return text that is not empty."""
    if not isinstance(value, str) or not value:
        raise SpecError(f"{name} must be text, got {shown(value)}")
    return str(value)


def path(name: str, value: object) -> str:
    """Return a path as text."""
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        raise SpecError(f"{name} must be a path, got {shown(value)}")
    return os.fsdecode(os.fspath(value))


def flag(name: str, value: object) -> bool:
    """Return True or False; nothing that merely counts as one of them is accepted."""
    if not isinstance(value, (bool, np.bool_)):
        raise SpecError(f"{name} must be True or False, got {shown(value)}")
    return bool(value)


def each(name: str, values: object, check: Callable[[str, object], Any]) -> tuple[Any, ...]:
    """Return a sequence as a tuple of its items, each as ``check`` returns it."""
    if not isinstance(values, (list, tuple, np.ndarray)):
        raise SpecError(f"{name} must be a tuple, got {shown(values)}")
    return tuple(check(f"each of {name}", value) for value in values)


def require_axes(name: str, shape: object) -> None:
    """Check that a shape has no more axes than arrays can have, beside that of a batch."""
    if isinstance(shape, (list, tuple, np.ndarray)) and len(shape) > MAX_AXES:
        raise SpecError(f"{name} must have at most {MAX_AXES} axes, got {len(shape)}")


def assign(spec: object, **values: object) -> None:
    """Set fields of a frozen specification to their checked values."""
    for name, value in values.items():
        object.__setattr__(spec, name, value)
