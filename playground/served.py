"""The playground's own gRPC server: a process that ends with the playground, however that ends.

Run as a module it serves; the playground holds the other end of its standard input, and the server ends at its end.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from torso.errors import ServerError

READY_S = 120.0
POLL_S = 0.02
END_S = 10.0
LAST_LINES = 20


class OwnServer:
    """gRPC server in a process of its own, which serves models on a port of this machine."""

    def __init__(self, models: Sequence[str]) -> None:
        self._models = list(models)
        self._folder = tempfile.TemporaryDirectory(prefix="torso-playground-")
        self._port_file = Path(self._folder.name) / "port"
        self._process: asyncio.subprocess.Process | None = None
        self._stdin: asyncio.StreamWriter | None = None
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Start it, and wait until it is ready; return its address. ServerError, with its own words, where it ends."""
        settings = {"models": self._models, "port_file": str(self._port_file)}
        self._process = process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "torso.playground.served", json.dumps(settings)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is the playground's, which ends it
        )
        self._stdin = process.stdin
        self._reading = asyncio.create_task(self._keep_lines(process.stderr))
        async with asyncio.timeout(READY_S):
            while not self._port_file.exists() or not (text := self._port_file.read_text()):
                if process.returncode is not None:
                    await self._reading
                    raise ServerError("\n".join(self._lines) or f"the server ended with {process.returncode}")
                await asyncio.sleep(POLL_S)
        return f"127.0.0.1:{text.strip()}"

    async def stop(self) -> None:
        """End the process."""
        if self._process is not None and self._process.returncode is None:
            if self._stdin is not None:
                self._stdin.close()
            try:
                await asyncio.wait_for(self._process.wait(), END_S)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        if self._reading is not None:
            await self._reading
        self._folder.cleanup()

    async def _keep_lines(self, stream: asyncio.StreamReader | None) -> None:
        if stream is not None:
            async for line in stream:
                self._lines.append(line.decode(errors="replace").rstrip())


def main(settings: str) -> int:
    """Serve until the standard input ends."""
    from torso.errors import TorsoError
    from torso.serve import ServeConfig, serve

    found = json.loads(settings)
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        serve(
            ServeConfig(
                models=tuple(found["models"]), port=0, port_file=Path(found["port_file"]), drain_s=0.0, finish_s=1.0
            )
        )
    except (TorsoError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _end_with_input() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
