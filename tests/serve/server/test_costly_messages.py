"""Messages that cost more than they weigh, or never end, against a server in its own process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from bare_http2 import (
    ACK,
    END_HEADERS,
    HEADERS,
    SETTINGS,
    Connection,
    call_headers,
    frame,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from server_process import Process

from torso.proto import oip_pb2, prediction_pb2
from torso.serve import Client
from torso.serve.wire.tensors import array_to_tensor

CLASSIFY = "/torso.v1.PredictionService/Classify"
INFER = "/inference.GRPCInferenceService/ModelInfer"
MIB = 1 << 20
GROWTH = 200 * MIB
PAGE = 4096


@pytest.fixture
def server(models: Any, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """``server(setting=...)`` starts a server that takes messages of 64 MiB."""
    started: list[Process] = []

    def start(**settings: Any) -> Process:
        started.append(
            Process(
                tmp_path / "server",
                {},
                **{"models": [str(models.digits), str(models.cartpole)], "max_message_mib": 64, **settings},
            )
        )
        return started[-1]

    yield start
    for process in started:
        if process.process.poll() is None:
            process.process.kill()
            process.process.wait()


def memory(server: Process) -> int:
    """The bytes of memory that the server's process has."""
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * PAGE


def answers(client: Client) -> bool:
    return client.classify("digits", np.zeros((1, 8, 8), dtype=np.uint8)).indices.shape == (1, 1)


@contextlib.contextmanager
def channel_to(server: Process) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address, (("grpc.use_local_subchannel_pool", 1),)) as channel:
        yield channel


def status(call: Any, data: bytes, **settings: Any) -> tuple[grpc.StatusCode, str]:
    try:
        call(data, timeout=30, **settings)
    except grpc.RpcError as error:
        return error.code(), error.details()  # type: ignore[attr-defined]
    return grpc.StatusCode.OK, ""


def varint(value: int) -> bytes:
    return bytes([value & 127 | 128]) + varint(value >> 7) if value > 127 else bytes([value])


def packed_shape(number: int, entries: int) -> bytes:
    """A tensor field whose shape has so many entries, and no data."""
    shape = b"\x12" + varint(entries) + b"\x01" * entries
    return bytes([number << 3 | 2]) + varint(len(shape)) + shape


# -- cost ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "data"),
    [
        (INFER, b"\x2a\x00" * (32 * MIB - 100)),  # empty inputs: 64 MB, and gigabytes once decoded
        (INFER, b"\x2a" + varint(16 * MIB + 5) + b"\x1a" + varint(16 * MIB) + b"\x01" * (16 * MIB)),
        (CLASSIFY, b"\x0a\x06digits" + packed_shape(3, 16 * MIB)),
        ("/torso.v1.PredictionService/Act", b"\x0a\x08cartpole" + packed_shape(3, 16 * MIB)),
    ],
)
def test_a_message_of_many_fields_takes_neither_memory_nor_time(
    server: Callable[..., Process], path: str, data: bytes
) -> None:
    serving = server()
    with channel_to(serving) as channel, Client(serving.address) as client:
        assert answers(client)
        before = memory(serving)
        call = channel.unary_unary(path)
        attacks = [call.future(data, timeout=30) for _ in range(2)]
        slowest = 0.0
        while not all(attack.done() for attack in attacks):
            started = time.monotonic()
            assert answers(client)
            slowest = max(slowest, time.monotonic() - started)
        assert {attack.code() for attack in attacks} == {grpc.StatusCode.INVALID_ARGUMENT}
        assert slowest < 1.0
        assert memory(serving) - before < GROWTH
    serving.end()


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_messages_are_inflated_within_bounds(
    server: Callable[..., Process], compression: grpc.Compression
) -> None:
    serving = server()
    scans = np.random.default_rng(0).integers(17, size=(200, 8, 8), dtype=np.uint8)
    honest = prediction_pb2.ClassifyRequest(model="digits", tensor=array_to_tensor(scans)).SerializeToString()
    with channel_to(serving) as channel, Client(serving.address) as client:
        before = memory(serving)
        classify = channel.unary_unary(CLASSIFY)
        assert classify(honest, compression=compression, timeout=30) == classify(honest, timeout=30)
        health = health_pb2_grpc.HealthStub(channel)
        asked = health_pb2.HealthCheckRequest(service="digits")
        assert health.Check(asked, compression=compression, timeout=30).status == 1
        assert next(iter(health.Watch(asked, compression=compression, timeout=30))).status == 1
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        listing = iter([reflection_pb2.ServerReflectionRequest(list_services="")] * 2)
        assert len(list(reflection.ServerReflectionInfo(listing, compression=compression, timeout=30))) == 2
        stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        infer = oip_pb2.ModelInferRequest(
            model_name="digits",
            inputs=[oip_pb2.ModelInferRequest.InferInputTensor(name="tensor", datatype="UINT8", shape=scans.shape)],
            raw_input_contents=[scans.tobytes()],
        ).SerializeToString()
        streamed = list(stream(iter([infer] * 3), compression=compression, timeout=30))
        assert streamed == list(stream(iter([infer] * 3), timeout=30))
        attacks = [classify.future(bytes(60 * MIB), compression=compression, timeout=30) for _ in range(10)]
        while not all(attack.done() for attack in attacks):
            assert answers(client)
        for attack in attacks:
            assert attack.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "a compressed message of at most" in attack.details()
        assert memory(serving) - before < GROWTH
    serving.end()


