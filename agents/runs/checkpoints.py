"""Checkpoints: atomic saves of everything that a resume needs, safe against a kill at any moment.

A checkpoint directory::

    latest.json                                     manifest and commit point: size and SHA-256 of every file below
    <serial>-state.json                             counters, schedules, generators, positions of logs
    <serial>-tensors.safetensors                    weights, optimizer moments, generators
    rows-<start>-<stop>.safetensors                 a segment: rows [start, stop) of a replay, written once

A save writes new files under names that no earlier checkpoint has, replaces ``latest.json`` by a rename, and only then
deletes files that it no longer names. Leftovers of an interrupted save are ignored by ``load`` and deleted by the next
``save``. Nothing is pickled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from torso.errors import CheckpointError, StorageError
from torso.files import atomic_write_bytes, atomic_write_json, make_directory, remove_all_leftovers, sha256_hex

CHECKPOINT_FORMAT_VERSION = 1
_LATEST = "latest.json"
_OWN_FILE = re.compile(r"\d+-(state\.json|tensors\.safetensors)|rows-\d+-\d+\.safetensors")


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Replay segment: rows [start_row, stop_row), numbered from the run's first row, so that a row never changes.

    ``read`` gives the rows' tensors; it is called only when the segment is not on disk yet, one segment at a time.
    """

    start_row: int
    stop_row: int
    read: Callable[[], Mapping[str, torch.Tensor]]

    @property
    def rows(self) -> tuple[int, int]:
        """Range of rows."""
        return self.start_row, self.stop_row


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A loaded checkpoint; ``rows`` lists its segments in order, ``segments()`` reads them one at a time."""

    step: int
    state: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    rows: tuple[tuple[int, int], ...]
    read_segment: Callable[[tuple[int, int]], dict[str, torch.Tensor]]

    def segments(self) -> Iterator[tuple[int, int, dict[str, torch.Tensor]]]:
        """Yield ``(start_row, stop_row, tensors)``, oldest first; raises CheckpointError on a damaged segment."""
        for start_row, stop_row in self.rows:
            yield start_row, stop_row, self.read_segment((start_row, stop_row))


def plan_segments(
    on_disk: Sequence[tuple[int, int]], first_row: int, stop_row: int, max_rows: int
) -> list[tuple[int, int]]:
    """Choose the segments of a checkpoint of the rows [first_row, stop_row).

    Those on disk that still hold a row of it are kept; new rows are split into segments of at most ``max_rows`` rows.
    """
    kept = [rows for rows in on_disk if rows[1] > first_row]
    start_row = max([first_row, *(rows[1] for rows in kept)])
    cuts = range(start_row, stop_row, max_rows)
    return kept + [(start, min(start + max_rows, stop_row)) for start in cuts]


class CheckpointStore:
    """Checkpoint directory of one run; it holds the latest complete checkpoint."""

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)

    def save(
        self,
        step: int,
        state: Mapping[str, Any],
        tensors: Mapping[str, torch.Tensor],
        segments: Sequence[Segment] = (),
    ) -> None:
        """Write a checkpoint and make it the latest.

        ``state`` must be JSON; ``segments`` are all that a resume needs, of which only the new ones are written.
        Raises StorageError when a file cannot be written: the previous checkpoint is then still the latest.
        """
        previous = self._read_manifest()
        on_disk = {} if previous is None else previous["files"]
        serial = 0 if previous is None else previous["serial"] + 1
        files: dict[str, dict[str, Any]] = {}
        try:
            make_directory(self.directory)
            self._delete_all_but(on_disk)
            for segment in segments:
                name = _segment_name(segment.rows)
                files[name] = on_disk.get(name) or self._write(name, _tensor_bytes(segment.read()))
            state_name, tensors_name = f"{serial:06d}-state.json", f"{serial:06d}-tensors.safetensors"
            files[tensors_name] = self._write(tensors_name, _tensor_bytes(tensors))
            files[state_name] = self._write(state_name, json.dumps(state).encode())
            latest = {
                "format_version": CHECKPOINT_FORMAT_VERSION,
                "serial": serial,
                "step": step,
                "state": state_name,
                "tensors": tensors_name,
                "segments": [list(segment.rows) for segment in segments],
                "files": files,
            }
            atomic_write_json(self.directory / _LATEST, latest)
        except OSError as error:
            with suppress(OSError):  # frees space on a full disk; the next save deletes the rest
                self._delete_all_but(on_disk)
            if isinstance(error, StorageError):
                raise
            raise StorageError(f"checkpoint {self.directory} could not be written: {error}") from error
        with suppress(OSError):  # committed: files that could not be deleted now are deleted by the next save
            self._delete_all_but(files)

    def load(self) -> Checkpoint | None:
        """Read the latest checkpoint; None when none was ever completed.

        Raises CheckpointError, naming the file, when one of its files is missing, truncated or altered. Segments are
        checked for existence and size here, and for their content when they are read.
        """
        latest = self._read_manifest()
        if latest is None:
            return None
        files: dict[str, dict[str, Any]] = latest["files"]
        rows = tuple((int(start), int(stop)) for start, stop in latest["segments"])
        for name in (latest["state"], latest["tensors"], *map(_segment_name, rows)):
            self._check_size(name, files)
        return Checkpoint(
            step=latest["step"],
            state=json.loads(self._read(latest["state"], files)),
            tensors=self._read_tensors(latest["tensors"], files),
            rows=rows,
            read_segment=lambda rows: self._read_tensors(_segment_name(rows), files),
        )

    @property
    def rows(self) -> tuple[tuple[int, int], ...]:
        """Segments of the latest checkpoint, as ranges of rows; empty without one."""
        latest = self._read_manifest()
        return () if latest is None else tuple((start, stop) for start, stop in latest["segments"])

    @property
    def step(self) -> int | None:
        """Step of the latest checkpoint; None without one."""
        latest = self._read_manifest()
        return None if latest is None else int(latest["step"])

    def _read_manifest(self) -> dict[str, Any] | None:
        path = self.directory / _LATEST
        try:
            latest: Any = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise CheckpointError(f"{path} is damaged: not JSON ({error})") from error
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        version = latest.get("format_version") if isinstance(latest, dict) else None
        if isinstance(version, int) and version > CHECKPOINT_FORMAT_VERSION:
            raise CheckpointError(
                f"{path} must have a format up to {CHECKPOINT_FORMAT_VERSION}, got {version}: update torso"
            )
        if not _is_manifest(latest):
            raise CheckpointError(f"{path} is damaged: it does not describe a checkpoint")
        return dict(latest)

    def _write(self, name: str, data: bytes) -> dict[str, Any]:
        atomic_write_bytes(self.directory / name, data)
        return {"bytes": len(data), "sha256": sha256_hex(data)}

    def _check_size(self, name: str, files: Mapping[str, Mapping[str, Any]]) -> None:
        path = self.directory / name
        if name not in files or not path.is_file():
            raise CheckpointError(f"{path} is missing: the checkpoint cannot be loaded")
        if path.stat().st_size != files[name]["bytes"]:
            raise CheckpointError(
                f"{path} is damaged: it must have {files[name]['bytes']} bytes, got {path.stat().st_size}"
            )

    def _read(self, name: str, files: Mapping[str, Mapping[str, Any]]) -> bytes:
        path = self.directory / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        if sha256_hex(data) != files[name]["sha256"]:
            raise CheckpointError(f"{path} is damaged: its content is not what was written")
        return data

    def _read_tensors(self, name: str, files: Mapping[str, Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        try:
            return safetensors.torch.load(self._read(name, files))
        except SafetensorError as error:
            raise CheckpointError(f"{self.directory / name} is damaged: {error}") from error

    def _delete_all_but(self, names: Mapping[str, Any]) -> None:
        """Delete checkpoint files that are not named, and temporary ones; a user's own files stay."""
        for path in self.directory.iterdir():
            if _OWN_FILE.fullmatch(path.name) and path.name not in names:
                path.unlink(missing_ok=True)
        remove_all_leftovers(self.directory)


