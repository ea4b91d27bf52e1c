"""Recurrent state as arrays: the one at an episode's start, and validation of one that a caller hands back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from torso.arrays import Array, ArrayState
from torso.errors import InputError


def repeat_rows(initial_state: ArrayState, rows: int) -> ArrayState:
    """Repeat the state at an episode's start, [1, ...] each, for so many rows: [rows, ...] each."""
    return tuple(np.repeat(part, rows, axis=0) for part in initial_state)


def check_state(state: Sequence[ArrayLike], initial_state: ArrayState, rows: int, field: str = "state") -> ArrayState:
    """Validate a state, and return it as contiguous arrays.

    It must have the tensors of ``initial_state``, [1, ...] each, in number, shape and dtype, but with ``rows`` rows,
    one for each observation, and only finite numbers.

    Raises:
        InputError: naming the field (``state`` or, for one tensor, ``state[0]``), what it must be and what it got.
    """
    if not initial_state:
        raise InputError(field, expected="empty: this model is not recurrent", got=f"{len(state)} tensors")
    if len(state) != len(initial_state):
        tensors = ", ".join(f"{part.dtype} {_shape_text(part)}" for part in initial_state)
        raise InputError(field, expected=f"{len(initial_state)} tensors ({tensors}) or none", got=f"{len(state)}")
    parts = zip(state, initial_state, strict=True)
    return tuple(_checked(part, own, rows, f"{field}[{index}]") for index, (part, own) in enumerate(parts))


def _checked(part: ArrayLike, own: Array, rows: int, field: str) -> Array:
    try:
        array = np.asarray(part)
    except (ValueError, TypeError, RuntimeError) as error:  # rows of several lengths, tensors of another device
        expected = f"{own.dtype} {_shape_text(own)}"
        raise InputError(field, expected=expected, got=f"{type(part).__name__} that is not an array") from error
    if array.dtype != own.dtype:
        raise InputError(f"{field}.dtype", expected=str(own.dtype), got=str(array.dtype))
    if array.shape != (rows, *own.shape[1:]):
        expected = f"{[rows, *own.shape[1:]]}, a row for each observation"
        raise InputError(f"{field}.shape", expected=expected, got=str(list(array.shape)))
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(field, expected="finite numbers", got="NaN or infinity")
    return np.ascontiguousarray(array)


def _shape_text(part: Array) -> str:
    return f"[{', '.join(map(str, ('batch', *part.shape[1:])))}]"
