"""Refuse what a GPU or its host would wait for, on any machine: code runs on the ``meta`` device, which has no data.

There, reading a value fails by itself: ``item``, a branch, ``nonzero``, a boolean index, a copy to the CPU. The rest,
which ``meta`` lets pass, is refused here: CPU tensors of any rank that enter an operation or leave one, Python's and
NumPy's values that become a tensor on the device, and operations that read values within their CUDA kernels. Generators
may be the CPU's, since ``meta`` has none.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.adam import Adam, _single_tensor_adam
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from torso.nets.modules.layers import InputScaling
from torso.private_apis import intercept_operations

# The exceptions: functions in which there may be CPU tensors, and copies from them that do not block.
ON_THE_HOST: tuple[Callable[..., Any], ...] = (
    # Without fused kernels Adam counts its steps on the CPU, and reads them there, whatever device the parameters are
    # on. A GPU's Adam is fused (`make_optimizer`) and has no such tensors.
    Adam._init_group,
    _single_tensor_adam,
    # The running statistics of observations are the host's. They are the one upload of an update; nothing waits for it.
    InputScaling.set_statistics,
)

_READ_VALUES = frozenset({"aten::multinomial", "aten::histc", "aten::_linalg_check_errors"})  # in their CUDA kernels
_INDEX = frozenset({"aten::index", "aten::index_put", "aten::index_put_"})
_COPY = frozenset({"aten::copy_", "aten::_to_copy"})
_FROM_VALUES = frozenset({torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor})


class HostTransferError(AssertionError):
    """Something that a GPU or its host would wait for."""


@contextmanager
def refuse_host_transfers(*on_the_host: Callable[..., Any]) -> Iterator[None]:
    """Raise HostTransferError where code in this block does what a GPU or its host would wait for.

    on_the_host: functions that are exceptions, beside `ON_THE_HOST`.
    """
    codes = frozenset(inspect.unwrap(function).__code__ for function in (*ON_THE_HOST, *on_the_host))

    def require_on_device(name: str, values: object, *, may_mix: bool) -> None:
        devices = {leaf.device.type for leaf in tree_leaves(values) if isinstance(leaf, Tensor)}
        if "cpu" in devices and not _is_within(codes):
            raise HostTransferError(f"{name} takes or makes a tensor on the CPU")
        if len(devices) > 1 and not may_mix:
            raise HostTransferError(f"{name} waits for a tensor on the CPU")

    def run(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = operation.name().partition(".")[0]
        if name in _READ_VALUES:
            raise HostTransferError(f"{name} reads values")
        if name in _INDEX and any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]):
            raise HostTransferError(f"{name} with a mask counts its values; masked_fill and where do not")
        may_mix = name in _COPY and _does_not_block(args, kwargs)
        require_on_device(name, (args, kwargs), may_mix=may_mix)  # before some operations say so in words of their own
        result = operation(*args, **kwargs)
        require_on_device(name, (args, kwargs, result), may_mix=may_mix)
        return result

    with _RefuseValues(), intercept_operations(run):
        yield


class _RefuseValues(TorchFunctionMode):
    """Refuse tensors on ``meta`` that are made of values, which no operation shows: there is nothing to copy."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in _FROM_VALUES and not isinstance(args[-1], Tensor):
            device = args[0].device if function is Tensor.new_tensor else torch.device(kwargs.get("device") or "cpu")
            if device.type != "cpu":  # one on the CPU is made by an operation
                raise HostTransferError(f"{function.__name__} copies values to the device; full and arange do not")
        if function in (Tensor.__getitem__, Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(each, (list, np.ndarray)) for each in index):
                raise HostTransferError("an index of numbers is copied to the device; index with a tensor there")
        return function(*args, **kwargs)


def _does_not_block(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a copy is non-blocking: the third argument of ``copy_``, named in ``_to_copy``."""
    return bool(args[2] if len(args) > 2 else kwargs.get("non_blocking", False))


def _is_within(codes: frozenset[CodeType]) -> bool:
    """Whether a function of such code is being called."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code not in codes:
        frame = frame.f_back
    return frame is not None
