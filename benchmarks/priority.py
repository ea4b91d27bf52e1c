"""Priority of background processes, below whatever else runs on the machine."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def stand_back(niceness: int) -> None:
    """Lower the priority of the process and of the session that it leads: Linux may share time out by sessions."""
    if hasattr(os, "nice"):  # not on Windows
        os.nice(niceness)
    with contextlib.suppress(OSError):  # another kernel
        Path(f"/proc/{os.getpid()}/autogroup").write_text(str(niceness), encoding="utf-8")
