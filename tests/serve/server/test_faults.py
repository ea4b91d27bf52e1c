"""Fault injection: clients that stall, vanish or send garbage, and a clock that jumps."""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bare_http2 import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    SETTINGS,
    Connection,
    Frame,
    call_headers,
    frame,
    grpc_message,
)
from server_process import Process

from torso.errors import UnauthenticatedError
from torso.proto import prediction_pb2 as pb
from torso.serve import Client
from torso.serve.wire.tensors import array_to_tensor

CLASSIFY = b"/torso.v1.PredictionService/Classify"
ACT = b"/torso.v1.PredictionService/Act"


@pytest.fixture
def serving(models: Any, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """``serving(setting=...)`` starts a server of the small models."""
    started: list[Process] = []

    def start(environment: dict[str, str] | None = None, **settings: Any) -> Process:
        directories = [str(models.digits), str(models.cartpole)]
        process = Process(tmp_path / "server", environment or {}, **{"models": directories, **settings})
        started.append(process)
        return process

    yield start
    for process in started:
        if process.process.poll() is None:
            process.process.kill()
            process.process.wait()


def answers(client: Client) -> bool:
    return client.classify("digits", np.zeros((1, 8, 8), dtype=np.uint8)).indices.shape == (1, 1)


def act_request(rows: int) -> bytes:
    observations = array_to_tensor(np.zeros((rows, 4), dtype=np.float32))
    return pb.ActRequest(model="cartpole", observations=observations).SerializeToString()


# -- clients ------------------------------------------------------------------------------------------------------


def test_a_thousand_idle_connections_cost_others_nothing(serving: Callable[..., Process]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard == resource.RLIM_INFINITY or hard >= 2000, "this test needs 1,000 connections"
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000) if soft >= 0 else soft, hard))
    try:
        server = serving()
        with contextlib.ExitStack() as stack, Client(server.address) as client:
            idle = [stack.enter_context(Connection(server.port)) for _ in range(1000)]
            for connection in idle:
                assert connection.read_until(SETTINGS).kind == SETTINGS  # each was taken
                connection.send(frame(SETTINGS, ACK, 0))
            for _ in range(20):
                assert answers(client)
            with Client(server.address) as newcomer:
                assert answers(newcomer)
            idle[500].call(CLASSIFY)  # they have only been idle
            assert b"grpc-status" in idle[500].read_until(HEADERS, 1).payload
            server.end()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_slow_reader_stops_nobody(serving: Callable[..., Process]) -> None:
    server = serving(max_queue_rows=100_000)
    no_window = INITIAL_WINDOW_SIZE.to_bytes(2, "big") + bytes(4)
    with Connection(server.port, settings=no_window) as reader, Client(server.address) as client:
        reader.send(frame(SETTINGS, ACK, 0))
        for stream in range(1, 41, 2):
            reader.send(frame(HEADERS, END_HEADERS, stream, call_headers(ACT)))
            assert reader.upload(stream, grpc_message(act_request(2000)), last=True)
            assert answers(client)
        for stream in range(1, 41, 2):  # all are answered, as far as it lets them
            assert reader.read_until(HEADERS, stream).flags == END_HEADERS
        assert answers(client)
        server.end()  # answers that nobody reads hold nothing up


def test_a_slow_writer_stops_nobody(serving: Callable[..., Process]) -> None:
    server = serving()
    with contextlib.ExitStack() as stack, Client(server.address) as client:
        message = grpc_message(act_request(1000))
        for size in (0, 3, 5, 100, len(message) - 1):
            writer = stack.enter_context(Connection(server.port))
            headers = frame(HEADERS, END_HEADERS, 1, call_headers(ACT))
            writer.send(headers, frame(DATA, 0, 1, message[:size]))
            assert answers(client)
        writer.send(frame(DATA, END_STREAM, 1, message[-1:]))  # the last of them comes to the end after all
        assert b"grpc-status\x010" in [read.payload for read in until_status(writer)][-1]
        server.end()  # the others hold nothing up


def until_status(connection: Connection) -> Iterator[Frame]:
    """Read frames up to the one that ends the call."""
    connection.send(frame(SETTINGS, ACK, 0))
    while (read := connection.read()) is not None:
        yield read
        if b"grpc-status" in read.payload:
            return


VANISHES = """
import sys, grpc
from torso.serve import Client
Client(sys.argv[1]).act("cartpole", [[7, 0, 0, 0]] * 3)
"""


def test_a_client_that_is_killed_in_the_middle_leaves_nothing_behind(
    serving: Callable[..., Process], models: Any, tmp_path: Path
) -> None:
    server = serving(finish_s=1000)  # longer than this test may take: whatever were left would hold up the end
    client = subprocess.Popen([sys.executable, "-c", VANISHES, server.address])
    try:
        server.wait_for((server.folder / "entered").exists)
    finally:
        client.kill()
        client.wait()
    with Client(server.address) as other:
        assert answers(other)
        server.process.send_signal(signal.SIGTERM)
        server.release()
        assert server.process.wait(60) == 0
    assert "Traceback" not in server.log