def _segment_name(rows: tuple[int, int]) -> str:
    return f"rows-{rows[0]:012d}-{rows[1]:012d}.safetensors"


def _tensor_bytes(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Serialise tensors of any device and stride; those that share memory are written separately."""
    serialisable: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        on_cpu = tensor.detach().cpu().contiguous()
        storage = on_cpu.untyped_storage().data_ptr()
        serialisable[name] = on_cpu.clone() if storage in seen else on_cpu
        seen.add(storage)
    return safetensors.torch.save(serialisable)


def _is_manifest(latest: Any) -> bool:
    """Whether latest.json has the structure that ``save`` writes, and names only checkpoint files."""
    if not isinstance(latest, dict) or not all(isinstance(latest.get(name), int) for name in ("serial", "step")):
        return False
    files, segments = latest.get("files"), latest.get("segments")
    if not isinstance(files, dict) or not isinstance(segments, list):
        return False
    has_valid_files = all(
        _OWN_FILE.fullmatch(name)
        and isinstance(file, dict)
        and isinstance(file.get("bytes"), int)
        and isinstance(file.get("sha256"), str)
        for name, file in files.items()
    )
    has_valid_segments = all(
        isinstance(rows, list) and len(rows) == 2 and all(isinstance(row, int) for row in rows) for rows in segments
    )
    return (
        has_valid_files and has_valid_segments and all(latest.get(name) in list(files) for name in ("state", "tensors"))
    )
