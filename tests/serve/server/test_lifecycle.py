"""Process lifecycle of ``torso serve``: signals, with one process and with several behind one port."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from obstinate import FOLDER, WAITS, publish

from torso.errors import ServerError, ServiceError, UnauthenticatedError, UnavailableError
from torso.nets import Predictor
from torso.serve import Client, RetryPolicy
from torso.serve.server.grpc_server import FLUSH_S, LINGER_S
from torso.serve.workers.supervisor import reserve_port

SHUT = re.compile(r"shutting down|[Rr]efused|^CANCELLED$")  # by the server, or by gRPC before it has seen the request
NO_RETRIES = RetryPolicy(max_attempts=1)
ORACLES = Path(__file__).parents[2] / "oracles"
WORKERS = pytest.mark.parametrize("workers", [1, 2])


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


@dataclass
class Served:
    """A running ``torso serve`` and the folder where it and the test meet."""

    process: subprocess.Popen[bytes]
    folder: Path
    log: Path

    @property
    def address(self) -> str:
        return f"127.0.0.1:{int((self.folder / 'port').read_text())}"

    def client(self, **settings: Any) -> Client:
        return Client(self.address, retries=NO_RETRIES, **settings)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what must come; fail where the process ends before it does."""
        until(lambda: condition() or self.process.poll() is not None)
        assert condition(), self.log.read_text()

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def entered(self) -> list[Path]:
        return list(self.folder.glob("entered-*"))

    def end(self) -> str:
        """Wait for the process to end, and return its log."""
        self.process.wait(120)
        return self.log.read_text()


Start = Callable[..., Served]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(tmp_path_factory.mktemp("life") / "m")


@pytest.fixture
def start(model: Path, tmp_path: Path) -> Iterator[Start]:
    """``start(workers, "--drain-s", 1)``: serve the model; with ``ready=False`` without waiting until it is."""
    started: list[subprocess.Popen[bytes]] = []

    def run(workers: int, *options: object, ready: bool = True) -> Served:
        words = ["serve", model, "--port", 0, "--port-file", tmp_path / "port", "--workers", workers]
        words += ["--backend", "torch", "--import-modules", "obstinate", *options]
        path = os.pathsep.join(filter(None, (str(ORACLES), os.environ.get("PYTHONPATH"))))
        log = tmp_path / f"log-{len(started)}"
        with log.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "torso.cli", *map(str, words)],
                env={**os.environ, "PYTHONPATH": path, FOLDER: str(tmp_path), "OMP_NUM_THREADS": "1"},
                stdout=subprocess.DEVNULL,
                stderr=file,
            )
        started.append(process)
        served = Served(process, tmp_path, log)
        if ready:
            served.until((tmp_path / "port").exists)
        return served

    yield run
    (tmp_path / "released").touch()
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


def is_told_that_it_ends(client: Client) -> bool:
    try:
        client.get_model("m")
    except UnavailableError as error:
        return "shutting down" in str(error)
    return False


def is_refused(client: Client) -> bool:
    try:
        client.get_model("m")
    except UnavailableError:
        return True
    return False


def lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@WORKERS
def test_sigterm_is_told_by_health_then_requests_are_answered_for_a_while_and_those_in_flight_to_the_end(
    start: Start, workers: int
) -> None:
    served = start(workers, "--drain-s", 3)
    with served.client() as client, served.client() as busy, ThreadPoolExecutor(1) as pool:
        assert client.healthy()
        assert client.healthy("m")
        waiting = pool.submit(busy.act, "m", [WAITS, 0, 0, 0])
        served.until(lambda: len(served.entered()) == 1)
        served.process.send_signal(signal.SIGTERM)
        served.until(lambda: not client.healthy())
        assert not client.healthy("m")
        assert client.get_model("m").name == "m"  # still answered
        served.until(lambda: is_told_that_it_ends(client))
        end = time.monotonic() + 2 * (LINGER_S + FLUSH_S)
        while time.monotonic() < end:  # far longer than a server stays that has nothing in flight
            if workers == 1:  # with more, the client's may be one that has
                assert is_told_that_it_ends(client)
            assert not waiting.done()
            time.sleep(0.01)
        (served.folder / "released").touch()
        assert waiting.result(60).actions.shape == (1,)
    log = served.end()
    assert served.process.returncode == 0, log
    assert not (served.folder / "port").exists()
    assert "shutting down in 3 s" in log
    assert "draining" in log
    assert "Traceback" not in log


