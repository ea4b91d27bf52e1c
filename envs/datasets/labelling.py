"""Interpret labels: classes, which are numbered and named, or numbers to predict.

Numbers of which at least one is not whole are to be predicted (as in scikit-learn's ``type_of_target``); anything else
is a class. ``task`` overrides that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from torso.errors import DatasetError

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")
_DECIMAL = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.[0-9]*)?")  # without leading zeros, as a code such as 007 has


def natural_order(text: str) -> tuple[tuple[tuple[int, str], ...], str]:
    """Build a sort key under which "2" comes before "10", and "scan2" before "scan10"."""
    parts = re.split(r"([0-9]+)", text)  # text and digits in turn
    numbers = [part.lstrip("0") for part in parts[1::2]]
    keys = [(0, part) for part in parts]
    keys[1::2] = [(len(number), number) for number in numbers]
    return tuple(keys), text


def class_names(texts: Sequence[str]) -> tuple[str | int, ...]:
    """List the classes that occur, in natural order; integers where all are written so ("3", not "03" or "3.0")."""
    distinct = set(texts)
    if all(_INTEGER.fullmatch(text) for text in distinct):
        return tuple(sorted(int(text) for text in distinct))
    return tuple(sorted(distinct, key=natural_order))


def two_spellings(texts: Sequence[str]) -> tuple[str, str] | None:
    """Find two labels that are one number, such as 1 and 1.0; None where there are none."""
    spelling: dict[float, str] = {}
    for name in sorted(set(texts)):
        other = spelling.setdefault(float(name), name) if _DECIMAL.fullmatch(name) else name
        if other != name:
            return other, name
    return None


def require_one_spelling(source: object, texts: Sequence[str]) -> None:
    """Raise ``DatasetError`` where two labels are one number written in two ways."""
    if (found := two_spellings(texts)) is not None:
        raise DatasetError(
            f"{source} must have labels written in one way, got {found[0]!r} and {found[1]!r}, which are one number; "
            "change one"
        )


def class_indices(texts: Sequence[str], names: Sequence[str | int]) -> npt.NDArray[np.int64]:
    """Encode labels as their indices in ``names``, [N] int64."""
    index = {str(name): label for label, name in enumerate(names)}
    return np.array([index[text] for text in texts], np.int64).reshape(len(texts))


def is_regression_target(numbers: npt.NDArray[np.float64]) -> bool:
    """Whether numbers look like regression targets: finite, and not all whole."""
    return bool(np.isfinite(numbers).all() and (numbers != np.trunc(numbers)).any())
