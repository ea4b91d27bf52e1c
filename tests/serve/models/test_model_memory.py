"""Model directories that ask for vast memory: refused in bounded time and memory, while other models are served."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from onnx import TensorProto, helper
from server_process import Process

from torso.errors import ServerError
from torso.files import sha256_hex
from torso.nets import (
    ConvLayerSpec,
    ConvNetSpec,
    InputSpec,
    LogitsHeadSpec,
    MLPSpec,
    NetworkSpec,
    RegressionHeadSpec,
    build_network,
    read_card,
    save_model,
)
from torso.nets.models.onnx_export import append_metadata
from torso.serve import Client, ServeConfig
from torso.serve.models.begin_serving import load_served_model
from torso.serve.observability.metrics import ModelMetrics

Configure = Callable[..., ServeConfig]
PEAK_BYTES = 1 << 30  # of a server's process, of which its libraries take a third


def edit(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a model's card as parsed JSON."""
    card = json.loads((directory / "model.json").read_text())
    change(card)
    (directory / "model.json").write_text(json.dumps(card))


def save_images(directory: Path, side: int, *convs: ConvLayerSpec) -> None:
    """Save a classifier of gray images of so many pixels a side; it takes a kilobyte or, with channels, some."""
    spec = NetworkSpec(
        input=InputSpec(shape=(1, side, side), layout="chw"),
        torso=ConvNetSpec(convs=convs),
        head=LogitsHeadSpec(num_classes=2),
    )
    save_model(directory, build_network(spec), kind="classifier", onnx=False)


def save_vast_layers(directory: Path) -> None:
    edit(directory, lambda card: card["network"]["torso"].update(hidden=[1_500_000, 2**31 - 1, 2**31 - 1]))


def save_vast_kernel(directory: Path) -> None:
    save_images(directory, 8, ConvLayerSpec(channels=1, kernel=1))
    conv = {"kernel": 2**31 - 1, "padding": 2**31 - 2, "channels": 2**31 - 1}
    edit(directory, lambda card: card["network"]["torso"]["convs"][0].update(conv))


def save_vast_targets(directory: Path) -> None:
    spec = NetworkSpec(input=InputSpec(shape=(3,)), torso=MLPSpec(), head=RegressionHeadSpec(num_targets=2))
    shutil.rmtree(directory)
    save_model(directory, build_network(spec), kind="regressor", onnx=False)
    edit(directory, lambda card: card["network"]["head"].update(num_targets=2**31 - 1))


def save_many_layers(directory: Path) -> None:
    edit(directory, lambda card: card["network"]["torso"].update(hidden=[1] * 1_000_000))


def save_many_axes(directory: Path) -> None:
    edit(directory, lambda card: card["network"]["input"].update(shape=[2**31 - 1] * 1_000_000))


def save_vast_activations(directory: Path) -> None:
    narrow = ConvLayerSpec(channels=1, kernel=1, stride=2000)
    save_images(directory, 2000, ConvLayerSpec(channels=65_536, kernel=1), narrow)


def save_vast_inputs(directory: Path) -> None:
    save_images(directory, 2**15, ConvLayerSpec(channels=1, kernel=1, stride=2**15))


def save_vast_card(directory: Path) -> None:
    edit(directory, lambda card: card.update(provenance={"notes": "x" * (1 << 26)}))


def save_many_values(directory: Path) -> None:
    edit(directory, lambda card: card.update(labels=[[] for _ in range(5_000_000)]))


def save_vast_provenance(directory: Path) -> None:
    edit(directory, lambda card: card.update(provenance={"x" * 500_000: {str(i): 0 for i in range(200_000)}}))


def save_sparse_weights(directory: Path) -> None:
    """Weights of a terabyte as a header explains it, none of which is on the disk."""
    values = 1 << 38
    header = json.dumps({"a": {"dtype": "F32", "shape": [values], "data_offsets": [0, 4 * values]}}).encode()
    (directory / "weights.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(directory / "weights.safetensors", 8 + len(header) + 4 * values)


def save_many_tensors(directory: Path) -> None:
    tensors = {f"tensor_{index}": torch.zeros(1) for index in range(100_000)}
    data = safetensors.torch.save(tensors)
    (directory / "weights.safetensors").write_bytes(data)
    edit(directory, lambda card: card["weights"].update(sha256=sha256_hex(data)))


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "vast-layers": (save_vast_layers, "does not fit the network in model.json, which cannot be built: it takes"),
    "vast-kernel": (save_vast_kernel, "does not fit the network in model.json, which cannot be built"),
    "vast-targets": (save_vast_targets, "does not fit the network in model.json, which cannot be built: it takes"),
    "many-layers": (save_many_layers, "hidden must hold at most 1024 widths, got 1000000"),
    "many-axes": (save_many_axes, "an input's shape must have at most 31 axes, got 1000000"),
    "vast-activations": (save_vast_activations, "a forward of one row, an input of float32 [1, 2000, 2000], takes"),
    "vast-inputs": (save_vast_inputs, "a forward of one row, an input of float32 [1, 32768, 32768], takes"),
    "vast-card": (save_vast_card, "it must have at most 33554432 bytes"),
    "many-values": (save_many_values, "must hold at most 2,097,152 values"),
    "vast-provenance": (save_vast_provenance, "provenance must take at most 1,048,576 bytes"),
    "sparse-weights": (save_sparse_weights, "weights.safetensors does not fit model.json"),
    "many-tensors": (save_many_tensors, "truncated or altered"),
}


