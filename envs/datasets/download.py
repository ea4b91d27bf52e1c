"""Download a known file from mirrors: resumed where it stopped, checked by SHA-256, renamed into place when complete.

The bytes arrive in ``NAME.part`` beside the destination. A later call goes on from there (HTTP Range), from whichever
mirror answers. Only a file of the right hash is renamed to its name, so a file of that name is always complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from torso import __version__
from torso.errors import DatasetError, StorageError

_log = logging.getLogger(__name__)
_CHUNK_BYTES = 1 << 16
_MAX_ATTEMPTS = 5  # on one mirror, and only while each brings new bytes


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file that mirrors hold under the same name, with its known size and hash."""

    name: str
    num_bytes: int
    sha256: str


class _MirrorError(Exception):
    """Error of a mirror that did not deliver the file; ``resumable`` says whether another request may help."""

    def __init__(self, reason: str, *, resumable: bool = False) -> None:
        super().__init__(reason)
        self.resumable = resumable


def download(file: RemoteFile, mirrors: Sequence[str], folder: Path, *, timeout_s: float = 30.0) -> Path:
    """Download ``file`` into ``folder`` from the first of ``mirrors`` (base URLs) that delivers it; returns its path.

    A file that is there already is returned as it is. A lock lets one process at a time fetch into a folder.
    timeout_s: the longest time without data from a mirror.
    Raises ``DatasetError`` naming every mirror and what was wrong with it; ``StorageError`` when the folder cannot be
    written to.
    """
    path = folder / file.name
    if path.is_file():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _folder_lock(folder):
            if path.is_file():  # fetched by another process in the meantime
                return path
            part = folder / f"{file.name}.part"
            _fetch(file, mirrors, part, timeout_s)
            part.replace(path)
    except OSError as error:
        raise StorageError(
            f"{path} could not be written: {error.strerror or error}; set $TORSO_DATA to a folder with room to write in"
        ) from error
    return path


def _fetch(file: RemoteFile, mirrors: Sequence[str], part: Path, timeout_s: float) -> None:
    failures = []
    for mirror in mirrors:
        url = f"{mirror.rstrip('/')}/{file.name}"
        try:
            _fetch_from(url, file, part, timeout_s)
        except _MirrorError as error:
            _log.info("%s: %s", url, error)
            failures.append(f"{url}: {error}")
        else:
            return
    raise DatasetError(f"{file.name} could not be downloaded: {'; '.join(failures) or 'no mirror was given'}")


def _fetch_from(url: str, file: RemoteFile, part: Path, timeout_s: float) -> None:
    """Complete ``part`` from one mirror and check it; raises ``_MirrorError``."""
    for attempt in range(_MAX_ATTEMPTS):
        before = _size(part)
        try:
            if before != file.num_bytes:
                _transfer(url, file, part, timeout_s)
            _check(file, part)
            return
        except _MirrorError as error:
            # The part that was there before may have been wrong: then one attempt from an empty file decides.
            stale = before > 0 and not part.exists()
            grown = error.resumable and _size(part) > before
            if attempt + 1 == _MAX_ATTEMPTS or not (stale or grown):
                raise


def _transfer(url: str, file: RemoteFile, part: Path, timeout_s: float) -> None:
    """Request the bytes that ``part`` lacks, or all of them where the mirror supports no ranges."""
    offset = _size(part)
    if offset > file.num_bytes:
        part.unlink()
        offset = 0
    headers = {"User-Agent": f"torso/{__version__}"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    _log.info("downloading %s%s", url, f" from byte {offset}" if offset else "")
    with contextlib.closing(_open(url, headers, timeout_s)) as response:
        start = _start_of(response, offset, file)
        with part.open("ab" if start else "wb") as out:
            received = start
            while chunk := _receive(response, received, file):
                received += len(chunk)
                if received > file.num_bytes:
                    break
                out.write(chunk)
            out.flush()
            os.fsync(out.fileno())
    if received > file.num_bytes:
        part.unlink()
        raise _MirrorError(f"the file must have {file.num_bytes} bytes, got more")
    if received < file.num_bytes:
        raise _MirrorError(f"the connection ended after {received} of {file.num_bytes} bytes", resumable=True)


def _open(url: str, headers: dict[str, str], timeout_s: float) -> http.client.HTTPResponse:
    if not url.startswith(("http://", "https://")):
        raise _MirrorError("the address must begin with http:// or https://")
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=timeout_s
        )
    except urllib.error.HTTPError as error:
        error.close()
        raise _MirrorError(f"HTTP status {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _MirrorError(f"no connection ({error.reason})") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _MirrorError(f"no connection ({type(error).__name__}: {error})") from error
    return response


def _start_of(response: http.client.HTTPResponse, offset: int, file: RemoteFile) -> int:
    """Return the offset at which the response's body begins; a body of another size is refused unread."""
    start = 0
    if response.status == http.client.PARTIAL_CONTENT:
        start = offset
        expected = f"bytes {offset}-{file.num_bytes - 1}/{file.num_bytes}"
        got = response.headers.get("Content-Range", "no Content-Range")
        if got != expected:
            raise _MirrorError(f"Content-Range must be {expected}, got {got}")
    elif response.status != http.client.OK:
        raise _MirrorError(f"the HTTP status must be 200 or 206, got {response.status}")
    length = response.headers.get("Content-Length")
    if length is not None and length.strip() != str(file.num_bytes - start):
        raise _MirrorError(f"Content-Length must be {file.num_bytes - start} bytes, got {length}")
    return start


def _receive(response: http.client.HTTPResponse, received: int, file: RemoteFile) -> bytes:
    try:
        return response.read1(_CHUNK_BYTES)  # the bytes received so far, so that a kill loses little
    except (OSError, http.client.HTTPException) as error:
        raise _MirrorError(
            f"the connection broke after {received} of {file.num_bytes} bytes ({type(error).__name__}: {error})",
            resumable=True,
        ) from error


def _check(file: RemoteFile, part: Path) -> None:
    """Check the SHA-256 of ``part`` and remove it where it is wrong; raises ``_MirrorError``."""
    with part.open("rb") as content:
        got = hashlib.file_digest(content, "sha256").hexdigest()
    if got != file.sha256:
        part.unlink()
        raise _MirrorError(f"SHA-256 must be {file.sha256}, got {got}; the download was removed")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextlib.contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: two processes must not write one part. The system releases it when its holder ends."""
    with (folder / ".lock").open("ab") as lock:
        _acquire(lock)
        yield


def _acquire(lock: IO[bytes]) -> None:
    if sys.platform != "win32":  # on Windows an open part cannot be renamed, so the second process fails instead
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX)
