"""Server in a process of its own, whose policy can be made to block."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Serves; a forward of an observation that starts with 7 makes ENTERED and waits for RELEASED.
DRIVER = """
import json, logging, sys, time
from pathlib import Path
from torso.serve import ServeConfig, serve

folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
settings |= {name: Path(settings[name]) for name in ("token_file", "repository") if name in settings}
logging.basicConfig(level=logging.INFO)

class Waits:
    name = "waits"
    inline = False
    def __init__(self, backend):
        self.backend = backend
    def run(self, inputs):
        if inputs[0, 0] == 7:
            (folder / "entered").touch()
            while not (folder / "released").exists():
                time.sleep(0.01)
        return self.backend.run(inputs)

def wrap(name, backend):
    return Waits(backend) if name == "cartpole" else backend

serve(ServeConfig(**{"port": 0, "port_file": folder / "port", "drain_s": 0, **settings}), wrap)
print("done")
"""


class Process:
    """Server in a process of its own."""

    def __init__(self, folder: Path, environment: dict[str, str], *, ready: bool = True, **settings: Any) -> None:
        """Start it, and wait until it is ready; without ``ready`` only until it listens on its ``port`` setting."""
        folder.mkdir(exist_ok=True)
        self.folder = folder
        command = [sys.executable, "-c", DRIVER, str(folder), json.dumps(settings)]
        path = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path, **environment}  # so that modules beside this can be imported
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            self.wait_for((folder / "port").exists if ready else lambda: _listens(settings["port"]))
        except BaseException:
            self.process.kill()
            raise
        self.port = int((folder / "port").read_text()) if ready else settings["port"]
        self.address = f"127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not condition():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < end, self.log
            time.sleep(0.01)

    def release(self) -> None:
        (self.folder / "released").touch()

    def end(self) -> None:
        """Send SIGTERM, and check that the server exits without errors."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.log
        assert "Traceback" not in self.log, self.log


def free_port() -> int:
    """Choose a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
