"""The server under siege: `torso serve` as a command, its memory, its log, and its end."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import torch

from attackers.messages import FORGED
from torso.nets import (
    ImageSpec,
    InputSpec,
    LogitsHeadSpec,
    MLPSpec,
    NetworkSpec,
    ScalarHeadSpec,
    build_network,
    net_spec,
    save_model,
)

DRAIN_S, FINISH_S, OVERTIME_S = 1.0, 5.0, 1.0
READ_S = 0.1  # between two readings of memory
START_S = 120.0
PATIENCE_S = 20.0  # after which a server that does not end is killed


def make_models(folder: Path) -> dict[str, Path]:
    """Save a classifier of 28x28 digits and policies of 4 floats and of Atari frames."""
    generator = torch.Generator().manual_seed(0)
    image = ImageSpec(channels=1, height=28, width=28, max_value=255.0, centring="mass")
    digits = InputSpec(shape=(28, 28), dtype="uint8", layout="hw", scale=1 / 255, image=image)
    pixels = InputSpec(shape=(4, 84, 84), dtype="uint8", layout="chw", scale=1 / 255)
    floats = InputSpec(shape=(4,))
    specs = {
        "digits": NetworkSpec(input=digits, torso=MLPSpec(hidden=(128,)), head=LogitsHeadSpec(num_classes=10)),
        "cartpole": NetworkSpec(input=floats, torso=MLPSpec(hidden=(64, 64)), head=ScalarHeadSpec(num_actions=2)),
        "frames": NetworkSpec(input=pixels, torso=net_spec("nature", pixels), head=ScalarHeadSpec(num_actions=6)),
    }
    saved = {}
    for name, spec in specs.items():
        network = build_network(spec, generator)
        if name == "digits":
            saved[name] = save_model(folder / name, network, kind="classifier", labels=tuple(range(10)))
        else:
            saved[name] = save_model(folder / name, network, kind="policy")
    return saved


class Besieged:
    """`torso serve` in a process group of its own, with tokens of role predict: ``tokens["good"]``, ``["attacker"]``.

    ``arguments`` go to the command as they are. A server whose memory passes ``max_mb`` is killed: it has lost.
    """

    def __init__(self, folder: Path, models: Mapping[str, Path], arguments: Sequence[str], max_mb: float) -> None:
        folder.mkdir()
        self._log, self._max_mb = folder / "log", max_mb
        self.tokens = {name: secrets.token_hex(16) for name in ("good", "attacker")}
        token_file = folder / "tokens"
        lines = (f"{name} {hashlib.sha256(t.encode()).hexdigest()} predict never" for name, t in self.tokens.items())
        token_file.write_text("\n".join(lines) + "\n")
        token_file.chmod(0o600)
        ports = folder / "port", folder / "ops_port"
        command = [sys.executable, "-m", "torso.cli", "serve", *(f"{name}={path}" for name, path in models.items())]
        command += ["--port", "0", "--port-file", str(ports[0]), "--ops-port", "0", "--ops-port-file", str(ports[1])]
        command += ["--token-file", str(token_file), "--drain-s", str(DRAIN_S), "--finish-s", str(FINISH_S)]
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, *arguments],
                stdout=output,
                stderr=output,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
        self.killed = ""
        self.stop = asyncio.Event()  # there is no server any more
        try:
            self.port, self.ops_port = (self._read_port(path) for path in ports)
        except BaseException:
            self.kill()
            raise
        self.address = f"127.0.0.1:{self.port}"

    def _read_port(self, path: Path) -> int:
        end = time.monotonic() + START_S
        while not path.exists() or not path.read_text().endswith("\n"):
            if self._process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"the server did not start:\n{self._log.read_text()}")
            time.sleep(0.05)
        return int(path.read_text())

    async def weigh(self, readings: list[float]) -> None:
        """Read the resident memory of the server and its workers again and again, MB, until it ends or is cancelled."""
        begun = time.monotonic()
        server = psutil.Process(self._process.pid)
        family: list[psutil.Process] = []
        while not self.stop.is_set():
            with suppress(psutil.NoSuchProcess):
                if len(readings) % 10 == 0:
                    family = [server, *server.children(recursive=True)]
                readings.append(sum(each.memory_info().rss for each in family) / 1e6)
            seconds = time.monotonic() - begun
            if self._process.poll() is not None:
                self.killed = f"ended with exit code {self._process.returncode} after {seconds:.1f} s"
                self.stop.set()
            elif readings and readings[-1] > self._max_mb:
                self.killed = f"killed at {readings[-1]:.0f} MB after {seconds:.1f} s"
                self.kill()
                self.stop.set()
            await asyncio.sleep(READ_S)

    def terminate(self) -> dict[str, Any]:
        """Send SIGTERM; return the seconds until the end and the exit code, None where the server had to be killed."""
        limit_s = DRAIN_S + FINISH_S + OVERTIME_S
        if self.killed:
            return {"seconds": None, "exit_code": None, "limit_s": limit_s}
        begun = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(limit_s + PATIENCE_S)
        code = self._process.poll()
        seconds = time.monotonic() - begun
        self.kill()
        return {"seconds": round(seconds, 2), "exit_code": code, "limit_s": limit_s}

    def kill(self) -> None:
        """Kill the server and its workers."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def log_bytes(self) -> bytes:
        """Return what the server wrote to stdout and stderr."""
        return self._log.read_bytes()

    def log_figures(self, start: int) -> dict[str, Any]:
        """Count lines and bytes of the log from a byte on, and lines that callers forged."""
        log = self.log_bytes()[start:]
        lines = log.splitlines()
        forged = [line for line in lines if line.startswith(FORGED.encode())]
        return {"lines": len(lines), "bytes": len(log), "forged_lines": len(forged)}


@contextmanager
def besieged(folder: Path, models: Mapping[str, Path], arguments: Sequence[str], max_mb: float) -> Iterator[Besieged]:
    """Serve; kill what is left at the end."""
    server = Besieged(folder, models, arguments, max_mb)
    try:
        yield server
    finally:
        server.kill()
