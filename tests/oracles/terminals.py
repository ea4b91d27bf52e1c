"""Run ``torso`` on a pseudo-terminal, and return what a user sees there."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import sys
import termios
from pathlib import Path


def on_terminal(*words: str, columns: int = 80, folder: Path | None = None, **variables: str) -> tuple[int, str]:
    """Run a command line on a terminal of so many columns; returns the exit code and the bytes as text, as written."""
    child, ours = pty.fork()
    if child == 0:
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environment = {"TERM": "xterm-256color", "OMP_NUM_THREADS": "1", **os.environ, **variables}
        environment.pop("COLUMNS", None)
        if folder is not None:
            os.chdir(folder)
        os.execve(sys.executable, [sys.executable, "-m", "torso", *words], environment)
    shown = bytearray()
    try:
        while chunk := os.read(ours, 4096):
            shown.extend(chunk)
    except OSError:  # Linux raises it when the other side is closed
        pass
    os.close(ours)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), shown.decode().replace("\r\n", "\n")
