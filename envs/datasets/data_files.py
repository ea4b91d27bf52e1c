"""Locate a data set's files, in the user's folder, ``$TORSO_DATA`` or the cache, and download missing ones."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from torso.envs.datasets.download import RemoteFile, download
from torso.errors import DatasetError


def obtain_files(
    name: str,
    files: Sequence[RemoteFile],
    mirrors: Sequence[str],
    *,
    data_dir: Path | None = None,
    may_download: bool = True,
) -> list[Path]:
    """Locate or download a data set's gzip files; returns their paths in the order of ``files``.

    Each may be unpacked (without ``.gz``) too. With ``data_dir``, they must all be in it or in its folder ``name``:
    nothing is downloaded into a folder that the caller named, and no other is searched. Otherwise they are in
    ``data_home() / name``, and those that are missing are downloaded to there.
    Raises ``DatasetError``, which says how to supply the files by hand; ``StorageError`` when they cannot be written.
    """
    if data_dir is not None:
        return _files_in_data_dir(name, files, Path(data_dir))
    folder = data_home() / name
    missing = [file for file in files if _find_file(folder, file) is None]
    if missing and not may_download:
        raise DatasetError(
            f"{name}: {_names(missing)} missing in {folder}, and downloading is off. {_manual_steps(files, folder)}"
        )
    for file in missing:
        try:
            download(file, mirrors, folder)
        except DatasetError as error:
            raise DatasetError(f"{name}: {error}. {_manual_steps(files, folder)}") from error
    return [path for file in files if (path := _find_file(folder, file)) is not None]


def data_home() -> Path:
    """Folder of data sets: ``$TORSO_DATA`` when set, else torso's folder in the platform's user cache."""
    named = os.environ.get("TORSO_DATA")
    if named:
        return Path(named).expanduser()
    if sys.platform == "win32":
        caches = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        caches = Path.home() / "Library" / "Caches"
    else:
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "torso"


def _files_in_data_dir(name: str, files: Sequence[RemoteFile], data_dir: Path) -> list[Path]:
    data_dir = data_dir.expanduser()
    if not data_dir.is_dir():
        raise DatasetError(f"{name}: data_dir must be a folder, got {data_dir}")
    problems = []
    for folder in (data_dir, data_dir / name):
        paths = [_find_file(folder, file) for file in files]
        found = [path for path in paths if path is not None]
        if len(found) == len(files):
            return found
        if folder.is_dir():
            missing = [file for file, path in zip(files, paths, strict=True) if path is None]
            problems.append(f"{folder} lacks {_names(missing)}")
    raise DatasetError(
        f"{name} must have {_names(files)} (or unpacked, without .gz) in data_dir or its folder {name}; "
        f"{'; '.join(problems)}. Without data_dir, torso looks in {data_home() / name} and downloads what is missing"
    )


def _find_file(folder: Path, file: RemoteFile) -> Path | None:
    """Find the unpacked file, which reads faster, or else the packed one; None where neither is there."""
    for path in (folder / file.name.removesuffix(".gz"), folder / file.name):
        if path.is_file():
            return path
    return None


def _manual_steps(files: Sequence[RemoteFile], folder: Path) -> str:
    return f"To supply them by hand, put {_names(files)} (or unpacked) into {folder}, or name their folder as data_dir"


def _names(files: Sequence[RemoteFile]) -> str:
    return ", ".join(file.name for file in files)
