"""Bounds of the log: refusals, calls that break off, and a peer's text, which must not become lines of the log."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from bare_http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    RST_STREAM,
    Connection,
    call_headers,
    frame,
    grpc_message,
)
from google.protobuf.message import DecodeError
from http_get import get

from torso.errors import UnauthenticatedError
from torso.serve import Client
from torso.serve.observability.bounded_logs import MAX_KINDS, MAX_TEXT, WHOLE, RefusalLog, bounded_logs
from torso.serve.observability.logs import log_as
from torso.serve.wire.status import to_wire

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ ")


class Command:
    """``torso serve`` in a process of its own, with its stderr."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self._log, port, ops = folder / "log", folder / "port", folder / "ops"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
        command = (sys.executable, "-m", "torso.cli", "serve", "--port", "0", "--ops-port", "0", "--drain-s", "0")
        files = ("--port-file", str(port), "--ops-port-file", str(ops))
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                (*command, *files, *arguments), stdout=log, stderr=log, env={**inherited, **environment}
            )
        while not (port.exists() and ops.exists()):
            assert self.process.poll() is None, self.log
            time.sleep(0.05)
        self.port, self.ops_port = int(port.read_text()), int(ops.read_text())

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def end(self) -> None:
        self.process.terminate()
        assert self.process.wait(60) == 0, self.log


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    started = []

    def start(*arguments: str, **environment: str) -> Command:
        started.append(Command(tmp_path, *arguments, **environment))
        return started[-1]

    yield start
    for server in started:
        server.process.kill()
        server.process.wait()


# -- text of peers -----------------------------------------------------------------------------------------------------

FORGERIES = (
    b'\n{"level":"INFO","message":"forged"}',
    b"\r\n2026-11-30 00:00:00,000 INFO forged",
    b"\x1b[31mforged\x00\x07\x85",
    b"\xff\xfe\nforged \xe2\x80\xa8 forged",
)


def goaway(code: int, text: bytes) -> bytes:
    return frame(GOAWAY, 0, 0, struct.pack(">II", 0, code) + text)


def connect(port: int, settings: bytes | None = b"") -> Connection:
    """Connect, also while the server listens anew, as it does after a call whose path is not UTF-8."""
    for _ in range(100):
        with contextlib.suppress(ConnectionRefusedError):
            return Connection(port, settings)
        time.sleep(0.1)
    return Connection(port, settings)


def send_forgeries(port: int) -> None:
    """Send text that a log could take for lines of its own, wherever a peer can put some."""
    for text in FORGERIES:
        for code in (0, 1, 2, 11, 99):
            with connect(port) as connection:
                connection.send(goaway(code, text))
                time.sleep(0.02)  # or the server might not have read it when the connection ends
        with connect(port, None) as connection:
            connection.send(text * 10)
        with connect(port) as connection:
            connection.send(frame(HEADERS, END_HEADERS, 1, call_headers(b"/a" + text, (b"user-agent", text))))
            connection.send(frame(DATA, END_STREAM, 1, grpc_message(text)), goaway(0, text))
            time.sleep(0.02)


@pytest.mark.parametrize(
    ("form", "workers", "environment"), [("json", 1, {}), ("text", 1, {"GRPC_TRACE": "all"}), ("json", 2, {})]
)
def test_no_line_of_the_log_is_a_peers(
    models: Any, command: Callable[..., Command], form: str, workers: int, environment: dict[str, str]
) -> None:
    options = ("--log-format", form, "--workers", str(workers))
    server = command(str(models.cartpole), *options, **environment)
    send_forgeries(server.port)
    server.end()
    for line in server.log.splitlines():
        if form == "text":
            assert LINE.match(line), line
            assert line[24:] != "INFO forged"
        else:
            assert json.loads(line)["logger"], line
            assert json.loads(line)["message"] != "forged"


# -- refused calls -----------------------------------------------------------------------------------------------------

