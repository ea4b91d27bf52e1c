"""Lifecycle of a server in this process: address, health, reflection, drain and stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from torso.errors import ServerError, UnavailableError
from torso.serve import AsyncClient, Client, ServeConfig, Server, create_server

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

# Serves; a forward of an observation that starts with 7 makes ENTERED and waits for RELEASED.
DRIVER = """
import logging, sys, time
from pathlib import Path
from torso.serve import ServeConfig, serve

model, folder = sys.argv[1], Path(sys.argv[2])
logging.basicConfig(level=logging.INFO)

class Waits:
    name = "waits"
    def __init__(self, backend):
        self.backend = backend
    def run(self, inputs, *state):
        time.sleep(0.001)  # or it would be computed on the event loop
        if inputs[0, 0] == 7:
            (folder / "entered").touch()
            while not (folder / "released").exists():
                time.sleep(0.01)
        return self.backend.run(inputs, *state)

serve(ServeConfig(models=(model,), port=0, port_file=folder / "port", drain_s=0), lambda name, backend: Waits(backend))
print("done")
"""


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def process(models: Any, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", DRIVER, str(models.cartpole), str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for((tmp_path / "port").exists, process)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_serve_drains_when_a_signal_says_so(process: subprocess.Popen[str], tmp_path: Path) -> None:
    address = f"127.0.0.1:{int((tmp_path / 'port').read_text())}"
    with Client(address) as client, Client(address) as busy, ThreadPoolExecutor(1) as pool:
        assert client.healthy()
        waiting = pool.submit(busy.act, "cartpole", [7, 0, 0, 0])
        wait_for((tmp_path / "entered").exists, process)
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: not client.healthy(), process)
        assert not client.healthy("cartpole")
        with pytest.raises(UnavailableError, match="shutting down"):
            client.act("cartpole", [0, 0, 0, 0])
        (tmp_path / "released").touch()
        assert waiting.result(30).actions.shape == (1,)
    out, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert out == "done\n"
    assert not (tmp_path / "port").exists()
    assert "model cartpole version 1: policy, float32 [4] -> 2 outputs, by" in log
    assert "draining" in log
    assert "Traceback" not in log


def test_a_port_that_is_taken_is_named(config: Callable[..., ServeConfig], running: Any) -> None:
    with running(config()) as first:
        port = first.server.port
        with (
            pytest.raises(ServerError, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use; choose"),
            running(config(port=port)),
        ):
            pass
        with Client(first.address) as client:
            assert client.healthy()


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_an_address_that_is_not_ours_is_named(config: Callable[..., ServeConfig], running: Any, host: str) -> None:
    settings = config(host=host, allow_plaintext=True, allow_anonymous=True)
    with pytest.raises(ServerError, match=f"cannot listen on {host} port 0: "), running(settings):
        pass


def test_a_broken_model_lets_go_of_the_port(
    models: Any, config: Callable[..., ServeConfig], running: Any, tmp_path: Path
) -> None:
    directory = Path(shutil.copytree(models.cartpole, tmp_path / "broken"))
    (directory / "weights.safetensors").unlink()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(ServerError, match="model 'broken'"), running(config(directory, models.digits, port=port)):
        pass
    with running(config(directory, models.digits, port=port, skip_broken=True)) as server:
        assert server.server.port == port
        with Client(server.address) as client:
            assert [model.name for model in client.list_models()] == ["digits"]
            assert client.healthy("digits")
            assert not client.healthy("broken")


def test_a_unix_socket_and_ipv6_serve(config: Callable[..., ServeConfig], running: Any, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/s"
    with running(config(host=address)) as server, Client(address) as client:
        assert (server.address, server.server.port) == (address, 0)
        assert len(client.list_models()) == 2
        with pytest.raises(ServerError, match="another server does"), running(config(host=address)):
            pass
        assert client.healthy()
    with running(config(host="::1")) as server, Client(server.address) as client:
        assert server.address == f"[::1]:{server.server.port}"
        assert client.healthy()


def test_health_is_watched_to_the_end(models: Any, config: Callable[..., ServeConfig]) -> None:
    async def scenario() -> None:
        server = Server(config(models.cartpole))
        await server.start()
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            statuses = stub.Watch(health_pb2.HealthCheckRequest(service="cartpole"))
            assert (await statuses.read()).status == NOT_SERVING
            await server.load()
            assert (await statuses.read()).status == SERVING
            stopping = asyncio.create_task(server.drain(30))
            assert (await statuses.read()).status == NOT_SERVING
            await asyncio.wait_for(stopping, 10)  # watchers do not hold it up
            await server.stop()  # again: nothing happens

    asyncio.run(scenario())


def test_reflection_describes_the_service(served: Any) -> None:
    with grpc.insecure_channel(served.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="torso.v1.PredictionService"),
        ]
        listed, described = stub.ServerReflectionInfo(iter(asked))
    names = {service.name for service in listed.list_services_response.service}
    assert names >= {"torso.v1.PredictionService", "grpc.health.v1.Health"}
    file = descriptor_pb2.FileDescriptorProto.FromString(described.file_descriptor_response.file_descriptor_proto[0])
    assert [method.name for method in file.service[0].method] == [
        "Classify",
        "Act",
        "ActStream",
        "ListModels",
        "GetModel",
    ]


def test_an_unknown_method_is_unimplemented(served: Any) -> None:
    with grpc.insecure_channel(served.address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/torso.v1.PredictionService/Steal")(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def raw_call(port: int, path: bytes) -> bytes:
    """Make a call in bare HTTP/2, whatever its path, and return what the server sends until it ends the connection."""

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload

    def header(name: bytes, value: bytes) -> bytes:
        return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value

    headers = header(b":method", b"POST") + header(b":scheme", b"http") + header(b":path", path)
    headers += header(b":authority", b"x") + header(b"te", b"trailers") + header(b"content-type", b"application/grpc")
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(10)
        connection.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + frame(4, 0, 0, b"")
            + frame(1, 4, 1, headers)
            + frame(0, 1, 1, bytes(5))
        )
        answer = b""
        while b"grpc-status" not in answer:
            received = connection.recv(4096)
            if not received:
                break
            answer += received
        return answer


async def answers_within(seconds: float, address: str) -> bool:
    """Check whether a new client is answered, at the latest after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        async with AsyncClient(address) as client:
            with contextlib.suppress(UnavailableError):
                return len(await client.list_models()) > 0
        await asyncio.sleep(0.02)
    return False


