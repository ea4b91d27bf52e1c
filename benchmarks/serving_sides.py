"""The servers that `serving_vs_peers.py` compares: each a process on ports of its own, from start to end."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import torch

from torso.nets import (
    InputSpec,
    LogitsHeadSpec,
    MLPSpec,
    NetworkSpec,
    ScalarHeadSpec,
    build_network,
    net_spec,
    onnx_path,
    save_model,
)
from torso.proto import oip_pb2 as pb

PEERS = Path(__file__).parent / "peers"
INFER = "/inference.GRPCInferenceService/ModelInfer"
START_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model that every side serves."""

    name: str
    title: str
    directory: Path
    spec: InputSpec
    input_name: str
    datatype: str
    output_bytes: int  # of one row

    @property
    def onnx(self) -> Path:
        """The network's file."""
        path = onnx_path(self.directory)
        if path is None:
            raise SystemExit(f"{self.directory} has no model.onnx")
        return path

    def rows(self, count: int, seed: int = 0) -> np.ndarray:
        """Draw inputs, [count, *shape]."""
        rng = np.random.default_rng(seed)
        shape = (count, *self.spec.shape)
        if self.datatype == "UINT8":
            return rng.integers(256, size=shape, dtype=np.uint8)
        return rng.standard_normal(shape).astype(np.float32)

    def requests(self, rows: int, count: int = 16) -> list[bytes]:
        """Serialise V2 requests of so many rows."""
        made = []
        for seed in range(count):
            array = self.rows(rows, seed)
            request = pb.ModelInferRequest(model_name=self.name, raw_input_contents=[array.tobytes()])
            request.inputs.add(name=self.input_name, datatype=self.datatype, shape=array.shape)
            made.append(request.SerializeToString())
        return made


def make_subjects(folder: Path) -> list[Subject]:
    """Save the two models."""
    generator = torch.Generator().manual_seed(0)
    flat = InputSpec(shape=(784,))
    mlp = NetworkSpec(input=flat, torso=MLPSpec(hidden=(128,)), head=LogitsHeadSpec(num_classes=10))
    pixels = InputSpec(shape=(4, 84, 84), dtype="uint8", layout="chw", scale=1 / 255)
    cnn = NetworkSpec(input=pixels, torso=net_spec("nature", pixels), head=ScalarHeadSpec(num_actions=6))
    labels = tuple(range(10))
    return [
        Subject(
            name="mlp",
            title="MLP 784-128-10",
            directory=save_model(folder / "mlp", build_network(mlp, generator), kind="classifier", labels=labels),
            spec=flat,
            input_name="tensor",
            datatype="FP32",
            output_bytes=40,
        ),
        Subject(
            name="cnn",
            title="Nature CNN 4x84x84 uint8",
            directory=save_model(folder / "cnn", build_network(cnn, generator), kind="policy"),
            spec=pixels,
            input_name="observations",
            datatype="UINT8",
            output_bytes=24 + 8,
        ),
    ]


def free_ports(count: int) -> list[int]:
    """Return ports that are free now, for servers that cannot say which they chose."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def running(command: list[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in a process group of its own, and end the whole group: some leave children behind."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=env, start_new_session=True)
        try:
            yield process
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait_for_file(path: Path, process: subprocess.Popen[bytes], log: Path) -> str:
    """Return what a server wrote into its port file."""
    end = time.monotonic() + START_S
    while not path.exists() or not path.read_text().endswith("\n"):
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"a server did not start:\n{log.read_text()}")
        time.sleep(0.05)
    return path.read_text().strip()


def wait_for_answer(address: str, subject: Subject, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return once the model answers."""
    end = time.monotonic() + START_S
    request = subject.requests(1, 1)[0]
    with grpc.insecure_channel(address) as channel:
        while True:
            try:
                channel.unary_unary(INFER)(request, timeout=5)
            except grpc.RpcError:
                if process.poll() is not None or time.monotonic() > end:
                    raise SystemExit(f"{address} does not answer:\n{log.read_text()}") from None
                time.sleep(0.2)
            else:
                return


class Sides:
    """The start of each side. ``folder`` is scratch."""

    def __init__(self, folder: Path, pytriton_python: str | None, mlserver: str | None) -> None:
        self._folder = folder
        self._pytriton_python = pytriton_python
        self._mlserver = mlserver

    @property
    def names(self) -> list[str]:
        """The sides there are."""
        peers = {"pytriton": self._pytriton_python, "MLServer": self._mlserver}
        return ["echo", "torso", *(name for name, program in peers.items() if program)]

    @contextlib.contextmanager
    def serve(self, side: str, subject: Subject) -> Iterator[str]:
        """Serve a model; yields the address."""
        log = self._folder / f"{side}-{subject.name}.log"
        port_file = self._folder / "port"
        port_file.unlink(missing_ok=True)
        environment: dict[str, str] = {}
        ports = free_ports(3)
        match side:
            case "echo":
                command = [sys.executable, str(PEERS / "echo_server.py"), str(port_file), str(subject.output_bytes)]
            case "torso":
                command = [sys.executable, "-m", "torso.cli", "serve", f"{subject.name}={subject.directory}"]
                command += ["--port", "0", "--port-file", str(port_file), "--ops-port", "0", "--drain-s", "0"]
            case "pytriton":
                command = [str(self._pytriton_python), str(PEERS / "pytriton_server.py"), *map(str, ports)]
                command += [subject.name, str(subject.onnx)]
            case _:
                command = [str(self._mlserver), "start", str(self._mlserver_settings(subject, ports))]
                environment["PYTHONPATH"] = str(PEERS)
        with running(command, log, **environment) as process:
            if side in ("echo", "torso"):
                address = f"127.0.0.1:{wait_for_file(port_file, process, log)}"
            else:
                address = f"127.0.0.1:{ports[0]}"
            wait_for_answer(address, subject, process, log)
            yield address

    def _mlserver_settings(self, subject: Subject, ports: list[int]) -> Path:
        folder = self._folder / f"mlserver-{subject.name}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        server = {"host": "127.0.0.1", "grpc_port": ports[0], "http_port": ports[1], "metrics_port": ports[2]}
        server |= {"parallel_workers": 0}
        model = {"name": subject.name, "implementation": "mlserver_onnx.OnnxModel"}
        (folder / "settings.json").write_text(json.dumps(server))
        parameters = {"uri": str(subject.onnx)}
        (folder / "model-settings.json").write_text(json.dumps({**model, "parameters": parameters}))
        return folder
