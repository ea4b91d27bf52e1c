"""Logging: text and JSON formats, request ids in the log and on the wire, and what callers never see."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from torso.errors import InputError, UnavailableError
from torso.proto import prediction_pb2 as pb
from torso.proto.prediction_pb2_grpc import PredictionServiceStub
from torso.serve import Client, RetryPolicy
from torso.serve.observability.logs import (
    FORMATTERS,
    MAX_ID,
    JsonFormatter,
    TextFormatter,
    caller_request_id,
    current_call,
    log_as,
)
from torso.serve.observability.metrics import Metrics
from torso.serve.services.request_handler import OFFLOAD_BYTES, Call, RequestHandler
from torso.serve.wire.status import WireStatus

logger = logging.getLogger("torso.serve.test")

NEW_ID = re.compile("[0-9a-f]{16}")


def request(name: str = "digits") -> bytes:
    return pb.GetModelRequest(model=name).SerializeToString()


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


async def ask(channel: grpc.aio.Channel, method: str, data: bytes, **metadata: str) -> tuple[str, str, str]:
    """Return the status' name and message, and the id that came back; "" for none."""
    call = channel.unary_unary(f"/test.Door/{method}")(
        data, metadata=[(name.replace("_", "-"), value) for name, value in metadata.items()]
    )
    code, details = await call.code(), await call.details()
    return code.name, details, dict(iter(await call.trailing_metadata())).get("x-request-id", "")


async def answer(asked: pb.GetModelRequest, _call: Call) -> pb.GetModelResponse:
    """Log, and fail as requested."""
    logger.info("asked for %s", asked.model)
    if asked.model == "bug":
        raise KeyError("of a bug")
    if asked.model == "mistake":
        raise InputError("model", expected="another\nINFO line", got="\x1b[31m")
    return pb.GetModelResponse(name=asked.model)