def test_a_path_that_is_no_text_does_not_end_the_server(
    models: Any, config: Callable[..., ServeConfig], gate: Any
) -> None:
    async def scenario() -> None:
        async with (
            await create_server(config(models.cartpole), gate.wrap) as server,
            AsyncClient(server.address) as client,
        ):
            good = await asyncio.to_thread(raw_call, server.port, b"/torso.v1.PredictionService/ListModels")
            assert b"cartpole" in good
            await client.get_model("cartpole")
            gate.close()
            waiting = asyncio.create_task(client.act("cartpole", [0, 0, 0, 0]))
            assert await asyncio.to_thread(gate.entered.wait, 30)
            for _ in range(2):
                await asyncio.to_thread(raw_call, server.port, b"/\xff\xfe/\x80")
                assert await answers_within(10, server.address)
            gate.open()
            assert (await waiting).actions.shape == (1,)  # what the old server had begun, it ended

    asyncio.run(scenario())


def test_the_port_file_is_never_a_leftover(models: Any, config: Callable[..., ServeConfig], tmp_path: Path) -> None:
    (tmp_path / "port").write_text("1\n")
    settings = f"models=({str(tmp_path / 'gone')!r},), port=0, port_file=Path({str(tmp_path / 'port')!r})"
    code = f"from pathlib import Path; from torso.serve import ServeConfig, serve; serve(ServeConfig({settings}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 1
    assert "Error: model 'gone'" in done.stderr
    assert not (tmp_path / "port").exists()