# -- messages that never end ------------------------------------------------------------------------------------------


class Upload:
    """Call that sends its message in parts."""

    def __init__(self, port: int, path: str, size: int) -> None:
        self.connection = Connection(port, b"\x00\x04\x7f\xff\xff\xff")
        self.connection.send(frame(SETTINGS, ACK, 0), frame(HEADERS, END_HEADERS, 1, call_headers(path.encode())))
        self.connection.upload(1, b"\0" + size.to_bytes(4, "big"))

    def send(self, data: bytes, *, last: bool = False) -> bool:
        """Send more, as the server lets it; return False where it has ended the call."""
        return self.connection.upload(1, data, last=last)

    def is_refused(self) -> bool:
        """Check whether the server has ended the call as RESOURCE_EXHAUSTED, or lets it go on for a second."""
        self.connection.socket.settimeout(1)
        try:
            return b"grpc-status\x018" in self.status()
        except TimeoutError:
            return False

    def status(self) -> bytes:
        """Wait for the call's end, and return its headers."""
        return self.connection.read_until(HEADERS, 1).payload


def test_messages_that_never_end_hold_no_more_than_their_room(server: Callable[..., Process]) -> None:
    serving = server()
    size = 64 * MIB
    with Client(serving.address) as client, contextlib.ExitStack() as stack:
        assert answers(client)
        before = memory(serving)
        uploads = [Upload(serving.port, CLASSIFY, size) for _ in range(12)]
        for upload in uploads:
            stack.enter_context(upload.connection)
        peak = 0
        for upload in uploads:
            for _ in range(63):
                if not upload.send(bytes(MIB)):
                    break
            assert answers(client)
            peak = max(peak, memory(serving) - before)
        assert peak < GROWTH
        assert sum(upload.is_refused() for upload in uploads) >= 11
    serving.end()


def test_a_slow_message_is_read_and_one_that_takes_too_long_is_not(server: Callable[..., Process]) -> None:
    serving = server(receive_s=3.0)
    scans = array_to_tensor(np.zeros((1000, 8, 8), dtype=np.uint8))
    data = prediction_pb2.ClassifyRequest(model="digits", tensor=scans).SerializeToString()
    slow, endless = (Upload(serving.port, CLASSIFY, len(data)) for _ in range(2))
    with slow.connection, endless.connection:
        for start in range(0, len(data), len(data) // 10 + 1):
            part = data[start : start + len(data) // 10 + 1]
            assert slow.send(part, last=start + len(part) == len(data))
            time.sleep(0.1)
        assert b"grpc-status\x010" in slow.connection.read_until(HEADERS, 1).payload or slow.status()
        endless.send(data[:100])
        started = time.monotonic()
        assert b"grpc-status\x014" in endless.status()  # DEADLINE_EXCEEDED
        assert time.monotonic() - started < 5
    serving.end()


def test_a_large_health_request_is_refused_unseen(server: Callable[..., Process]) -> None:
    serving = server()
    with channel_to(serving) as channel:
        before = memory(serving)
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
        for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
            data = np.random.default_rng(0).bytes(MIB) * 20
            assert status(check, data, compression=compression)[0] is grpc.StatusCode.INVALID_ARGUMENT
            with pytest.raises(grpc.RpcError, match="a message of at most 65536 bytes"):
                next(watch(data, compression=compression, timeout=30))
        assert memory(serving) - before < GROWTH
    serving.end()
