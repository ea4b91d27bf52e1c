"""Permissions of files that decide who may call."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from torso.errors import ServerError


def require_owner_writes(what: str, path: Path) -> None:
    """Raise ServerError where the group or others may write a file, and OSError where it cannot be looked at.

    Windows has no such permissions. ``what`` names the file in the message.
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    if os.name != "nt" and mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ServerError(
            f"{what} {path} must be writable by its owner alone, got mode {mode:04o}; do chmod go-w {path}"
        )