# -- clocks -------------------------------------------------------------------------------------------------------

# The C library's wall clock, as many seconds off as a file says. The monotonic clock stays as it is.
JUMPY_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long offset(void) {
    char text[32] = {0};
    const char *path = getenv("CLOCK_OFFSET_FILE");
    int file = path ? open(path, O_RDONLY) : -1;
    if (file < 0) return 0;
    ssize_t got = read(file, text, sizeof text - 1);
    close(file);
    return got > 0 ? atol(text) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec += offset();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    int result = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return result;
}

time_t time(time_t *out) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (out) *out = exact.tv_sec;
    return exact.tv_sec;
}
"""


class Clock:
    """A server's wall clock, which can be made to jump while it runs."""

    def __init__(self, folder: Path) -> None:
        source, library, self._offset = folder / "clock.c", folder / "clock.so", folder / "offset"
        source.write_text(JUMPY_CLOCK)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(self._offset)}
        self.jump(0)

    def jump(self, seconds: int) -> None:
        new = self._offset.with_suffix(".new")
        new.write_text(str(seconds))
        new.replace(self._offset)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    if sys.platform != "linux" or shutil.which("cc") is None:
        pytest.skip("a clock that jumps needs Linux and a C compiler")
    clock = Clock(tmp_path)
    clock.jump(86400 * 400)
    told = subprocess.run(
        [sys.executable, "-c", "import time, datetime; print(time.time(), datetime.datetime.now().timestamp())"],
        *(), capture_output=True, text=True, check=True, env={**os.environ, **clock.environment},
    )  # fmt: skip
    assert all(float(told) > time.time() + 86400 * 399 for told in told.stdout.split())  # it does jump
    clock.jump(0)
    return clock


def act_within(port: int, timeout: bytes) -> bytes:
    """Ask for an action, of a server that alone watches the clock; return what it ends the call with."""
    with Connection(port) as connection:
        connection.send(frame(HEADERS, END_HEADERS, 1, call_headers(ACT, (b"grpc-timeout", timeout))))
        connection.send(frame(DATA, END_STREAM, 1, grpc_message(act_request(1))))
        return [read.payload for read in until_status(connection)][-1]


@pytest.mark.parametrize("jump", [86400, -86400])
def test_deadlines_do_not_heed_the_wall_clock(serving: Callable[..., Process], clock: Clock, jump: int) -> None:
    server = serving(clock.environment)
    with Client(server.address, timeout_s=60) as client, ThreadPoolExecutor(3) as pool:
        assert answers(client)
        computing = pool.submit(client.act, "cartpole", [7, 0, 0, 0])
        server.wait_for((server.folder / "entered").exists)
        patient = pool.submit(act_within, server.port, b"60S")
        hasty = pool.submit(act_within, server.port, b"2S")  # still queued when the clock jumps
        assert b"grpc-status\x014" in act_within(server.port, b"500m")
        clock.jump(jump)
        assert b"grpc-status\x014" in act_within(server.port, b"500m")
        assert b"grpc-status\x014" in hasty.result(60)
        assert answers(client)  # new calls have all their time
        server.release()
        assert b"grpc-status\x010" in patient.result(60)  # and one from before has what was left of it
        assert computing.result(60).actions.shape == (1,)
        assert b"grpc-status\x010" in act_within(server.port, b"60S")
    server.end()


def test_tokens_expire_by_the_wall_clock(serving: Callable[..., Process], clock: Clock, tmp_path: Path) -> None:
    def accepted(client: Client) -> bool:
        try:
            return answers(client)
        except UnauthenticatedError:
            return False

    tokens = tmp_path / "tokens"
    last_day = datetime.now(UTC).date() + timedelta(days=2)  # whether or not midnight comes during the test
    digest = hashlib.sha256(b"p").hexdigest()
    tokens.write_text(f"me {digest} predict {last_day}\n")
    server = serving(clock.environment, token_file=str(tokens))
    with Client(server.address, token="p") as client:
        assert accepted(client)
        clock.jump(86400 * 4)
        assert not accepted(client)
        clock.jump(0)
        assert accepted(client)
        tokens.write_text(f"me {digest} predict {last_day - timedelta(days=30)}\n")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for(lambda: not accepted(client))
        tokens.write_text("nonsense")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for(lambda: "what was read before stays in use" in server.log)
        assert not accepted(client)
        tokens.write_text(f"me {digest} predict {last_day}\n")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for(lambda: accepted(client))
    server.end()
