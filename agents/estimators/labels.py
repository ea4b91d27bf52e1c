"""Labels and arrays as users pass them: validated before a fit, so that what was learnt can be saved."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from torso.envs.datasets.labelling import two_spellings
from torso.errors import InputError

_ADVICE = "; pass text, numbers or booleans, such as y.astype(str)"


def as_numpy(values: Any) -> Any:
    """Convert a tensor on any device, or a list of such, to an array; other values stay as they are."""
    if isinstance(values, torch.Tensor):
        tensor = values.detach().cpu()
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    if isinstance(values, (list, tuple)) and any(isinstance(value, torch.Tensor) for value in values):
        return np.array([as_numpy(value) for value in values])
    return values


def require_no_dates(field: str, values: Any) -> None:
    """Refuse dates and times in an array or in a column of a frame; InputError."""
    dtypes: Any = getattr(values, "dtypes", getattr(values, "dtype", None))
    named = dtypes.items() if hasattr(dtypes, "items") else [(None, dtypes)]
    for name, dtype in named:
        if getattr(dtype, "kind", "") in ("m", "M"):
            column = "" if name is None else f" in column {name!r}"
            raise InputError(field, expected="numbers", got=f"{dtype}{column}; convert dates, to seconds for instance")


def as_class_labels(y: Any) -> NDArray[Any]:
    """Validate labels of one kind, text, numbers or booleans: [N], of their own dtype.

    y: an array, list, series, frame of one column, or tensor.

    Raises:
        InputError: missing labels, of several kinds, of other kinds, or one number spelt in two ways.
    """
    y = as_numpy(y)
    _require_one_kind(y)
    check_classification_targets(y)
    targets: NDArray[Any] = column_or_1d(y, warn=True)
    if targets.dtype.kind in "UO":
        spellings = two_spellings([label for label in targets.tolist() if isinstance(label, str)])
        if spellings is not None:
            got = f"{spellings[0]!r} and {spellings[1]!r}, which are one number"
            raise InputError("y", expected="labels written in one way", got=got)
    return targets


def _require_one_kind(y: ArrayLike) -> None:
    """Check the elements of lists and arrays of objects; other arrays are of one kind."""
    dtype = getattr(y, "dtype", None)
    if getattr(dtype, "kind", "") == "f":
        if not np.isfinite(np.asarray(y)).all():
            raise InputError("y", expected="labels", got="NaN or infinity")
        return
    if y is None:
        return
    if isinstance(dtype, np.dtype) and dtype.kind != "O":
        if dtype.kind not in "biuU":
            raise InputError("y", expected="labels that are text, numbers or booleans", got=f"{dtype}{_ADVICE}")
        return
    labels = _flat(y)
    kinds: dict[str, Any] = {}
    for row, label in enumerate(labels):
        kind = _kind(label)
        if kind == "missing":
            raise InputError("y", expected="a label for each row", got=f"{label!r} in row {row}; leave the row out")
        if kind not in ("text", "number", "boolean"):
            raise InputError(
                "y", expected="labels that are text, numbers or booleans", got=f"{label!r} ({kind}){_ADVICE}"
            )
        kinds.setdefault(kind, label)
    if len(kinds) > 1:
        got = " and ".join(f"{kind} ({label!r})" for kind, label in kinds.items())
        raise InputError("y", expected="labels of one kind, text, numbers or booleans", got=got)


def _flat(y: Any) -> Sequence[Any]:
    if isinstance(y, (list, tuple)):
        return list(chain.from_iterable(row if isinstance(row, (list, tuple, np.ndarray)) else (row,) for row in y))
    return list(np.asarray(y, dtype=object).ravel())


def _kind(label: Any) -> str:
    if label is None or type(label).__name__ in ("NAType", "NaTType"):
        return "missing"
    if isinstance(label, str):
        return "text"
    if isinstance(label, (bool, np.bool_)):
        return "boolean"
    if isinstance(label, (Real, np.number)):
        return "number" if np.isfinite(float(label)) else "missing"
    return type(label).__name__
