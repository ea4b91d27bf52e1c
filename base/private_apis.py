"""Private APIs of other packages that torso uses because no public one does the same; one function each.

Each says why. `tests/test_private_apis.py` has a test for each, so that a release which moves one fails by its name.
Nothing is imported before it is called: base is imported by processes that do not need torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any, NamedTuple


class Foreach(NamedTuple):
    """Torch's operations on lists of tensors, one call for a whole list."""

    norm: Callable[[Sequence[Any]], list[Any]]
    """``norm(tensors)``: the 2-norm of each."""
    mul_: Callable[[Sequence[Any], Any], None]
    """``mul_(tensors, factor)``: multiply each in place."""
    copy_: Callable[[Sequence[Any], Sequence[Any]], None]
    """``copy_(targets, sources)``: copy each in place."""
    lerp_: Callable[[Sequence[Any], Sequence[Any], float], None]
    """``lerp_(targets, sources, weight)``: move each towards its source in place."""


def torch_foreach() -> Foreach:
    """Return torch's list operations. The public ones, optimizers and clipping, cannot copy a target network."""
    torch = import_module("torch")
    return Foreach(torch._foreach_norm, torch._foreach_mul_, torch._foreach_copy_, torch._foreach_lerp_)


def torch_fused_adam() -> Callable[..., None]:
    """Return the kernel of torch's fused Adam; the public step around it costs as much for a small network.

    ``adam_(parameters, gradients, averages, averages of squares, [], steps, *, lr, beta1, beta2, weight_decay, eps,
    amsgrad, maximize)``: lists of tensors, updated in place; the steps are counted before it is called.
    """
    kernel: Callable[..., None] = import_module("torch")._fused_adam_
    return kernel


def cpu_multiplies_bfloat16() -> bool:
    """Whether the CPU has instructions for bfloat16 products; ``torch.cpu.get_capabilities`` is newer than 2.6."""
    cpu = import_module("torch.cpu")
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


RunOperation = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]


def intercept_operations(run: RunOperation) -> AbstractContextManager[Any]:
    """Return a context in which ``run(operation, args, kwargs)`` stands for each of torch's operations; it may call it.

    Torch has documented its dispatch modes without a public name. Left to itself, one imports torch's compiler.
    """
    mode = import_module("torch.utils._python_dispatch").TorchDispatchMode

    def dispatch(_self: Any, operation: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(operation, tuple(args), dict(kwargs or {}))

    methods = {"__torch_dispatch__": dispatch, "_should_skip_dynamo": classmethod(lambda _cls: False)}
    context: AbstractContextManager[Any] = type("Interception", (mode,), methods)()
    return context


ONNX_EXPORTER_LOGGER = "torch.onnx._internal.exporter._registration"  # it logs that torchvision is absent


def grpc_core() -> Any:
    """Return the module below ``grpc.aio``, whose public server ends at a call whose path is not UTF-8."""
    return import_module("grpc._cython.cygrpc")


def onnxruntime_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of ONNX Runtime, which have neither a public name nor a base class of their own."""
    state = import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    return tuple(each for each in vars(state).values() if isinstance(each, type) and issubclass(each, Exception))


class TensorBoard(NamedTuple):
    """Parts of tensorboardX that write an event file in place."""

    events_writer: Any
    """``events_writer(prefix, suffix)``: a writer of one file, with ``write_event``, ``flush`` and ``close``."""
    event: Any
    """The protobuf class of an event."""
    session_log: Any
    """The protobuf class of a session's start."""
    scalar: Callable[[str, float], Any]
    """``scalar(name, value)``: the summary of one number."""


def tensorboard() -> TensorBoard:
    """Write events without tensorboardX's thread: its public ``SummaryWriter.flush`` does not wait for it."""
    events = import_module("tensorboardX.proto.event_pb2")
    return TensorBoard(
        import_module("tensorboardX.event_file_writer").EventsWriter,
        events.Event,
        events.SessionLog,
        import_module("tensorboardX.summary").scalar,
    )
