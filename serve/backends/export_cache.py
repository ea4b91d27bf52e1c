"""Cache of exported ONNX files in a folder of the user's: the server never writes into a model directory."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from pathlib import Path

import torso
from torso.errors import StorageError
from torso.files import atomic_write_bytes, json_bytes, remove_leftovers, sha256_hex
from torso.nets import FORMAT_VERSION, ModelCard, Network
from torso.nets.models.onnx_export import max_onnx_bytes, onnx_bytes, read_onnx

logger = logging.getLogger(__name__)

MAX_CACHED_FILES = 64  # the most recently used are kept


def default_cache_dir() -> Path:
    """Return torso's folder for ONNX files in the platform's folder of user caches."""
    if sys.platform == "win32":
        caches = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        caches = Path.home() / "Library" / "Caches"
    else:
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "torso" / "onnx"


def cached_onnx(card: ModelCard, network: Network, source: Path, cache_dir: Path | None = None) -> bytes:
    """Return a loaded model's ONNX file: from the cache, or exported now (seconds) and stored there.

    ``source`` is the directory that the model was loaded from. Where the cache cannot be written, a warning is logged
    and the export is repeated at the next start. Raises ModelError where ONNX cannot express the network.
    """
    path = _cache_path(card, cache_dir)
    if path is not None and (data := read_onnx(path, card, max_onnx_bytes(card, network))) is not None:
        with contextlib.suppress(OSError):
            os.utime(path)  # used, so kept
        return data
    data = onnx_bytes(card, network, source)
    try:
        if path is None:
            raise StorageError("there is no home folder to store it in; choose a cache_dir")
        _store(path, data)
    except (StorageError, OSError) as error:
        logger.warning("%s has no model.onnx, and its export is made anew at every start: %s", source, error)
    else:
        logger.info("%s has no model.onnx: exported it to %s", source, path)
    return data


def _cache_path(card: ModelCard, cache_dir: Path | None) -> Path | None:
    """Build a file's name from all that an export depends on: weights, network specification, calibration, version."""
    calibration = None if card.calibration is None else card.calibration.to_json()
    network = sha256_hex(json_bytes([card.network.to_json(), calibration, torso.__version__]))
    try:
        folder = default_cache_dir() if cache_dir is None else cache_dir.expanduser()
    except RuntimeError:  # a user without a home, as in containers
        return None
    return folder / f"{card.weights_sha256}-{network[:16]}-v{FORMAT_VERSION}.onnx"


def _store(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    remove_leftovers(path)
    atomic_write_bytes(path, data)
    files = sorted(path.parent.glob("*.onnx"), key=_last_used, reverse=True)
    for old in files[MAX_CACHED_FILES:]:
        with contextlib.suppress(OSError):
            old.unlink()


def _last_used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another server removed it meanwhile
        return 0.0