@WORKERS
def test_ctrl_c_does_not_wait_before_it_drains(start: Start, workers: int) -> None:
    served = start(workers, "--drain-s", 100_000)
    with served.client() as client, served.client() as busy, ThreadPoolExecutor(1) as pool:
        client.get_model("m")
        waiting = pool.submit(busy.act, "m", [WAITS, 0, 0, 0])
        served.until(lambda: len(served.entered()) == 1)
        for process in (*served.children(), psutil.Process(served.process.pid)):  # as a terminal's reaches all
            process.send_signal(signal.SIGINT)
        served.until(lambda: is_told_that_it_ends(client))
        assert not client.healthy()
        (served.folder / "released").touch()
        assert waiting.result(60).actions.shape == (1,)
    log = served.end()
    assert served.process.returncode == 0, log
    assert "Traceback" not in log
    assert "KeyboardInterrupt" not in log


@WORKERS
@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_does_not_wait(start: Start, workers: int, first: signal.Signals) -> None:
    served = start(workers, "--drain-s", 100_000, "--finish-s", 100_000)
    with served.client() as client, served.client() as busy, ThreadPoolExecutor(1) as pool:
        client.get_model("m")
        waiting = pool.submit(busy.act, "m", [WAITS, 0, 0, 0])
        served.until(lambda: len(served.entered()) == 1)
        served.process.send_signal(first)
        served.until(lambda: not client.healthy())
        served.process.send_signal(signal.SIGTERM)
        assert isinstance(waiting.exception(60), ServiceError)  # cut off, while its forward still waits
        (served.folder / "released").touch()
    log = served.end()
    assert served.process.returncode == 0, log
    assert not (served.folder / "port").exists()


@WORKERS
def test_a_signal_while_the_models_load_ends_it(start: Start, workers: int, tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    served = start(workers, ready=False)
    served.until(lambda: bool(list(tmp_path.glob("building-*"))))
    children = served.children()
    served.process.send_signal(signal.SIGTERM)
    if workers > 1:
        until(lambda: not any(map(lives, children)))
    (tmp_path / "released").touch()
    log = served.end()
    assert served.process.returncode == 0, log
    assert not (tmp_path / "port").exists()
    assert "Traceback" not in log


@WORKERS
def test_sigterm_under_full_load_loses_nothing(start: Start, model: Path, workers: int) -> None:
    served = start(workers, "--drain-s", 1, "--log-requests", "--log-format", "json")
    rows = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    expected = Predictor.load(model).run(rows)
    answered_late = [0] * 8  # requests that were answered after health had said that the server ends
    left = threading.Event()

    def ask(number: int) -> str:
        """Ask without pause until an answer is an error, and return what it says."""
        with served.client() as client:
            while True:
                row = np.random.default_rng().integers(len(rows))
                late = left.is_set()
                try:
                    values = client.act("m", rows[row]).values
                except UnavailableError as error:
                    return str(error)
                np.testing.assert_allclose(values[0], expected[row], rtol=1e-4, atol=1e-5)
                answered_late[number] += late

    with served.client() as client, ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask, number) for number in range(8)]
        until(lambda: client.healthy())
        served.process.send_signal(signal.SIGTERM)
        served.until(lambda: not client.healthy())
        left.set()
        said = [one.result(120) for one in asking]
    log = served.end()
    assert served.process.returncode == 0, log
    assert all(answered_late), answered_late
    assert {text for text in said if not SHUT.search(text)} == set()  # refused, and not cut off in the middle
    lines = [json.loads(line) for line in log.splitlines()]
    ended = Counter((line.get("model"), line["status"]) for line in lines if line.get("method") == "act")
    assert set(ended) <= {("m", "OK"), (None, "UNAVAILABLE")}, ended  # what was not refused at the door was answered
    assert ended["m", "OK"] >= sum(answered_late)
    assert "Traceback" not in log


