"""Description of an env's observations and actions, and flattening of its observations to a network's input."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from torso.arrays import Array
from torso.checks import assign, choice, each, require_axes, whole
from torso.errors import InputError, SpecError
from torso.plain import from_fields, plain, shown

_DTYPES = ("bool", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)))
_DTYPES += ("float16", "float32", "float64")

MAX_PARTS = 4096  # each is flattened on its own, for every observation
SpaceKind = Literal["discrete", "numbers", "tuple", "dict"]


@dataclass(frozen=True, kw_only=True)
class SpaceSpec:
    """Observation space whose values become one vector: discrete numbers one-hot, other numbers as they are.

    The order and the values are those of Gymnasium's ``FlattenObservation``.
    """

    kind: SpaceKind
    """``discrete`` (one number of several in each place), ``numbers``, or ``tuple`` and ``dict``, which have parts."""
    shape: tuple[int, ...] = ()
    """Shape of a value without parts."""
    dtype: str = "int64"
    """NumPy's name of the dtype of a value without parts."""
    sizes: tuple[int, ...] = ()
    """For each place of a ``discrete`` value: how many numbers it may be."""
    starts: tuple[int, ...] = ()
    """For each place of a ``discrete`` value: the first of its numbers."""
    keys: tuple[str | int, ...] = ()
    """Keys of a ``dict``'s parts."""
    parts: tuple[SpaceSpec, ...] = ()
    """Parts of a ``tuple`` or a ``dict``, in the order in which they are flattened."""

    def __post_init__(self) -> None:
        choice("a space's kind", self.kind, ("discrete", "numbers", "tuple", "dict"))
        if self.kind in ("tuple", "dict"):
            self._check_parts()
            return
        require_axes("a space's shape", self.shape)
        assign(self, shape=each("a space's shape", self.shape, whole))
        choice("a space's dtype", self.dtype, _DTYPES)
        if self.kind == "discrete":
            assign(self, sizes=each("sizes", self.sizes, whole), starts=each("starts", self.starts, _integer))
            places = math.prod(self.shape)
            if (len(self.sizes), len(self.starts)) != (places, places):
                raise SpecError(
                    f"sizes and starts must hold {places} numbers, one a place of {list(self.shape)}, got "
                    f"{len(self.sizes)} and {len(self.starts)}"
                )

    def _check_parts(self) -> None:
        if not isinstance(self.parts, tuple) or not self.parts:
            raise SpecError(f"a space's parts must be at least 1 space, got {shown(self.parts)}")
        parts: list[SpaceSpec] = []
        num_parts = 0  # with those of parts
        for part in self.parts:
            spec = from_fields(SpaceSpec, part, "a space") if isinstance(part, dict) else part
            if not isinstance(spec, SpaceSpec):
                raise SpecError(f"each of a space's parts must be a space, got {shown(spec)}")
            parts.append(spec)
            num_parts += 1 + spec.num_parts
            if num_parts > MAX_PARTS:
                raise SpecError(f"a space must have at most {MAX_PARTS} parts, those of its parts among them, got more")
        assign(self, parts=tuple(parts))
        known = isinstance(self.keys, tuple) and all(type(key) in (str, int) for key in self.keys)
        if self.kind == "dict" and not (known and len(self.keys) == len(set(self.keys)) == len(parts)):
            raise SpecError(f"keys must be {len(parts)} different texts or numbers, one a part, got {shown(self.keys)}")

    @classmethod
    def from_json(cls, data: object) -> SpaceSpec:
        """Build the description that `to_json` wrote; SpecError names what is wrong with anything else."""
        spec: SpaceSpec = from_fields(cls, data, "a space")
        return spec

    def to_json(self) -> dict[str, Any]:
        """Return the description as plain data; fields that say nothing are left out."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        fields["parts"] = [part.to_json() for part in self.parts]
        if self.parts:
            del fields["dtype"]
        has_shape = not self.parts
        kept = {name: value for name, value in fields.items() if value or (name == "shape" and has_shape)}
        return plain(kept, "a space")  # type: ignore[no-any-return]

    @cached_property
    def num_parts(self) -> int:
        """Number of parts, those of parts among them."""
        return sum(1 + part.num_parts for part in self.parts)

    @cached_property
    def size(self) -> int:
        """Number of values of one flattened observation."""
        if self.parts:
            return sum(part.size for part in self.parts)
        return sum(self.sizes) if self.kind == "discrete" else math.prod(self.shape)

    def __str__(self) -> str:
        """Format the space as Gymnasium would, in short."""
        if self.kind == "dict":
            inner = ", ".join(f"{key!r}: {part}" for key, part in zip(self.keys, self.parts, strict=True))
            return f"Dict({inner})"
        if self.kind == "tuple":
            return f"Tuple({', '.join(map(str, self.parts))})"
        if self.kind == "numbers":
            return f"Box({list(self.shape)}, {self.dtype})"
        sizes, starts = (each if self.shape else each[0] for each in (list(self.sizes), list(self.starts)))
        start = f", start={starts}" if any(self.starts) else ""
        return f"{'MultiDiscrete' if self.shape else 'Discrete'}({sizes}{start})"

    def flatten(self, value: Any, field: str = "observations", *, strict: bool = False) -> tuple[Array | None, bool]:
        """Flatten one observation of the space, or a batch: returns rows [B, size], and whether it was one.

        A batch is an array or, for parts, a tuple or dict of arrays with a leading axis, as a vector env stacks them;
        or a list of observations. The rows are None for an array that is flattened already, [size] or [B, size], or
        that is nothing of the space. An array of ``size`` discrete numbers counts as flattened where it is one-hot.
        strict: only arrays are taken, batches only, and discrete numbers only as integers.

        Raises:
            InputError: an observation outside the space, or of another structure.
        """
        if isinstance(value, np.ndarray) and value.dtype == object:
            value = value.tolist()
        if isinstance(value, Mapping) or (self.kind == "tuple" and isinstance(value, tuple)):
            return self._joined(*self._read(value, field))
        if self.parts and isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
            return self._stacked(value, field), False
        array = _numbers(value)
        if array is None:
            if self.kind == "tuple" and isinstance(value, list):
                return self._of_list(value, field)
            return (self._stacked(value, field), False) if self.parts and isinstance(value, list) else (None, False)
        if self._is_flat(array, strict=strict):
            return None, array.ndim == 1
        if self.kind == "tuple":
            if array.ndim == 0 or (strict and (array.ndim == 1 or array.dtype.kind not in "iu")):
                return None, False
            return self._of_list(list(array), field)
        is_batch = array.ndim == len(self.shape) + 1 and array.shape[1:] == self.shape
        if self.kind == "dict" or not (is_batch or (array.shape == self.shape and not strict)):
            return None, False
        if strict and (array.dtype.kind not in "iu" if self.kind == "discrete" else array.dtype.name != self.dtype):
            expected = "integers" if self.kind == "discrete" else self.dtype
            raise InputError(f"{field}.dtype", expected=expected, got=str(array.dtype))
        return self._joined(*self._read(array, field))

    def _is_flat(self, array: Array, *, strict: bool) -> bool:
        """Whether an array is flattened observations rather than the space's own."""
        if array.ndim == 1 and strict:
            return False
        if array.shape == self.shape and self.kind == "numbers":
            return False
        rows = np.atleast_2d(array)
        if rows.ndim != 2 or rows.shape[1] != self.size or array.ndim == 0:
            return False
        own = (len(self.parts),) if self.parts else self.shape  # where it has as many values, they tell
        is_own_size = own == (self.size,) or (self.kind == "discrete" and own == () and array.ndim == 1)
        return not is_own_size or self._is_one_hot(rows)

    def _is_one_hot(self, rows: Array) -> bool:
        """Whether the discrete numbers in flattened rows, [B, size], are one-hot."""
        if self.parts:
            ends = np.cumsum([part.size for part in self.parts])
            parts = zip(self.parts, np.split(rows, ends[:-1], axis=1), strict=True)
            return all(part._is_one_hot(columns) for part, columns in parts)
        if self.kind == "numbers":
            return True
        places = np.add.reduceat(rows.astype(np.float64), np.cumsum((0, *self.sizes[:-1])), axis=1)
        return bool(np.isin(rows, (0, 1)).all() and (places == 1).all())

    def _of_list(self, value: Sequence[Any], field: str) -> tuple[Array, bool]:
        """Flatten a list, for a tuple: observations where each of its items is one, else the parts of one."""
        try:
            return self._stacked(value, field), False
        except InputError as error:
            try:
                rows, is_one = self._joined(*self._read(tuple(value), field))
            except InputError as other:
                raise (other if len(value) == len(self.parts) else error) from None
            if is_one:
                return rows, True
            raise

    def _stacked(self, values: Sequence[Any], field: str) -> Array:
        """Flatten a list of observations, [B, size]."""
        rows = []
        for index, value in enumerate(values):
            row, is_one = self._joined(*self._read(value, f"{field}[{index}]"))
            if not is_one:
                raise InputError(f"{field}[{index}]", expected=f"one observation of {self}", got=f"{len(row)}")
            rows.append(row)
        return np.concatenate(rows) if rows else np.zeros((0, self.size))

    def _joined(self, is_one: bool, rows: list[Array]) -> tuple[Array, bool]:
        return np.concatenate(rows, axis=1), is_one

    def _read(self, value: Any, field: str) -> tuple[bool, list[Array]]:
        """Read a value or a stack of them: whether it is one, and the flattened leaves, [B, n] each."""
        if self.parts:
            return self._read_parts(value, field)
        array = _numbers(value)
        if array is None:
            raise InputError(field, expected=f"a value of {self}", got=shown(value))
        is_one = array.shape == self.shape
        if not is_one and (array.ndim != len(self.shape) + 1 or array.shape[1:] != self.shape):
            raise InputError(f"{field}.shape", expected=f"{list(self.shape)}, as {self}'s", got=str(list(array.shape)))
        rows = array.reshape(1 if is_one else len(array), math.prod(self.shape))
        return is_one, [self._one_hot(rows, field) if self.kind == "discrete" else self._cast(rows, field)]

    def _read_parts(self, value: Any, field: str) -> tuple[bool, list[Array]]:
        if self.kind == "dict":
            if not isinstance(value, Mapping) or not set(self.keys) <= set(value):
                got = f"the keys {list(value)}" if isinstance(value, Mapping) else shown(value)
                raise InputError(field, expected=f"a dict with the keys {list(self.keys)}", got=got)
            named: list[tuple[Any, Any]] = [(key, value[key]) for key in self.keys]
        else:
            is_sequence = isinstance(value, (tuple, list)) or (isinstance(value, np.ndarray) and value.ndim > 0)
            if not is_sequence or len(value) != len(self.parts):
                raise InputError(field, expected=f"a tuple of {len(self.parts)} parts", got=shown(value))
            named = list(enumerate(value))
        read = [part._read(item, f"{field}[{key!r}]") for part, (key, item) in zip(self.parts, named, strict=True)]
        counts = {(is_one, len(rows[0])) for is_one, rows in read}
        if len(counts) > 1:
            raise InputError(
                field, expected="parts of one observation, or of equally many", got=f"{[len(r[0]) for _, r in read]}"
            )
        return read[0][0], [row for _, rows in read for row in rows]

    def _one_hot(self, values: Array, field: str) -> Array:
        """Encode discrete numbers [B, places] one-hot, [B, size]."""
        starts, sizes = np.array(self.starts, dtype=np.int64), np.array(self.sizes, dtype=np.int64)
        fits = (values >= starts) & (values < starts + sizes) & (values == np.floor(values))
        if not fits.all():
            row, place = np.argwhere(~fits)[0]
            first = self.starts[place]
            expected = f"whole numbers from {first} to {first + self.sizes[place] - 1}, as {self}'s"
            raise InputError(field, expected=expected, got=str(values[row, place]))
        hot = np.zeros((len(values), self.size), dtype=self.dtype)
        offsets = np.cumsum((0, *self.sizes[:-1]))
        hot[np.arange(len(values))[:, np.newaxis], values.astype(np.int64) - starts + offsets] = 1
        return hot

    def _cast(self, values: Array, field: str) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):
            cast = values.astype(self.dtype)
        if cast.dtype.kind != "f" and not np.array_equal(cast, values):
            raise InputError(field, expected=f"values that {self.dtype} can hold", got=f"{values.dtype} values")
        return cast


@dataclass(frozen=True, kw_only=True)
class Interface:
    """Observations and actions of a policy, or of an env."""

    shape: tuple[int, ...]
    """Shape of one observation, flattened where the space is."""
    dtype: str
    """NumPy's name of the observations' dtype."""
    num_actions: int
    """Number of actions."""
    action_start: int | None
    """The env's number for action 0; None where a server does not say."""
    space: SpaceSpec | None = None
    """The space whose observations are flattened; None where they are arrays, or nobody says."""


def _numbers(value: Any) -> Array | None:
    """Convert a value to an array of numbers; None where it is none."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError):  # ragged, or a tensor of another device
        return None
    return array if array.dtype.kind in "biuf" else None


def _integer(name: str, value: object) -> int:
    return whole(name, value, least=-(2**31))
