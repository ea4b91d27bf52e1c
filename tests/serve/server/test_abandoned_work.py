"""Work that nobody waits for: models that load or compute for ever, and the process that ends all the same."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from endless_onnx import make_endless
from server_process import Process, free_port

from torso.errors import ServiceError
from torso.proto import oip_pb2
from torso.serve import Client, RetryPolicy
from torso.serve.wire.oip_tensors import OIP_SERVICE

OVERTIME_S = 1.0  # beyond drain_s and finish_s
LOAD, UNLOAD = "RepositoryModelLoad", "RepositoryModelUnload"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def run(**settings: Any) -> Process:
        started.append(Process(tmp_path / "server", {"OMP_NUM_THREADS": "1"}, **{"finish_s": 1.0, **settings}))
        return started[-1]

    yield run
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait()


@pytest.fixture
def folder(models: Any, tmp_path: Path) -> Path:
    """A repository of three models; ``hung`` is a test's to change."""
    for name in ("good", "hung", "other"):
        shutil.copytree(models.plain, tmp_path / "repository" / name / "1")
    return tmp_path / "repository"


def control(server: Process, method: str, name: str) -> str:
    """Load or unload a model; return the status' name."""
    request = oip_pb2.RepositoryModelLoadRequest(model_name=name)  # the other's has the same fields
    with grpc.insecure_channel(server.address) as channel:
        try:
            channel.unary_unary(f"/{OIP_SERVICE}/{method}")(request.SerializeToString(), timeout=30)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
    return "OK"


def end(server: Process, within_s: float) -> None:
    """Send SIGTERM, and check that the server ends in time, with exit code 0."""
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 0, server.log
    assert time.monotonic() - began < within_s, server.log


@pytest.mark.parametrize("file", ["weights.safetensors", "model.onnx"])
def test_a_file_that_no_reader_gets_to_the_end_of_is_refused(
    start: Callable[..., Process], folder: Path, file: str
) -> None:
    (folder / "hung" / "1" / file).unlink()
    os.mkfifo(folder / "hung" / "1" / file)
    server = start(repository=str(folder), model_control="explicit", load_models=["good"], backend="onnx")
    answered = control(server, LOAD, "hung")
    if file == "weights.safetensors":
        assert "must be a regular file" in answered
    else:
        assert answered == "OK"  # exported anew, as if there were none
    assert [control(server, LOAD, "other"), control(server, UNLOAD, "good")] == ["OK", "OK"]
    end(server, 1.0 + OVERTIME_S)


def test_a_load_without_end_holds_up_no_other_and_not_the_end(start: Callable[..., Process], folder: Path) -> None:
    make_endless(folder / "hung" / "1")
    server = start(repository=str(folder), model_control="explicit", load_models=["good"], load_s=1.0)
    assert "was not loaded within 1 s" in control(server, LOAD, "hung")
    assert [control(server, LOAD, "other"), control(server, UNLOAD, "good")] == ["OK", "OK"]
    assert "an earlier load of it has not ended" in control(server, LOAD, "hung")
    end(server, 1.0 + OVERTIME_S)
    assert "Traceback" not in server.log


def test_polling_goes_on_beside_a_load_without_end(start: Callable[..., Process], folder: Path) -> None:
    server = start(repository=str(folder), model_control="poll", poll_s=0.2, load_s=1000.0)
    shutil.copytree(folder / "hung" / "1", folder / "new")
    make_endless(folder / "new")
    (folder / "new").rename(folder / "hung" / "2")
    with Client(server.address, retries=RetryPolicy(max_attempts=1)) as client:
        time.sleep(1.0)  # the load has begun
        (folder / "good" / "1").rename(folder / "good" / "2")
        server.wait_for(lambda: client.get_model("good").version == "2")
        assert client.get_model("hung").version == "1"
    end(server, 1.0 + OVERTIME_S)


def test_a_server_that_never_gets_ready_ends_at_once(
    start: Callable[..., Process], models: Any, tmp_path: Path
) -> None:
    make_endless(shutil.copytree(models.plain, tmp_path / "hung"))
    server = start(models=[str(tmp_path / "hung")], port=free_port(), ready=False)
    time.sleep(0.5)
    end(server, OVERTIME_S)


def test_a_forward_without_end_does_not_hold_up_the_end(start: Callable[..., Process], models: Any) -> None:
    server = start(models=[str(models.cartpole)])  # its policy blocks on rows that begin with 7
    with Client(server.address, retries=RetryPolicy(max_attempts=1)) as client:
        with pytest.raises(ServiceError):
            client.act("cartpole", np.float32([[7, 0, 0, 0]]), timeout_s=0.5)
        end(server, 1.0 + OVERTIME_S)
