"""Workers that hang, as one that was stopped by SIGSTOP does: noticed, replaced, and never waited for at the end."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from http_get import get
from obstinate import publish

from torso.errors import TorsoError, UnauthenticatedError
from torso.serve import Client, RetryPolicy, ServeConfig
from torso.serve.workers.remote_worker import SILENCE_S
from torso.serve.workers.supervisor import Supervisor
from torso.serve.workers.worker_set import END_S

ORACLES = Path(__file__).parents[2] / "oracles"
CONNECTIONS = 12  # new ones, which both workers take their share of: that one gets none has odds of 1 in 2048
OBSERVATION = [0.0, 0.0, 0.0, 0.0]

Start = Callable[..., subprocess.Popen[bytes]]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """``start("--drain-s", 1)``: serve a model by two workers in a process of its own, until it is ready."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*options: object) -> subprocess.Popen[bytes]:
        words = ["serve", publish(tmp_path / "m"), "--port", 0, "--port-file", tmp_path / "port", "--workers", 2]
        words += ["--backend", "torch", "--import-modules", "obstinate", *options]
        path = os.pathsep.join(filter(None, (str(ORACLES), os.environ.get("PYTHONPATH"))))
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "torso.cli", *map(str, words)],
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        started.append(process)
        until(lambda: (tmp_path / "port").exists() or process.poll() is not None)
        assert process.poll() is None, (tmp_path / "log").read_text()
        return process

    yield run
    for process in started:
        for child in psutil.Process(process.pid).children() if process.poll() is None else []:
            child.kill()
        process.kill()
        process.wait()


def workers(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children()


def outcomes(port: str, token: str | None = None) -> set[str]:
    """Return what calls over many new connections end with: ``OK``, or their errors' names."""
    seen: set[str] = set()
    for _ in range(CONNECTIONS):
        with Client(f"127.0.0.1:{port}", token, retries=RetryPolicy(max_attempts=1), timeout_s=0.5) as client:
            try:
                client.act("m", OBSERVATION)
                seen.add("OK")
            except TorsoError as error:
                seen.add(type(error).__name__)
    return seen


def test_a_worker_that_hangs_is_replaced_and_revoked_tokens_are_refused(start: Start, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"

    def let_in(*names: str) -> None:
        lines = [f"{name} {hashlib.sha256(name.encode()).hexdigest()} predict never\n" for name in names]
        tokens.write_text("".join(lines))

    let_in("ann")
    process = start("--token-file", tokens, "--ops-port", 0, "--ops-port-file", tmp_path / "ops")
    port, ops_port = (tmp_path / "port").read_text().strip(), int((tmp_path / "ops").read_text())
    victim, healthy = workers(process)
    victim.suspend()
    for names, read in [(("ann", "bob"), "2 tokens"), (("bob",), "1 token")]:
        let_in(*names)
        process.send_signal(signal.SIGHUP)
        until(lambda read=read: f"read again: {read} of" in (tmp_path / "log").read_text())  # type: ignore[misc]
    until(lambda: victim not in workers(process))
    until(lambda: outcomes(port, "bob") == {"OK"} and len(workers(process)) == 2)
    assert healthy in workers(process)
    assert outcomes(port, "ann") == {UnauthenticatedError.__name__}
    assert get(ops_port, "/readyz")[0] == 200
    log = (tmp_path / "log").read_text()
    hangs = f"(process {victim.pid}) hangs and is killed: it has been silent for {SILENCE_S:g} s"
    assert 0 < log.index("read again: 1 token") < log.index(hangs), "the other worker waited"
    assert f"(process {victim.pid}) ended: SIGKILL; another takes its place" in log
    assert "Traceback" not in log


@pytest.mark.parametrize(("number", "drain_s"), [(signal.SIGTERM, 0.3), (signal.SIGINT, 60.0)])
def test_the_end_does_not_wait_for_a_worker_that_hangs(
    start: Start, tmp_path: Path, number: signal.Signals, drain_s: float
) -> None:
    process = start("--drain-s", drain_s, "--finish-s", 0.5)
    workers(process)[0].suspend()
    children, began_s = workers(process), time.monotonic()
    process.send_signal(number)
    assert process.wait(60) == 0, (tmp_path / "log").read_text()
    assert time.monotonic() - began_s < END_S, "it waited as for workers that answer"
    assert not any(map(psutil.Process.is_running, children))
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_second_signal_ends_at_once_while_a_worker_hangs(start: Start, tmp_path: Path) -> None:
    process = start("--drain-s", 600, "--finish-s", 600)
    workers(process)[0].suspend()
    children = workers(process)
    process.send_signal(signal.SIGTERM)
    until(lambda: "shutting down" in (tmp_path / "log").read_text())
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0, (tmp_path / "log").read_text()
    assert not any(map(psutil.Process.is_running, children))


def test_a_change_succeeds_while_a_worker_hangs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    publish(tmp_path / "models" / "m" / "1")
    config = ServeConfig(
        repository=tmp_path / "models",
        model_control="explicit",
        port=0,
        workers=2,
        backend="torch",
        import_modules=("obstinate",),
    )

    async def scenario() -> None:
        supervisor = Supervisor(config)
        try:
            await supervisor.start()
            await supervisor.load()
            victim, healthy = supervisor.pids
            os.kill(victim, signal.SIGSTOP)  # the first, by which a version is loaded before the others
            async with asyncio.timeout(60):
                await supervisor._manager.load("m")
                await supervisor._manager.unload("m")
                while len(supervisor.pids) < 2 or victim in supervisor.pids:
                    await asyncio.sleep(0.05)
            assert healthy in supervisor.pids
        finally:
            await supervisor.stop()

    asyncio.run(scenario())
    assert "hangs and is killed" in caplog.text