@WORKERS
def test_sighup_reads_tokens_again(start: Start, workers: int, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"

    def let_in(*names: str) -> None:
        lines = [f"{name} {hashlib.sha256(name.encode()).hexdigest()} predict never\n" for name in names]
        tokens.write_text("".join(lines))

    def lets_in(name: str) -> bool:
        outcomes = set()
        for _ in range(8 * workers):  # new connections, which all processes take their share of
            with served.client(token=name) as client:
                try:
                    client.get_model("m")
                    outcomes.add(True)
                except UnauthenticatedError:
                    outcomes.add(False)
        return outcomes == {True}

    let_in("ann")
    served = start(workers, "--token-file", tokens)
    assert lets_in("ann")
    assert not lets_in("bob")
    let_in("bob")
    served.process.send_signal(signal.SIGHUP)
    served.until(lambda: lets_in("bob"))
    assert not lets_in("ann")
    assert served.log.read_text().count(f"read again: 1 token of {tokens}") == workers
    tokens.write_text("nonsense\n")
    served.process.send_signal(signal.SIGHUP)
    served.until(lambda: served.log.read_text().count("not reloaded") == workers)
    assert lets_in("bob")
    served.process.send_signal(signal.SIGTERM)
    log = served.end()
    assert served.process.returncode == 0, log
    assert log.count("read again") == workers
    assert log.splitlines()[-1].endswith("INFO the server has stopped")
    assert "Traceback" not in log


def test_workers_end_when_their_supervisor_is_killed_and_finish_what_is_in_flight(start: Start) -> None:
    served = start(2)
    children = served.children()
    assert len(children) == 2
    port = int(served.address.rpartition(":")[2])
    with served.client() as client, served.client() as busy, ThreadPoolExecutor(1) as pool:
        client.get_model("m")
        waiting = pool.submit(busy.act, "m", [WAITS, 0, 0, 0])
        served.until(lambda: len(served.entered()) == 1)
        served.process.kill()
        until(lambda: is_refused(client))
        (served.folder / "released").touch()
        assert waiting.result(60).actions.shape == (1,)
    until(lambda: not any(map(lives, children)))
    reserve_port("127.0.0.1", port).close()  # nobody holds the port


def test_two_supervisors_on_one_port_are_refused(start: Start, tmp_path: Path) -> None:
    served = start(2)
    port = served.address.rpartition(":")[2]
    other = start(2, "--port", port, "--port-file", tmp_path / "other", ready=False)
    log = other.end()
    assert other.process.returncode == 2
    assert f"error: cannot listen on 127.0.0.1 port {port}: Address already in use; choose another" in log
    alone = start(1, "--port", port, "--port-file", tmp_path / "other", ready=False)
    assert f"error: cannot listen on 127.0.0.1 port {port}: Address already in use; choose another" in alone.end()
    with served.client() as client:
        assert client.healthy()


def test_two_supervisors_are_refused_before_anybody_listens() -> None:
    with reserve_port("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ServerError, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use"):
            reserve_port("127.0.0.1", port)
    reserve_port("127.0.0.1", port).close()


@pytest.mark.parametrize("shared", [False, True])
def test_connections_that_are_over_do_not_hold_a_port(shared: bool) -> None:
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            listening.accept()[0].close()  # the end that closes first keeps the address for a while
            client.recv(1)
    with socket.socket() as probe, pytest.raises(OSError, match="Address already in use"):
        probe.bind(("127.0.0.1", port))  # it does
    with reserve_port("127.0.0.1", port), pytest.raises(ServerError, match="Address already in use"):
        reserve_port("127.0.0.1", port)


def test_a_host_that_is_not_ours_is_named() -> None:
    with pytest.raises(ServerError, match=r"cannot listen on no\.such\.host\.invalid port 0: "):
        reserve_port("no.such.host.invalid", 0)