def test_models_that_ask_for_vast_memory_are_refused_beside_others(models: Any, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    shutil.copytree(models.plain, folder / "good" / "1")
    for name, (save, _) in REFUSED.items():
        shutil.copytree(models.plain, folder / name / "1", ignore=shutil.ignore_patterns("*.onnx"))
        save(folder / name / "1")
    began = time.monotonic()
    server = Process(tmp_path / "server", {"OMP_NUM_THREADS": "1"}, repository=str(folder), skip_broken=True)
    try:
        assert time.monotonic() - began < 60
        lines = [line for line in server.log.splitlines() if "ERROR" in line]
        for name, (_, reason) in REFUSED.items():
            assert any(f"'{name}'" in line and reason in line for line in lines), (name, server.log)
        assert all(len(line) < 2000 for line in lines)
        with Client(server.address) as client:
            assert [model.name for model in client.list_models()] == ["good"]
            assert client.classify("good", np.zeros((1, 3), np.float32)).labels
        assert peak_bytes(server) < PEAK_BYTES
        server.end()
    finally:
        server.process.kill()
        server.process.wait()


def test_models_of_large_rows_are_served_in_bounded_memory(models: Any, tmp_path: Path) -> None:
    save_images(tmp_path / "large", 2000, ConvLayerSpec(channels=1, kernel=1, stride=2000))
    for name, spoil in (("sparse-onnx", _make_sparse), ("vast-onnx", _make_vast), ("external-onnx", _make_external)):
        spoil(Path(shutil.copytree(models.plain, tmp_path / name)) / "model.onnx")
    names = ["large", "sparse-onnx", "vast-onnx", "external-onnx"]
    settings = {"models": [str(tmp_path / name) for name in names], "max_batch_rows": 64}
    server = Process(tmp_path / "server", {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path)}, **settings)
    try:
        with Client(server.address) as client:
            for name in names[1:]:
                assert client.classify(name, np.zeros((1, 3), np.float32)).labels
            assert client.classify("large", np.zeros((1, 1, 2000, 2000), np.float32)).labels
        assert "torch serves, at less speed: " in server.log
        assert "and may take" in server.log
        assert "got some that are in another file" in server.log
        assert peak_bytes(server) < PEAK_BYTES
        server.end()
    finally:
        server.process.kill()
        server.process.wait()


def peak_bytes(server: Process) -> int:
    """The most memory that the server's process has had."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def _make_sparse(path: Path) -> None:
    os.truncate(path, (1 << 31) - 1)


def _make_vast(path: Path) -> None:
    """Add zeros to the readout that the graph makes of a constant: a gigabyte of them."""
    model = onnx.load(path)
    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = [f"{name}_before" if name == output else name for name in node.output]
    shape = helper.make_tensor("vast_shape", TensorProto.INT64, [1], [1 << 28])
    model.graph.initializer.append(shape)
    model.graph.node.extend(
        [
            helper.make_node("ConstantOfShape", ["vast_shape"], ["vast"]),
            helper.make_node("ReduceSum", ["vast"], ["nothing"], keepdims=0),
            helper.make_node("Add", [f"{output}_before", "nothing"], [output]),
        ]
    )
    _seal(path, model)


def _make_external(path: Path) -> None:
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/dev/zero")
    _seal(path, model)


def _seal(path: Path, model: onnx.ModelProto) -> None:
    del model.metadata_props[:]
    path.write_bytes(append_metadata(model.SerializeToString(), read_card(path.parent)))


def test_batches_have_fewer_rows_where_rows_are_large(tmp_path: Path, config: Configure) -> None:
    save_images(tmp_path / "m", 512, ConvLayerSpec(channels=1, kernel=1, stride=512))  # 17 MiB a row, workspace and all
    for mib, rows in ((1024, 60), (100, 5), (18, 1)):
        settings = config(tmp_path / "m", max_forward_mib=mib, max_batch_rows=64, backend="torch")
        batcher = load_served_model("m", "1", tmp_path / "m", settings, ModelMetrics()).batcher
        assert batcher.max_batch_rows == rows
        batcher.close()
    settings = config(tmp_path / "m", max_forward_mib=16)
    with pytest.raises(ServerError, match=r"takes 1\d,\d{3},\d{3} bytes or more, and may take 16,777,216; raise max_f"):
        load_served_model("m", "1", tmp_path / "m", settings, ModelMetrics())