METHODS = (
    *("/torso.v1.PredictionService/Act", "/torso.v1.PredictionService/ActStream"),
    *("/torso.v1.PredictionService/GetModel", "/torso.v1.PredictionService/ListModels"),
    *("/inference.GRPCInferenceService/ModelInfer", "/inference.GRPCInferenceService/ModelStreamInfer"),
    *("/inference.GRPCInferenceService/ServerLive", "/inference.GRPCInferenceService/RepositoryModelLoad"),
    *("/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"),
    *("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "/no.such/Method"),
)
BAD, GOOD = (b"authorization", b"Bearer x"), (b"authorization", b"Bearer secret")
RESET = struct.pack(">I", 8)
ENDINGS: dict[str, Callable[[int], tuple[bytes, ...]]] = {
    "whole": lambda stream: (frame(DATA, END_STREAM, stream, grpc_message(b"\x0a\x08cartpole")),),
    "nonsense": lambda stream: (frame(DATA, END_STREAM, stream, grpc_message(b"\xff" * 9)),),
    "reset": lambda stream: (frame(RST_STREAM, 0, stream, RESET),),
    "reset after the message": lambda stream: (
        frame(DATA, END_STREAM, stream, grpc_message(b"")),
        frame(RST_STREAM, 0, stream, RESET),
    ),
    "no message": lambda stream: (frame(DATA, END_STREAM, stream),),
    "half a message": lambda stream: (frame(DATA, END_STREAM, stream, grpc_message(b"abcdef")[:-3]),),
    "no end": lambda stream: (),
}


def refused_calls(port: int, token: tuple[bytes, bytes] | None, *, window: bytes = b"", deadline: bytes = b"") -> int:
    """Make calls of every kind, each ending in every way; return their number."""
    number = 0
    headers = (*((token,) if token else ()), *(((b"grpc-timeout", deadline),) if deadline else ()))
    for end in ENDINGS.values():
        with Connection(port, window) as connection, contextlib.suppress(ConnectionError):
            for stream, method in enumerate(METHODS * 2):
                opened = frame(HEADERS, END_HEADERS, 2 * stream + 1, call_headers(method.encode(), *headers))
                connection.send(opened, *end(2 * stream + 1))
                number += 1
            time.sleep(0.02)
    return number


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    file = tmp_path / "tokens"
    file.write_text(f"someone {hashlib.sha256(b'secret').hexdigest()} predict never\n")
    file.chmod(0o600)
    return file


@pytest.mark.parametrize("form", ["json", "text"])
def test_thousands_of_refused_calls_write_little(
    models: Any, command: Callable[..., Command], tokens: Path, form: str
) -> None:
    server = command(str(models.cartpole), "--token-file", str(tokens), "--log-format", form)
    before = len(server.log)
    no_window = struct.pack(">HI", INITIAL_WINDOW_SIZE, 0)
    number = 0
    while number < 2000:
        for token in (None, BAD, GOOD):
            number += refused_calls(server.port, token)
            number += refused_calls(server.port, token, window=no_window)
            number += refused_calls(server.port, token, deadline=b"1n")
    with Client(f"127.0.0.1:{server.port}", token="other") as client, pytest.raises(UnauthenticatedError):
        client.list_models()
    metrics = get(server.ops_port, "/metrics")[1]
    server.end()
    written = server.log[before:]
    assert len(written) < 1 << 16, written
    for status in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        counted = re.search(rf'torso_requests_total{{model="",status="{status}",version=""}} (\d+)', metrics)
        assert counted is not None
        logged = [int(text.replace(",", "")) for text in re.findall(rf"([\d,]+) {status}", written)]
        assert sum(logged) >= int(counted[1]) > 0
    if form == "json":
        assert all(json.loads(line) for line in server.log.splitlines())


def test_refusals_are_one_line_for_all(caplog: pytest.LogCaptureFixture) -> None:
    refusals = RefusalLog()
    for status, number in (("PERMISSION_DENIED", 3), ("UNAUTHENTICATED", 4120)):
        for _ in range(number):
            refusals.count(status)
    assert not caplog.records
    refusals.close()
    refusals.close()
    assert [record.getMessage() for record in caplog.records] == [
        "calls refused in the last 10 s: 4,120 UNAUTHENTICATED, 3 PERMISSION_DENIED"
    ]


def test_refusals_are_logged_at_the_end_of_an_interval(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torso.serve.observability.bounded_logs.INTERVAL_S", 0.05)
    refusals = RefusalLog()
    for number in (1, 2):
        refusals.count("UNAUTHENTICATED")
        while len(caplog.records) < number:
            time.sleep(0.01)
    assert all("1 UNAUTHENTICATED" in record.getMessage() for record in caplog.records)


# -- records that repeat -----------------------------------------------------------------------------------------------


def log_error(name: str, error: Exception, message: str = "it failed") -> None:
    try:
        raise error
    except type(error):
        logging.getLogger(name).exception(message)


def test_a_librarys_records_that_repeat_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    with bounded_logs():
        for number in range(1000):
            log_error("grpc._cython.cygrpc", KeyError(number), f"of method {number}")
        for _ in range(1000):
            logging.getLogger("asyncio").warning("a text, %s", "whatever is in it")
    first, second = caplog.records[:WHOLE], caplog.records[WHOLE : 2 * WHOLE]
    assert [record.getMessage() for record in first] == [f"of method {number}" for number in range(WHOLE)]
    assert all(record.exc_info for record in first)
    assert all(record.name == "asyncio" for record in second)
    [summary] = caplog.records[2 * WHOLE :]
    left_out = f"{1000 - WHOLE:,}"
    assert f"{left_out} of grpc._cython.cygrpc" in summary.getMessage()
    assert f"{left_out} of asyncio" in summary.getMessage()


def test_what_peers_do_has_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    usage_error = grpc.aio.UsageError("of gRPC")
    with bounded_logs():
        for error in (usage_error, ConnectionResetError("of a peer"), DecodeError("of bytes")):
            log_error("grpc._cython.cygrpc", error, "a\nb%s" + "c" * 10000)
    assert len(caplog.records) == 3
    for record in caplog.records:
        assert record.exc_info is None
        assert record.getMessage().startswith("a\\nb%sc")
        assert len(record.getMessage()) == MAX_TEXT


def test_kinds_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    with bounded_logs():
        for number in range(10 * MAX_KINDS):
            logging.getLogger("asyncio").error(f"text {number}")
    assert len(caplog.records) == MAX_KINDS + WHOLE + 1


def test_every_incident_keeps_its_line(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> str:
        try:
            raise KeyError("of a bug")
        except KeyError as error:
            return to_wire(error, "act").message.rpartition(" ")[2]

    def fail_elsewhere() -> str:
        try:
            raise ValueError("of another")
        except ValueError as error:
            return to_wire(error, "act").message.rpartition(" ")[2]

    with bounded_logs():
        incidents = [fail() for _ in range(1000)]
        another = fail_elsewhere()
    assert [record.getMessage().split()[2] for record in caplog.records] == [*incidents, another]
    assert [bool(record.exc_info) for record in caplog.records] == [True] * WHOLE + [False] * (1000 - WHOLE) + [True]
    assert "KeyError" in caplog.records[-2].getMessage()


def test_other_loggers_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    with bounded_logs():
        for name in ("torso.serve.models", "another"):
            for _ in range(100):
                log_error(name, ValueError("of it"))
    assert len(caplog.records) == 200
    for _ in range(100):
        log_error("grpc", ValueError("of it"))
    assert len(caplog.records) == 300, "the bounds end with the block"


# -- stderr ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["json", "text"])
def test_what_is_printed_to_stderr_is_logged(capsys: pytest.CaptureFixture[str], form: Any) -> None:
    before = sys.stderr
    with log_as(form):
        try:
            raise ValueError("deep down\n2026-11-30 00:00:00,000 INFO forged")
        except ValueError:
            traceback.print_exc()
            logging.getLogger("torso").exception("it failed")
        print("a %s line", file=sys.stderr)
        print("half a line", file=sys.stderr, end="")
        sys.stderr.flush()
    assert sys.stderr is before
    lines = capsys.readouterr().err.splitlines()
    if form == "json":
        messages = [json.loads(line)["message"] for line in lines]
        assert messages[0] == "Traceback (most recent call last):"
        assert messages[-2:] == ["a %s line", "half a line"]
    else:
        assert any(line.endswith(" WARNING a %s line") for line in lines)
        assert not any(line[24:] == "INFO forged" for line in lines)
