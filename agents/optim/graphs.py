"""Executor of CUDA graphs: a minibatch's update is captured once, and then replayed as one launch.

A small network's update is a few hundred kernels of microseconds each, which Python launches more slowly than a GPU
computes them. A graph launches all of them at once. See https://docs.pytorch.org/docs/stable/notes/cuda.html.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

B = TypeVar("B")
R = TypeVar("R")

WARM_UPS = 3  # updates before a capture, in which libraries choose their kernels and optimizers make their moments

_capturing = threading.Lock()  # a capture synchronises the device at its start, which another's must not see
_failed: list[torch.cuda.CUDAGraph] = []  # kept, since torch's allocator goes on asking them by their address
_log = logging.getLogger(__name__)


class Capture(Protocol):
    """Way to capture work on a device."""

    def warm_up(self, work: Callable[[], R]) -> R:
        """Run work as it stands, where it will be captured."""
        ...

    def record(self, work: Callable[[], R], generators: Sequence[torch.Generator]) -> Callable[[], R]:
        """Capture work without running it; RuntimeError where that fails.

        Returns what runs it, and returns the same tensors each time. generators: those that it draws from.
        """
        ...


class CudaCapture:
    """Capture of CUDA graphs, on a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def warm_up(self, work: Callable[[], R]) -> R:
        """Run work on the stream of the capture, after what was launched before and before what is launched next."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = work()
        current.wait_stream(self._stream)
        return result

    def record(self, work: Callable[[], R], generators: Sequence[torch.Generator]) -> Callable[[], R]:
        """Capture work as a graph. A replay draws from the generators what work itself would draw.

        After a failure the generators are as they were: torch leaves them as parts of the capture.
        """
        # The outer stream block: after a failed capture, torch's own does not return to the stream of before.
        with _capturing, torch.cuda.stream(self._stream):
            graph = torch.cuda.CUDAGraph()
            before = [generator.clone_state() for generator in generators]
            for generator in generators:
                graph.register_generator_state(generator)
            try:
                # thread_local: other threads, such as another training's, go on meanwhile.
                with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                    outputs = work()
            except RuntimeError:
                _failed.append(graph)
                for generator, state in zip(generators, before, strict=True):
                    generator.graphsafe_set_state(state)
                raise

        def replay() -> R:
            graph.replay()
            return outputs

        return replay


class GraphExecutor:
    """Executor that captures a call after three updates, and replays it from then on.

    The warm-up consists of the first updates of the training themselves, so it changes nothing that would have to be
    restored. Minibatches that are not shaped like the example run as they stand, and so does everything where the
    capture fails, which a warning in the log explains.
    """

    captures = True

    def __init__(self, device: torch.device, capture: Capture | None = None) -> None:
        self._capture: Capture = CudaCapture(device) if capture is None else capture

    def prepare(self, call: Callable[[B], R], example: B, generators: Sequence[torch.Generator]) -> Callable[[B], R]:
        """Return what runs ``call`` on minibatches that are shaped like ``example``, as a graph where it can.

        A minibatch is a named tuple of tensors, None and such tuples, and so is what ``call`` returns. What the call
        changes elsewhere, such as weights, must stay where it is in memory.
        """
        return _CapturedCall(self._capture, call, example, generators)


class _CapturedCall(Generic[B, R]):
    """A call with buffers for its input, once captured with buffers for its output."""

    def __init__(
        self, capture: Capture, call: Callable[[B], R], example: B, generators: Sequence[torch.Generator]
    ) -> None:
        self._capture = capture
        self._call = call
        self._generators = tuple(generators)
        self._inputs: B = _map_tensors(torch.empty_like, example)
        self._warm_ups = 0
        self._replay: Callable[[], R] | None = None
        self._has_failed = False

    def __call__(self, batch: B) -> R:
        if self._has_failed or not _are_alike(self._inputs, batch):
            return self._call(batch)
        if self._warm_ups < WARM_UPS:
            self._warm_ups += 1
            return self._capture.warm_up(lambda: self._call(batch))
        if self._replay is None:
            try:
                self._replay = self._capture.record(lambda: self._call(self._inputs), self._generators)
            except RuntimeError as error:  # torch's own, of memory too
                self._has_failed = True
                _log.warning("updates run without a CUDA graph, since none could be captured: %s", error)
                return self._call(batch)
        _copy_tensors(self._inputs, batch)
        outputs: R = _map_tensors(torch.clone, self._replay())  # the next replay overwrites its own
        return outputs


def _map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Apply a function to each tensor of nested tuples; everything else stays as it is."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        mapped = [_map_tensors(function, each) for each in value]
        return type(value)(*mapped) if hasattr(value, "_fields") else tuple(mapped)
    return value


def _copy_tensors(buffers: Any, value: Any) -> None:
    """Copy each tensor of nested tuples into the buffer in its place."""
    if isinstance(value, Tensor):
        buffers.copy_(value)
    elif isinstance(value, tuple):
        for buffer, each in zip(buffers, value, strict=True):
            _copy_tensors(buffer, each)


def _are_alike(one: Any, other: Any) -> bool:
    """Whether nested tuples are of one form: tensors of equal shapes, dtypes and devices, and all else equal."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_are_alike, one, other))
    return type(one) is type(other) and bool(one == other)
