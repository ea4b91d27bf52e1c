"""A playground in a process of its own, as the command starts it."""

from __future__ import annotations

import re
import select
import signal
import subprocess
import sys
from typing import Any

START_S = 60.0


class Playground:
    """Process of ``torso playground``. ``url`` has the token."""

    def __init__(self, *arguments: str, **settings: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "torso", "playground", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **settings,
        )
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], START_S)
        line = self.process.stdout.readline() if ready else ""
        found = re.fullmatch(r"torso playground: (http://(\S+):(\d+)/\?token=(\S+))\n", line)
        if found is None:
            self.process.kill()
            raise AssertionError(line + self.process.communicate()[1])
        self.url, self.host, self.token = found[1], found[2], found[4]
        self.port = int(found[3])

    def end(self, number: int = signal.SIGINT) -> None:
        """Send a signal, and check that it ends without a word."""
        self.process.send_signal(number)
        _, stderr = self.process.communicate(timeout=30)
        assert (self.process.returncode, stderr) == (0, ""), (self.process.returncode, stderr)