def test_lines_of_a_request_are_json_with_its_id(
    behind: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = Metrics()

    async def of_digits(asked: pb.GetModelRequest, call: Call) -> pb.GetModelResponse:
        call.metrics = metrics.model("digits", "3")
        return await answer(asked, call)

    async def scenario() -> list[tuple[str, str, str]]:
        async with behind(RequestHandler(metrics, log_requests=True), of_digits) as channel:
            return [
                await ask(channel, "of_digits", request("a"), x_request_id="client/7 a"),
                await ask(channel, "of_digits", request("mistake"), x_request_id="8"),
                await ask(channel, "of_digits", request("b")),
            ]

    with log_as("json"):
        (_, _, given_back), (_, message, also), (_, _, new) = asyncio.run(scenario())
    asked, ended, also_asked, refused, asked_new, ended_new = lines(capsys.readouterr().err)
    assert (given_back, also) == ("client/7 a", "8")
    assert NEW_ID.fullmatch(new)
    assert [line["request_id"] for line in (asked, ended)] == ["client/7 a"] * 2
    assert [line["request_id"] for line in (also_asked, refused)] == ["8"] * 2
    assert [line["request_id"] for line in (asked_new, ended_new)] == [new] * 2
    assert asked.keys() == {"time", "level", "logger", "pid", "message", "request_id"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", asked["time"])
    assert (asked["level"], asked["logger"], asked["message"]) == ("INFO", "torso.serve.test", "asked for a")
    assert ended.keys() - asked.keys() == {"model", "version", "method", "status", "seconds"}
    assert (ended["model"], ended["version"], ended["method"], ended["status"]) == ("digits", "3", "of_digits", "OK")
    assert ended["seconds"] > 0
    assert refused["status"] == "INVALID_ARGUMENT"
    assert refused["message"].endswith(message)


def test_a_line_for_people(behind: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        async with behind(RequestHandler(Metrics(), log_requests=True), answer) as channel:
            await ask(channel, "answer", request("mistake"), x_request_id="7")

    with log_as("text"):
        asyncio.run(scenario())
        logger.info("between requests")
    first, second, last = capsys.readouterr().err.splitlines()
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO "
    assert re.fullmatch(stamp + r"asked for mistake \[7\]", first)
    refused = r"answer INVALID_ARGUMENT in \d+\.\d{3} ms: model must be another\\nINFO line, got \\x1b\[31m \[7\]"
    assert re.fullmatch(stamp + refused, second), second
    assert re.fullmatch(stamp + "between requests", last)


def test_a_bug_is_a_traceback_in_the_log_and_an_id_on_the_wire(
    behind: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario() -> tuple[str, str, str]:
        async with behind(RequestHandler(Metrics()), answer) as channel:
            return await ask(channel, "answer", request("bug"))

    with log_as("json"):
        status, message, request_id = asyncio.run(scenario())
    _, line = lines(capsys.readouterr().err)
    assert status == "INTERNAL"
    assert "Traceback (most recent call last)" in line["exception"]
    assert "KeyError: 'of a bug'" in line["exception"]
    assert (line["level"], line["request_id"]) == ("ERROR", request_id)
    assert message.rpartition(" ")[2] in line["message"]
    for secret in ("KeyError", "of a bug", "Traceback", ".py"):
        assert secret not in message


def test_an_answer_has_an_id_where_someone_could_use_it(
    behind: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario() -> list[tuple[str, str, str]]:
        async with behind(RequestHandler(Metrics()), answer) as channel:
            return [
                await ask(channel, "answer", request()),
                await ask(channel, "answer", request(), x_request_id="x" * MAX_ID),
                await ask(channel, "answer", request(), x_request_id="x" * (MAX_ID + 1)),
                await ask(channel, "answer", request("mistake")),
                await ask(channel, "answer", b"\xff", x_request_id="7"),
            ]

    with log_as("json"):
        unasked, longest, too_long, failed, unread = asyncio.run(scenario())
    assert unasked == ("OK", "", ""), "nobody asked for an id"
    assert longest[2] == "x" * MAX_ID
    assert too_long[2] == "", "it is replaced, and nobody knows the new one"
    assert NEW_ID.fullmatch(failed[2])
    assert unread[2] == "7"
    assert len(lines(capsys.readouterr().err)) == 4, "requests are logged where that is asked for"


def test_an_id_with_control_characters_is_replaced(
    behind: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario() -> list[bytes]:
        async with behind(RequestHandler(Metrics(), log_requests=True), answer) as channel:
            ids = (b"fine", b"7\n2026 INFO forged", b"\x1b[31m", b"\x7f", b"\x00", b"caf\xc3\xa9", b"\xff", b"")
            return [await asyncio.to_thread(raw_call, channel.port, identity) for identity in ids]

    with log_as("json"):
        fine, *others = asyncio.run(scenario())
    assert b"x-request-id\x04fine" in fine
    first, *new = [line["request_id"] for line in lines(capsys.readouterr().err) if "status" in line]
    assert first == "fine"
    assert len(set(new)) == len(others)
    for raw, identity in zip(others, new, strict=True):
        assert NEW_ID.fullmatch(identity)
        assert b"x-request-id\x10" + identity.encode() in raw
        assert b"forged" not in raw


def raw_call(port: int, identity: bytes) -> bytes:
    """Make a call in bare HTTP/2, whatever its id, and return what the server sends until it ends the call."""

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload

    def header(name: bytes, value: bytes) -> bytes:
        return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value

    headers = header(b":method", b"POST") + header(b":scheme", b"http") + header(b":path", b"/test.Door/answer")
    headers += header(b":authority", b"x") + header(b"te", b"trailers") + header(b"content-type", b"application/grpc")
    headers += header(b"x-request-id", identity)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(10)
        connection.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + frame(4, 0, 0, b"")
            + frame(1, 4, 1, headers)
            + frame(0, 1, 1, bytes(5))
        )
        received = b""
        while True:
            more = connection.recv(4096)
            received += more
            if not more or ends(received, 1):
                return received


def ends(received: bytes, stream: int) -> bool:
    """Say whether whole frames were received up to one that ends a stream."""
    at = 0
    while at + 9 <= len(received):
        length, kind, flags = int.from_bytes(received[at : at + 3], "big"), received[at + 3], received[at + 4]
        of_stream = int.from_bytes(received[at + 5 : at + 9], "big") == stream
        at += 9 + length
        if at <= len(received) and of_stream and (kind == 3 or (kind in (0, 1) and flags & 1)):
            return True
    return False


def test_requests_at_once_have_their_own_ids(behind: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    both = asyncio.Barrier(2)

    async def meets(asked: pb.GetModelRequest, _call: Call) -> pb.GetModelResponse:
        for step in range(3):
            await both.wait()
            logger.info("%s at %d", asked.model, step)
        return pb.GetModelResponse()

    async def scenario() -> None:
        async with behind(RequestHandler(Metrics()), meets) as channel:
            await asyncio.gather(
                ask(channel, "meets", request("a"), x_request_id="id of a"),
                ask(channel, "meets", request("b"), x_request_id="id of b"),
            )

    with log_as("json"):
        asyncio.run(scenario())
    logged = lines(capsys.readouterr().err)
    assert len(logged) == 6
    assert all(line["request_id"] == f"id of {line['message'][0]}" for line in logged)


def test_work_in_a_thread_logs_with_the_id(behind: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    handler = RequestHandler(Metrics())

    def work() -> str:
        logger.info("working")
        return "done"

    async def works(_asked: pb.GetModelRequest, _call: Call) -> pb.GetModelResponse:
        return pb.GetModelResponse(name=await handler.offload(True, work))

    async def scenario() -> None:
        async with behind(handler, works) as channel:
            await ask(channel, "works", request("x" * OFFLOAD_BYTES), x_request_id="7")

    with log_as("json"):
        asyncio.run(scenario())
    [line] = lines(capsys.readouterr().err)
    assert (line["message"], line["request_id"]) == ("working", "7")


def test_a_stream_and_its_requests_have_one_id(behind: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    metrics = Metrics()
    handler = RequestHandler(metrics, log_requests=True)

    async def chat(requests: AsyncIterator[bytes], stream: Call) -> AsyncIterator[pb.GetModelResponse]:
        async for data in requests:

            async def one(call: Call, data: bytes = data) -> pb.GetModelResponse:
                call.metrics = metrics.model("digits", "1")
                return await answer(pb.GetModelRequest.FromString(data), call)

            outcome = await handler.message(stream, one, 0)
            yield pb.GetModelResponse() if isinstance(outcome, WireStatus) else outcome

    async def scenario() -> str:
        async with behind(handler, chat) as channel:
            stream = channel.stream_stream("/test.Door/chat")(metadata=(("x-request-id", "7"),))
            for name in ("a", "bug"):
                await stream.write(request(name))
                await stream.read()
            await stream.done_writing()
            assert await stream.read() is grpc.aio.EOF
            return str(dict(iter(await stream.trailing_metadata()))["x-request-id"])

    with log_as("json"):
        assert asyncio.run(scenario()) == "7"
    logged = lines(capsys.readouterr().err)
    assert {line["request_id"] for line in logged} == {"7"}
    ended = [line for line in logged if "status" in line]
    assert [(line["status"], line.get("model")) for line in ended] == [
        ("OK", "digits"),
        ("INTERNAL", "digits"),
        ("OK", None),
    ]
    assert ended[-1]["message"].startswith("chat stream OK")
    assert [line["logger"] for line in logged if "exception" in line] == ["torso.serve.wire.status"]


@pytest.mark.parametrize("workers", [1, 2])
def test_all_that_a_server_says_is_json(models: Any, workers: int) -> None:
    command = (
        *(sys.executable, "-m", "torso.cli", "serve", str(models.cartpole), "--port", "0", "--workers", str(workers)),
        *("--log-format", "json", "--log-requests", "--drain-s", "0"),
    )
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        said = []
        try:
            for text in server.stderr:
                said.append(json.loads(text))
                if said[-1]["message"].startswith("serving"):
                    break
            address = said[-1]["message"].rpartition(" ")[2]
            with grpc.insecure_channel(address) as channel:
                stub = PredictionServiceStub(channel)
                stub.GetModel(pb.GetModelRequest(model="cartpole"), metadata=(("x-request-id", "7"),), timeout=30)
            server.terminate()
            said += [json.loads(text) for text in server.stderr]
        finally:
            server.kill()
    of_request = [line for line in said if "request_id" in line]
    assert [(line["request_id"], line["method"], line["status"]) for line in of_request] == [("7", "get_model", "OK")]
    assert (of_request[0]["pid"] == server.pid) == (workers == 1)
    assert any(line["message"].startswith("model cartpole") for line in said)
    assert server.returncode == 0


def test_handshakes_that_fail_leave_the_log_json(models: Any, tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(key)
    command = (
        *(sys.executable, "-m", "torso.cli", "serve", str(models.cartpole), "--port", "0", "--log-format", "json"),
        *("--tls-cert", str(cert), "--tls-key", str(key), "--drain-s", "0"),
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stderr is not None
        said = []
        try:
            while not (said and said[-1]["message"].startswith("serving")):
                said.append(json.loads(next(server.stderr)))
            address = said[-1]["message"].rpartition(" ")[2]
            host, _, port = address.rpartition(":")
            for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(300)):
                with socket.create_connection((host, int(port))) as caller:
                    caller.sendall(data)
                    assert caller.recv(1 << 16) is not None
            for settings in ({}, {"tls": True}):
                with (
                    Client(address, retries=RetryPolicy(max_attempts=1), **settings) as client,
                    pytest.raises(UnavailableError, match="TLS"),
                ):
                    client.list_models()
            server.terminate()
            said += [json.loads(text) for text in server.stderr]
        finally:
            server.kill()
    assert said[-1]["message"] == "the server has stopped"
    assert server.returncode == 0


# -- the formats -------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from(["a", "x-request-id"]), st.text() | st.binary())))
def test_an_id_is_taken_as_it_is_or_not_at_all(metadata: list[tuple[str, str | bytes]]) -> None:
    identity = caller_request_id(metadata)
    values = [value for key, value in metadata if key == "x-request-id"]
    if identity is None:
        assert not values or not (isinstance(values[0], str) and re.fullmatch(f"[ -~]{{1,{MAX_ID}}}", values[0]))
    else:
        assert identity == values[0]
        assert re.fullmatch(f"[ -~]{{1,{MAX_ID}}}", identity)


@given(st.text() | st.text("a \n\r\x0b\x1b\x85\u2028\u2029"), st.sampled_from(["text", "json"]))
def test_whatever_is_logged_is_one_line(message: str, form: Any) -> None:
    record = logging.LogRecord("torso", logging.INFO, "f.py", 1, message, None, None)
    line = FORMATTERS[form]().format(record)
    assert len(line.splitlines()) == 1
    if form == "json":
        assert json.loads(line)["message"] == message


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_lines_outside_of_requests_have_no_id(formatter: logging.Formatter) -> None:
    assert current_call.get() is None
    line = formatter.format(logging.LogRecord("torso", logging.INFO, "f.py", 1, "message", None, None))
    assert "request_id" not in line
    assert not line.endswith("]")


@pytest.fixture
def someone_elses() -> Iterator[list[logging.LogRecord]]:
    """What reaches a handler that torso's logger had before."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    ours = logging.getLogger("torso")
    level = ours.level
    ours.addHandler(handler)
    ours.setLevel(logging.ERROR)
    yield records
    ours.setLevel(level)
    ours.removeHandler(handler)


def test_the_whole_processs_log_takes_the_form(
    capsys: pytest.CaptureFixture[str], someone_elses: list[logging.LogRecord]
) -> None:
    root, ours = logging.getLogger(), logging.getLogger("torso")
    before = (root.handlers[:], root.level, ours.handlers[:], ours.level)
    with log_as("json"):
        logger.debug("not this")
        logger.info("ours")
        logging.getLogger("another.library").info("nor this")
        logging.getLogger("another.library").warning("theirs")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("a\nwarning", UserWarning, stacklevel=1)
    assert (root.handlers, root.level, ours.handlers, ours.level) == before
    mine, theirs, warned = lines(capsys.readouterr().err)
    assert (mine["message"], theirs["message"]) == ("ours", "theirs")
    assert (warned["logger"], warned["level"]) == ("py.warnings", "WARNING")
    assert "UserWarning: a\nwarning" in warned["message"]
    assert not someone_elses
    logger.error("afterwards")
    assert [record.getMessage() for record in someone_elses] == ["afterwards"]


def test_what_python_would_write_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    hooks = threading.excepthook, sys.unraisablehook

    class Unfinished:
        def __del__(self) -> None:
            raise ValueError("in a finalizer")

    def fail() -> None:
        raise ValueError("in a thread")

    with log_as("json"):
        thread = threading.Thread(target=fail, name="a-thread")
        thread.start()
        thread.join()
        del thread
        Unfinished()
        gc.collect()
    in_thread, in_finalizer = lines(capsys.readouterr().err)
    assert (in_thread["level"], in_thread["message"]) == ("ERROR", "thread a-thread ended")
    assert in_thread["exception"].endswith("ValueError: in a thread")
    assert in_finalizer["exception"].endswith("ValueError: in a finalizer")
    assert (threading.excepthook, sys.unraisablehook) == hooks


@pytest.mark.parametrize("wrong", [("--host", "203.0.113.7"), ("--token-file", "nowhere")])
def test_a_server_that_cannot_start_says_so_in_json(models: Any, wrong: tuple[str, str]) -> None:
    command = (sys.executable, "-m", "torso.cli", "serve", str(models.cartpole), "--port", "0", *wrong)
    done = subprocess.run((*command, "--log-format", "json"), capture_output=True, text=True)
    *_, last = lines(done.stderr)
    assert (done.returncode, done.stdout, last["level"]) == (2, "", "CRITICAL")
    assert last["message"].startswith("error: ")
    in_text = subprocess.run(command, capture_output=True, text=True)
    assert (in_text.returncode, in_text.stderr.splitlines()[-1]) == (2, last["message"])


def test_an_exception_in_a_form(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise ValueError("deep down")
    except ValueError:
        with log_as("json"):
            logger.exception("it failed")
        [line] = lines(capsys.readouterr().err)
        with log_as("text"):
            logger.exception("it failed")
        first, *traceback = capsys.readouterr().err.splitlines()
    assert line["exception"].endswith("ValueError: deep down")
    assert first.endswith("ERROR it failed")
    assert traceback == line["exception"].splitlines()
    assert sys.exc_info() == (None, None, None)
