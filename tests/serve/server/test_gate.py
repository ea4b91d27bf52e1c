"""The gate: paths that are no text, calls of one caller, tokens that are revoked, streams that do nothing."""

from __future__ import annotations

import hashlib
import os
import queue
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from bare_http2 import (
    ACK,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    Connection,
    call_headers,
    frame,
)
from bare_listener import listening
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st
from server_process import Process

from torso.errors import ForbiddenError, UnauthenticatedError
from torso.proto import prediction_pb2
from torso.serve import Client
from torso.serve.server import acceptor
from torso.serve.server.auth import Authority, check_open
from torso.serve.wire.tensors import array_to_tensor

CHAT = "/test.Echo/Chat"
STREAMS = (
    "/torso.v1.PredictionService/ActStream",
    "/inference.GRPCInferenceService/ModelStreamInfer",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


@pytest.fixture
def serving(models: Any, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """``serving(setting=...)`` starts a server of the small models."""
    started: list[Process] = []

    def start(**settings: Any) -> Process:
        directories = [str(models.digits), str(models.cartpole)]
        started.append(Process(tmp_path / "server", {}, **{"models": directories, **settings}))
        return started[-1]

    yield start
    for process in started:
        if process.process.poll() is None:
            process.process.kill()
            process.process.wait()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(
        f"me {digest('p')} predict never\nother {digest('q')} predict never\nroot {digest('a')} admin never\n"
    )
    return path


def answers(client: Client) -> bool:
    return client.classify("digits", np.zeros((1, 8, 8), dtype=np.uint8)).indices.shape == (1, 1)


# -- paths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", [b"/\xff\xfe", b"\xc3\x28", b"/torso.v1.PredictionService/Classify\xff", b"/", b"//", b"/x"]
)
def test_a_path_that_names_no_method_harms_nobody(serving: Callable[..., Process], path: bytes) -> None:
    server = serving()

    def work() -> int:
        with Client(server.address) as client:
            return sum(answers(client) for _ in range(100))

    with ThreadPoolExecutor(2) as pool:
        working = [pool.submit(work) for _ in range(2)]
        for _ in range(40):
            with Connection(server.port) as connection:
                connection.send(frame(SETTINGS, ACK, 0))
                connection.call(path)
                assert b"grpc-status\x0212" in connection.read_until(HEADERS, 1).payload
                connection.call(path, stream=3)
                assert connection.read_until(HEADERS, 3).flags & END_STREAM
        assert [done.result() for done in working] == [100, 100]  # each call was answered
    assert "broke down" not in server.log
    server.end()


def test_strangers_do_not_learn_which_methods_there_are(token_file: Path) -> None:
    with listening(token_file=token_file) as server, grpc.insecure_channel(server.address) as channel:
        for path in ("/test.Echo/Echo", "/test.Echo/None", "/no.Service/None"):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(path)(b"", timeout=30)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED  # type: ignore[attr-defined]


# -- calls ------------------------------------------------------------------------------------------------------------


def test_a_caller_has_so_many_calls_and_others_have_theirs(token_file: Path) -> None:
    with listening(token_file=token_file, max_calls=3) as server, grpc.insecure_channel(server.address) as channel:
        chat, echo = channel.stream_stream(CHAT), channel.unary_unary("/test.Echo/Echo")
        sending: list[Any] = []
        streams = []
        for _ in range(3):
            feed: Any = queue.SimpleQueue()
            feed.put(b"x")
            streams.append(chat(iter(feed.get, None), metadata=bearer("p"), timeout=60))
            assert next(streams[-1]) == b"x"
            sending.append(feed)
        with pytest.raises(grpc.RpcError, match="this caller has 3 calls in progress") as caught:
            echo(b"x", metadata=bearer("p"), timeout=30)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]
        assert echo(b"x", metadata=bearer("q"), timeout=30) == b"x"
        sending[0].put(None)
        assert list(streams[0]) == []
        assert echo(b"x", metadata=bearer("p"), timeout=30) == b"x"
        for feed in sending:
            feed.put(None)
    with listening(max_calls=1) as server, grpc.insecure_channel(server.address) as channel:  # this machine's own
        chat = channel.stream_stream(CHAT)
        both = [chat(iter([b"x"]), timeout=30) for _ in range(2)]
        assert [next(stream) for stream in both] == [b"x", b"x"]


# -- tokens -----------------------------------------------------------------------------------------------------------


