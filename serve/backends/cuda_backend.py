"""CUDA backend: one CUDA graph for each batch size, so that a forward is one launch."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from torso.arrays import Array
from torso.errors import ServerError
from torso.nets import Network
from torso.nets.prediction.backend import Outputs, as_arrays
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
        self.initial_state = as_arrays(network.initial_state(1))
        with _capturing, _full_float32():
            try:
                context = _DeviceContext(network)
                self._forwards = PaddedForwards(lambda size: _Graph(context, size), max_rows)
            except RuntimeError as error:  # torch's own, of memory too
                raise ServerError(f"backend cuda: this model cannot be captured in CUDA graphs: {error}") from error

    def run(self, inputs: Array, *state: Array) -> Outputs:
        """Compute readout, [B, K] float32, and next state of inputs, [B, *shape] in the model's dtype, and a state."""
        return self._forwards.run(inputs, *state)


class _DeviceContext:
    """State that a model's graphs share: weights, a stream and a memory pool for intermediate results."""

    def __init__(self, network: Network) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        self.network = copy.deepcopy(network).to(self.device).eval()  # the caller's stays on its device
        self.stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self.pool = torch.cuda.graph_pool_handle()


class _Graph:
    """CUDA graph of a forward of ``size`` rows: inputs and state to readout and next state."""

    @torch.inference_mode()
    def __init__(self, context: _DeviceContext, size: int) -> None:
        network = context.network
        spec = network.spec.input
        inputs = torch.zeros((size, *spec.shape), dtype=getattr(torch, spec.dtype))
        self._pinned = [part.cpu().pin_memory() for part in (inputs, *network.initial_state(size))]
        self.arrays: Sequence[Array] = [part.numpy() for part in self._pinned]
        self._stream = context.stream
        self._inputs, *self._state = (part.to(context.device) for part in self._pinned)
        context.stream.wait_stream(torch.cuda.current_stream(context.device))
        with torch.cuda.stream(context.stream):
            for _ in range(WARM_UPS):
                network.step(self._inputs, tuple(self._state))
        context.stream.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        # thread_local: other models go on serving from their threads meanwhile.
        with torch.cuda.graph(self._graph, pool=context.pool, stream=context.stream, capture_error_mode="thread_local"):
            readout, next_state = network.step(self._inputs, tuple(self._state))
        self._outputs = (readout, *next_state)
        self._pinned_outputs = [torch.zeros(part.shape, dtype=part.dtype, pin_memory=True) for part in self._outputs]
        answer, *answer_state = (part.numpy() for part in self._pinned_outputs)
        self._answer: Outputs = (answer, *answer_state)

    @torch.inference_mode()
    def run(self) -> Outputs:
        """Replay the graph: return readout and next state of ``arrays``, [size, ...]; the next run overwrites them."""
        with torch.cuda.stream(self._stream):
            for device, pinned in zip((self._inputs, *self._state), self._pinned, strict=True):
                device.copy_(pinned, non_blocking=True)
            self._graph.replay()
            for pinned, output in zip(self._pinned_outputs, self._outputs, strict=True):
                pinned.copy_(output, non_blocking=True)
        self._stream.synchronize()
        return self._answer


@contextmanager
def _full_float32() -> Iterator[None]:
    """Disable TF32 within the block; convolutions may by default round to it, which is not equal to float32."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
