"""The private APIs that torso leans on are where they were and do what they did."""

from __future__ import annotations

import ast
import importlib
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from rooms import FOLDERS
from tensorboardX.proto.event_pb2 import Event

from torso import private_apis

ROOT = Path(__file__).parents[1]


def test_lists_of_tensors() -> None:
    foreach = private_apis.torch_foreach()
    tensors = [torch.tensor([3.0, 4.0]), torch.tensor([[2.0]])]
    assert [norm.item() for norm in foreach.norm(tensors)] == [5.0, 2.0]
    foreach.mul_(tensors, torch.tensor(0.5))
    assert [tensor.tolist() for tensor in tensors] == [[1.5, 2.0], [[1.0]]]
    others = [torch.zeros(2), torch.zeros(1, 1)]
    foreach.lerp_(others, tensors, 0.5)
    assert [tensor.tolist() for tensor in others] == [[0.75, 1.0], [[0.5]]]
    foreach.copy_(others, tensors)
    assert [tensor.tolist() for tensor in others] == [[1.5, 2.0], [[1.0]]]


def test_the_kernel_of_fused_adam() -> None:
    """The first step of Kingma & Ba 2015, algorithm 1: by the learning rate, against the gradient's sign."""
    weight, m, v = (torch.tensor([value]) for value in (1.0, 0.0, 0.0))
    settings = {"lr": 0.25, "beta1": 0.5, "beta2": 0.75, "weight_decay": 0.0, "eps": 0.0, "amsgrad": False}
    adam_ = private_apis.torch_fused_adam()
    adam_([weight], [torch.tensor([-2.0])], [m], [v], [], [torch.tensor(1.0)], **settings, maximize=False)
    assert (weight.item(), m.item(), v.item()) == (1.25, -1.0, 1.0)


def test_bfloat16_of_the_cpu() -> None:
    assert private_apis.cpu_multiplies_bfloat16() == _flags_name_bfloat16()


def test_operations_are_intercepted_without_the_compiler() -> None:
    code = """
import sys, torch
from torso.private_apis import intercept_operations
names = []
def run(operation, args, kwargs):
    names.append(str(operation))
    return operation(*args, **kwargs)
with intercept_operations(run):
    torch.nn.functional.linear(torch.zeros(1, 2), torch.zeros(3, 2))
print(names, "torch._dynamo" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'aten.mm.default'" in result.stdout
    assert result.stdout.endswith("False\n")


def _flags_name_bfloat16() -> bool:
    """The same, as Linux says it."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        pytest.skip("only Linux lists what its CPU can")
    flags = set(next((line for line in info.read_text().splitlines() if line.startswith("flags")), "").split())
    return bool(flags & {"avx512_bf16", "amx_tile"})


def test_what_onnx_runtime_raises_is_known(tmp_path: Path) -> None:
    with pytest.raises(private_apis.onnxruntime_errors()):
        onnxruntime.InferenceSession(b"no model", providers=["CPUExecutionProvider"])


def test_grpcs_core_has_what_the_server_accepts_calls_by() -> None:
    """Of the tested grpcio; an older one lacks some of it, and is served by its own loop."""
    core = private_apis.grpc_core()
    for name in ("_handle_rpc", "_schedule_rpc_coro", "_MethodResolver", "get_working_loop"):
        assert callable(getattr(core, name))
    for name in ("_make_request_call_future", "_request_call", "_request_registered_call"):
        assert callable(getattr(core.AioServer, name))


def test_the_exporters_logger_is_the_one_that_remarks() -> None:
    module = importlib.import_module(private_apis.ONNX_EXPORTER_LOGGER)
    assert module.logger is logging.getLogger(private_apis.ONNX_EXPORTER_LOGGER)


def test_events_are_on_disk_after_a_flush(tmp_path: Path) -> None:
    board = private_apis.tensorboard()
    writer = board.events_writer(str(tmp_path / "events"), ".test")
    writer.write_event(board.event(step=1, session_log=board.session_log(status=board.session_log.START)))
    writer.write_event(board.event(step=7, summary=board.scalar("loss", 0.25)))
    writer.flush()
    [path] = tmp_path.iterdir()
    last = _records(path.read_bytes())[-1]
    writer.close()
    assert (last.step, [value.simple_value for value in last.summary.value]) == (7, [0.25])


def _records(data: bytes) -> list[Event]:
    """The events of a file: a length of 8 bytes, its check of 4, the event, a check of 4, and so on."""
    events = []
    while data:
        length = int(np.frombuffer(data[:8], "<u8")[0])
        events.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return events


def test_no_other_file_uses_a_private_name_of_another_package() -> None:
    found = {}
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            if "_pb2" in path.name or path.name == "private_apis.py":
                continue
            names = set(_private_names(ast.parse(path.read_text(encoding="utf-8")))) - {
                "os._exit"
            }  # which is documented
            if names:
                found[path.relative_to(ROOT).as_posix()] = names
    assert found == {}


def _private_names(tree: ast.AST) -> list[str]:
    """Imports of underscored names and modules, and underscored attributes of modules that were imported by name."""
    modules, names = set(), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
            names += [alias.name for alias in node.names if _is_private(alias.name)]
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            names += [name for name in full if _is_private(name)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_private(node.attr):
            root: ast.expr = node
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in modules:
                names.append(ast.unparse(node))
    return names


def _is_private(name: str) -> bool:
    return any((part.startswith("_") and not part.endswith("__")) or "pybind11" in part for part in name.split("."))
