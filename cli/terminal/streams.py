"""Standard streams that a process was started without, or whose reader has gone."""

from __future__ import annotations

import os
import sys


def open_standard_streams() -> None:
    """Open the streams that this process was started without, such as stderr after ``2>&-``, on the null device.

    Else the next file that is opened would take their number, and what is printed would go into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened > number and not _is_open(number):
                os.dup2(opened, number)
                os.close(opened)
                opened = number
            setattr(sys, name, os.fdopen(opened, "w" if number else "r", encoding="utf-8", closefd=False))


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def drop_broken_streams() -> None:
    """Redirect stdout and stderr to the null device where their reader has gone, else the flush at exit would raise."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
