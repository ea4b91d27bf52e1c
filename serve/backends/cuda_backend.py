"""CUDA backend: one CUDA graph for each batch size, so that a forward is one launch."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from torso.errors import ServerError
from torso.nets import Network
from torso.serve.backends.padding import PaddedForwards

WARM_UPS = 3  # before a capture: libraries choose their kernels and allocate their memory in the first calls

_capturing = threading.Lock()  # a capture synchronises the device at its start, which another's must not see


class CudaBackend:
    """Backend of a network on the current CUDA device, in float32 throughout, as torch has it on the CPU.

    Rows are copied through pinned memory and padded up to a batch size that has a graph. Raises ServerError where there
    is no CUDA device, where its memory is too small, or where the network cannot be captured.
    """

    name = "cuda"

    def __init__(self, network: Network, *, max_rows: int) -> None:
        if not torch.cuda.is_available():
            raise ServerError(
                "backend cuda must have a CUDA device and a torch that can use it, found none; choose backend auto"
            )
        with _capturing, _full_float32():
            try:
                context = _DeviceContext(network)
                self._forwards = PaddedForwards(lambda size: _Graph(context, size), max_rows)
            except RuntimeError as error:  # torch's own, of memory too
                raise ServerError(f"backend cuda: this model cannot be captured in CUDA graphs: {error}") from error

    def run(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Compute the readout of inputs, [B, *shape] in the model's dtype; returns [B, K] float32."""
        return self._forwards.run(inputs)


class _DeviceContext:
    """State that a model's graphs share: weights, a stream and a memory pool for intermediate results."""

    def __init__(self, network: Network) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        self.network = copy.deepcopy(network).to(self.device).eval()  # the caller's stays on its device
        self.stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self.pool = torch.cuda.graph_pool_handle()


class _Graph:
    """CUDA graph of a forward of ``size`` rows."""

    @torch.inference_mode()
    def __init__(self, context: _DeviceContext, size: int) -> None:
        spec = context.network.spec.input
        pinned_inputs = torch.zeros((size, *spec.shape), dtype=getattr(torch, spec.dtype), pin_memory=True)
        self.inputs: NDArray[Any] = pinned_inputs.numpy()
        self._stream = context.stream
        self._pinned_inputs = pinned_inputs
        self._inputs = pinned_inputs.to(context.device)
        context.stream.wait_stream(torch.cuda.current_stream(context.device))
        with torch.cuda.stream(context.stream):
            for _ in range(WARM_UPS):
                context.network.readout(self._inputs)
        context.stream.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        # thread_local: other models go on serving from their threads meanwhile.
        with torch.cuda.graph(self._graph, pool=context.pool, stream=context.stream, capture_error_mode="thread_local"):
            self._readout = context.network.readout(self._inputs)
        self._pinned_readout = torch.zeros(self._readout.shape, dtype=torch.float32, pin_memory=True)
        self._answer: NDArray[np.float32] = self._pinned_readout.numpy()

    @torch.inference_mode()
    def run(self) -> NDArray[np.float32]:
        """Replay the graph: return the readout of ``inputs``, [size, K]; the next run overwrites it."""
        with torch.cuda.stream(self._stream):
            self._inputs.copy_(self._pinned_inputs, non_blocking=True)
            self._graph.replay()
            self._pinned_readout.copy_(self._readout, non_blocking=True)
        self._stream.synchronize()
        return self._answer


@contextmanager
def _full_float32() -> Iterator[None]:
    """Disable TF32 within the block; convolutions may by default round to it, which is not equal to float32."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
