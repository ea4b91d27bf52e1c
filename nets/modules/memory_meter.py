"""Memory meter: count the bytes of the tensors that torch's operations make, and refuse those beyond a limit."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from torso.private_apis import intercept_operations

CHANNEL_BLOCK = 16  # of oneDNN's layouts, in which torch convolves on CPUs; a gray image takes 16 times its size there
_BROADCAST = frozenset(("add", "sub", "mul", "div"))
_AS_LARGE_AS_ITS_FIRST = frozenset(  # or, as a pool's, hardly larger
    (
        *("_to_copy", "clone", "neg", "relu", "sigmoid", "tanh", "gelu", "leaky_relu", "softplus", "cos", "_softmax"),
        *("native_batch_norm", "native_group_norm", "native_layer_norm", "max_pool2d_with_indices", "avg_pool2d"),
    )
)


class MemoryLimitError(RuntimeError):
    """Error of an operation that was not run, since its result would take more memory than a `MemoryMeter` allows.

    ``num_bytes``: what would be alive with the result; ``limit``: the most that may be.
    """

    def __init__(self, num_bytes: int, limit: int) -> None:
        super().__init__(f"it takes {num_bytes:,} bytes or more, and may take {limit:,}")
        self.num_bytes = num_bytes
        self.limit = limit


class TooManyTensorsError(RuntimeError):
    """Error of tensors that are more than a `MemoryMeter` allows, however small."""


class MemoryMeter:
    """Context in which tensors that are made and still alive may take at most ``limit`` bytes together.

    Before an operation runs, its result's size is computed from its arguments' shapes; where that would be too much,
    MemoryLimitError is raised instead. Where it depends on values, the operation runs and is counted afterwards.
    ``peak`` is the most bytes that were alive at once, and of a convolution those that it works in. Storages are
    counted, not views of them. At most ``max_tensors`` may be alive, whose modules and names take memory, too.
    """

    def __init__(self, limit: int, max_tensors: int | None = None) -> None:
        self.limit = limit
        self.max_tensors = max_tensors
        self.alive = 0
        self.peak = 0
        self._counted: set[int] = set()  # ids of storages that are alive
        self._interception = intercept_operations(self._run)

    def __enter__(self) -> Self:
        self._interception.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._interception.__exit__(kind, error, traceback)

    def _run(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = operation.name().partition("::")[2].partition(".")[0]
        workspace = _workspace_bytes(name, args)
        self._require_room(workspace + _predicted_bytes(operation, name, args, kwargs))
        given = {id(storage) for storage in _storages((args, kwargs))}
        results = operation(*args, **kwargs)
        for storage in _storages(results):
            if id(storage) not in given and id(storage) not in self._counted:
                self._count(storage)
        self.peak = max(self.peak, self.alive + workspace)
        self._require_room(workspace)
        return results

    def _require_room(self, num_bytes: int) -> None:
        if self.alive + num_bytes > self.limit:
            raise MemoryLimitError(self.alive + num_bytes, self.limit)

    def _count(self, storage: torch.UntypedStorage) -> None:
        num_bytes = storage.nbytes()
        if self.max_tensors is not None and len(self._counted) >= self.max_tensors:
            raise TooManyTensorsError(f"it makes more than {self.max_tensors:,} tensors")
        self._counted.add(id(storage))
        self.alive += num_bytes
        weakref.finalize(storage, self._forget, id(storage), num_bytes).atexit = False

    def _forget(self, identity: int, num_bytes: int) -> None:
        self._counted.discard(identity)
        self.alive -= num_bytes


def _workspace_bytes(name: str, args: tuple[Any, ...]) -> int:
    """Compute the bytes that a convolution on CPUs takes for a copy of its inputs, channels in blocks of 16."""
    if name != "convolution":
        return 0
    inputs = args[0]
    channels = -(-inputs.shape[1] // CHANNEL_BLOCK) * CHANNEL_BLOCK
    return int(math.prod((inputs.shape[0], channels, *inputs.shape[2:])) * inputs.dtype.itemsize)


def _predicted_bytes(operation: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Compute the bytes of an operation's new storages; 0 where the meta device cannot compute them."""
    if name.endswith("_") or getattr(operation, "is_view", False):  # in place, or of the same storage
        return 0
    size = _result_size(name, args)
    if size is not None:
        dtypes = [kwargs.get("dtype"), *(value.dtype for value in args if isinstance(value, Tensor))]
        return size * max([torch.float32.itemsize, *(dtype.itemsize for dtype in dtypes if dtype is not None)])
    args, kwargs = _on_meta(args), _on_meta(kwargs)
    given = {id(storage): storage for storage in _storages((args, kwargs))}
    if "device" in kwargs or not given:
        kwargs["device"] = torch.device("meta")
    try:
        results = operation(*args, **kwargs)
    except (RuntimeError, TypeError):  # the operation itself fails too, or is counted once it has run
        return 0
    found = {id(storage): storage.nbytes() for storage in _storages(results) if id(storage) not in given}
    return sum(found.values())


def _result_size(name: str, args: tuple[Any, ...]) -> int | None:
    """Compute how many values a common operation's result has; None for others.

    The meta device would do; but the first of most operations on it imports torch's compiler, in a second.
    """
    if name in _AS_LARGE_AS_ITS_FIRST:
        return int(args[0].numel())
    if name in _BROADCAST:
        shapes = (reversed(value.shape) for value in args if isinstance(value, Tensor))
        return math.prod(map(max, zip_longest(*shapes, fillvalue=1)))
    if name == "mean":
        dims = args[1] if len(args) > 1 and args[1] else range(args[0].dim())
        return int(args[0].numel() // max(1, math.prod(args[0].shape[dim] for dim in dims)))
    if name == "linspace":
        return int(args[2])
    if name == "arange" and len(args) == 1:
        return 2 * math.ceil(float(args[0]))  # 8 bytes each, where they are whole
    if name == "_unsafe_view":
        return 0
    if name == "mv":
        return int(args[0].shape[0])
    if name in ("mm", "addmm"):
        rows, columns = args[-2:]
        return int(rows.shape[0] * columns.shape[1])
    if name == "convolution":
        inputs, weight, _, stride, padding, dilation, transposed = args[:7]
        if not transposed:
            sides = zip(inputs.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
            pixels = [(side + 2 * pad - gap * (kernel - 1) - 1) // step + 1 for side, kernel, step, pad, gap in sides]
            return int(math.prod((inputs.shape[0], weight.shape[0], *pixels)))
    return None


def _on_meta(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("meta")
    if isinstance(value, (tuple, list)):
        return type(value)(map(_on_meta, value))
    if isinstance(value, Mapping):
        return {name: _on_meta(item) for name, item in value.items()}
    return None if isinstance(value, torch.Generator) else value


def _storages(value: Any) -> Iterator[torch.UntypedStorage]:
    if isinstance(value, Tensor):
        yield value.untyped_storage()
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _storages(item)
    elif isinstance(value, Mapping):
        yield from _storages(list(value.values()))
