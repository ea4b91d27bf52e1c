"""A model on a CUDA device: one CUDA graph for each batch size, so that a forward is one launch."""

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
from torso.serve.inference.padding import PaddedForwards

WARM_UPS = 3  # before a capture: libraries choose their kernels and take their memory in the first calls

_capturing = threading.Lock()  # a capture synchronises the device at its start, which another's must not see


class CudaBackend:
    """The network on the current CUDA device, in float32 throughout, where torch on the CPU has it.

    Rows are copied through pinned memory and padded up to a batch size that there is a graph for. Raises ServerError
    where there is no CUDA device, where its memory is too small, or where the network cannot be captured.
    """

    name = "cuda"

    def __init__(self, network: Network, *, max_rows: int) -> None:
        if not torch.cuda.is_available():
            raise ServerError(
                "backend cuda: expected a CUDA device and a torch that can use it, found none; choose backend auto"
            )
        with _capturing, _full_float32():
            try:
                place = _Place(network)
                self._forwards = PaddedForwards(lambda size: _Graph(place, size), max_rows)
            except RuntimeError as error:  # torch's own, of memory too
                raise ServerError(f"backend cuda: this model cannot be captured in CUDA graphs: {error}") from error

    def run(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """[B, *shape] in the model's dtype; returns the readout, [B, K] float32."""
        return self._forwards.run(inputs)


class _Place:
    """What a model's graphs share: its weights, a stream and the memory for what lies between input and readout."""

    def __init__(self, network: Network) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        self.network = copy.deepcopy(network).to(self.device).eval()  # the one that was given stays where it is
        self.stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self.pool = torch.cuda.graph_pool_handle()


class _Graph:
    """A forward of ``size`` rows, captured."""

    @torch.inference_mode()
    def __init__(self, place: _Place, size: int) -> None:
        spec = place.network.spec.input
        pinned_inputs = torch.zeros((size, *spec.shape), dtype=getattr(torch, spec.dtype), pin_memory=True)
        self.inputs: NDArray[Any] = pinned_inputs.numpy()
        self._stream = place.stream
        self._pinned_inputs = pinned_inputs
        self._inputs = pinned_inputs.to(place.device)
        place.stream.wait_stream(torch.cuda.current_stream(place.device))
        with torch.cuda.stream(place.stream):
            for _ in range(WARM_UPS):
                place.network.readout(self._inputs)
        place.stream.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        # thread_local: other models go on serving from their threads meanwhile.
        with torch.cuda.graph(self._graph, pool=place.pool, stream=place.stream, capture_error_mode="thread_local"):
            self._readout = place.network.readout(self._inputs)
        self._pinned_readout = torch.zeros(self._readout.shape, dtype=torch.float32, pin_memory=True)
        self._answer: NDArray[np.float32] = self._pinned_readout.numpy()

    @torch.inference_mode()
    def run(self) -> NDArray[np.float32]:
        """Return the readout of what is in ``inputs``, [size, K]; the next run overwrites it."""
        with torch.cuda.stream(self._stream):
            self._inputs.copy_(self._pinned_inputs, non_blocking=True)
            self._graph.replay()
            self._pinned_readout.copy_(self._readout, non_blocking=True)
        self._stream.synchronize()
        return self._answer


@contextmanager
def _full_float32() -> Iterator[None]:
    """Choose kernels that multiply in float32; convolutions may by default round to TF32, which is not equal."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
