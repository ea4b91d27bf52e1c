"""Atomic file writes: a reader sees the old file or the new one, never half of either."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import secrets
import stat
from pathlib import Path
from typing import Any, BinaryIO

from torso.errors import StorageError


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path`` through a temporary sibling, an fsync and a rename.

    Raises:
        StorageError: the file could not be written (disk full, read-only, not a directory); an older file at
            ``path`` is as it was, and nothing half-written stays behind.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException:  # an interrupt leaves nothing behind either
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_directory(target.parent)
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror or error}") from error


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading; others (a FIFO, a device, on which a reader may wait for ever) are refused.

    Raises:
        OSError: as `open`; also for what is no regular file.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "it must be a regular file", str(path))


def read_regular(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """Read a regular file; OSError as `open_regular`, and for one that is larger than ``max_bytes``."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise OSError(errno.EFBIG, f"it must have at most {max_bytes} bytes, got {size}", str(path))
        return file.read()


def atomic_write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as `json_bytes` through `atomic_write_bytes`."""
    atomic_write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Encode ``value`` as indented JSON in UTF-8; NaN and infinity are refused (ValueError)."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove the temporary siblings of ``path`` that a killed process left behind."""
    target = Path(path)
    for temporary in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        with contextlib.suppress(OSError):
            temporary.unlink()


def remove_all_leftovers(directory: str | os.PathLike[str]) -> None:
    """Remove the temporary files of `atomic_write_bytes` in a directory that killed processes left behind."""
    for temporary in Path(directory).glob(f".*.{'[0-9a-f]' * 8}.tmp"):
        with contextlib.suppress(OSError):
            temporary.unlink()


def make_directory(path: str | os.PathLike[str]) -> Path:
    """Create a directory and its parents; StorageError where that fails."""
    directory = Path(path)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot create the directory {directory}: {error.strerror or error}") from error
    return directory


def sync_directory(directory: Path) -> None:
    """Make a rename in ``directory`` durable, where the platform and the file system can."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot sync a directory
            raise
    finally:
        os.close(descriptor)


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of ``data``, in lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()