def test_streams_and_watches_end_when_their_token_is_revoked(serving: Callable[..., Process], token_file: Path) -> None:
    server = serving(token_file=str(token_file))
    acting = prediction_pb2.ActStreamRequest(
        model="cartpole", episode=1, start=True, observation=array_to_tensor(np.zeros(4, np.float32))
    )
    with grpc.insecure_channel(server.address) as channel:
        feeds: Any = [queue.SimpleQueue() for _ in range(4)]
        feeds[0].put(acting.SerializeToString())
        streams = [
            channel.stream_stream(path)(iter(feed.get, None), metadata=bearer("a"), timeout=60)
            for path, feed in zip(STREAMS, feeds, strict=True)
        ]
        assert next(streams[0])
        health = health_pb2_grpc.HealthStub(channel)
        mine = health.Watch(health_pb2.HealthCheckRequest(service="digits"), metadata=bearer("a"), timeout=60)
        others = health.Watch(health_pb2.HealthCheckRequest(service="digits"), metadata=bearer("q"), timeout=60)
        strangers = health.Watch(health_pb2.HealthCheckRequest(service=""), timeout=60)
        for watch in (mine, others, strangers):
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        token_file.write_text(f"other {digest('q')} predict never\n")
        os.kill(server.process.pid, signal.SIGHUP)
        for stream in (*streams, mine):
            with pytest.raises(grpc.RpcError) as caught:
                next(stream)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED  # type: ignore[attr-defined]
        assert not others.done()
        assert not strangers.done()
        for feed in feeds:
            feed.put(None)
    server.end()


def test_who_calls_and_what_they_may(token_file: Path) -> None:
    authority = Authority(token_file, "admin")
    me, root = (authority.authorize("/x/Y", bearer(token), "ipv4:127.0.0.1:1") for token in "pa")
    assert (me.role, me.limited, root.role) == ("predict", True, "admin")
    assert authority.authorize("/x/Y", bearer("p"), "ipv4:192.0.2.7:2") is me  # whatever the connection
    with pytest.raises(ForbiddenError, match="token 'me' has role predict"):
        authority.authorize("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", bearer("p"), "")
    with pytest.raises(UnauthenticatedError):
        authority.authorize("/x/Y", (), "")
    stranger = authority.authorize("/grpc.health.v1.Health/Check", (), "ipv4:192.0.2.7:3")
    assert stranger.role is None
    assert stranger.limited
    check_open(stranger, "")
    with pytest.raises(UnauthenticatedError):
        check_open(stranger, "digits")
    check_open(me, "digits")


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 9)), min_size=1))
def test_callers_from_elsewhere_are_told_by_address_and_local_ones_by_connection(peers: list[tuple[int, int]]) -> None:
    authority = Authority(None, "predict")
    away = {peer: authority.authorize("/x/Y", (), "ipv4:192.0.2.{}:{}".format(*peer)) for peer in peers}
    assert len(set(away.values())) == len({host for host, _ in peers})
    assert all(caller.limited for caller in away.values())
    local = {port: authority.authorize("/x/Y", (), f"ipv6:%5B::1%5D:{port}") for _, port in peers}
    assert len(set(local.values())) == len(local)
    assert not any(caller.limited for caller in local.values())
    assert not authority.authorize("/x/Y", (), "unix:").limited


# -- streams that do nothing ------------------------------------------------------------------------------------------


def test_every_stream_without_requests_ends(serving: Callable[..., Process]) -> None:
    server = serving(stream_idle_s=0.5)
    with grpc.insecure_channel(server.address) as channel:
        for path in STREAMS:
            feed: Any = queue.SimpleQueue()
            started = time.monotonic()
            with pytest.raises(grpc.RpcError, match=r"the stream had no request for 0.5 s") as caught:
                next(channel.stream_stream(path)(iter(feed.get, None), timeout=30))
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # type: ignore[attr-defined]
            assert time.monotonic() - started < 5
            feed.put(None)
    server.end()


def test_every_stream_whose_answers_are_not_read_ends(serving: Callable[..., Process]) -> None:
    """With an HTTP/2 window of nothing, a stream's first answer cannot be sent."""
    server = serving(stream_idle_s=0.3)
    asked = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    for path in STREAMS[2:]:
        with Connection(server.port, b"\0\4" + bytes(4)) as deaf:
            deaf.send(
                frame(SETTINGS, ACK, 0),
                frame(HEADERS, END_HEADERS, 1, call_headers(path.encode())),
                frame(0, 0, 1, b"\0" + len(asked).to_bytes(4, "big") + asked),
            )
            deaf.socket.settimeout(10)  # long before unanswered pings end its connection
            ended = False
            while not ended:  # by gRPC itself, as the status of the stream waits behind the answer
                received = deaf.read()
                assert received is not None
                ended = received.stream == 1 and (received.kind == RST_STREAM or b"grpc-status" in received.payload)
            deaf.send(frame(PING, 0, 0, bytes(8)))  # the connection goes on
            assert deaf.read_until(PING).flags == ACK
    with grpc.insecure_channel(server.address) as channel:
        listing = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        assert list(reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(listing, timeout=30))
    server.end()


def test_a_grpcio_without_registered_methods_is_served_by_its_own_loop(
    token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptor, "CAN_ACCEPT", False)
    with listening(token_file=token_file) as server, grpc.insecure_channel(server.address) as channel:
        assert channel.unary_unary("/test.Echo/Echo")(b"x", metadata=bearer("p"), timeout=30) == b"x"
        assert list(channel.stream_stream(CHAT)(iter([b"x", b"y"]), metadata=bearer("p"), timeout=30)) == [b"x", b"y"]
        for metadata, code in ((bearer("p"), "UNIMPLEMENTED"), ((), "UNAUTHENTICATED")):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary("/test.Echo/None")(b"", metadata=metadata, timeout=30)
            assert caught.value.code().name == code  # type: ignore[attr-defined]
