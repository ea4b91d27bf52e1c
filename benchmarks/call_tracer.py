"""Tracer of calls between rooms, for `request_rooms.py` and `tick_rooms.py`.

A *room* is a sub-package such as ``serve/inference``, or a file that stands in none. A *crossing* is a call from one
place into another. A *return* is a call into a place while another place's function, which that place had called, is
still running: A calls B, and B calls A. All are counted for rooms and for files.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any


class Tracer:
    """The calls of functions in some folders: depth, file and function. ``unrelated`` ones are left out, by name."""

    def __init__(self, folders: Mapping[str, Path], unrelated: Collection[str] = ()) -> None:
        self.calls: list[tuple[int, str, str]] = []
        self.returns: dict[str, set[tuple[str, str]]] = {"rooms": set(), "files": set()}
        self.crossings = {"rooms": 0, "files": 0}
        self._folders = folders
        self._unrelated = frozenset(unrelated)
        self._stacks = threading.local()
        self._lock = threading.Lock()

    @contextmanager
    def follow(self) -> Iterator[None]:
        """Trace this thread, and those that start meanwhile."""
        self.start()
        try:
            yield
        finally:
            self.stop()

    def start(self) -> None:
        """Begin to trace, as `follow` does."""
        threading.setprofile(self._see)
        sys.setprofile(self._see)

    def stop(self) -> None:
        """End it."""
        sys.setprofile(None)
        threading.setprofile(None)

    def places(self, kind: str) -> list[str]:
        """Rooms or files in the order in which they were first entered."""
        return list(dict.fromkeys(place_of(file, kind) for _, file, _ in self.calls))

    def report(self, *, calls: bool) -> None:
        """Print what was counted; ``calls``: every call, indented by its depth, before it."""
        if calls:
            for depth, file, function in self.calls:
                print("  " * depth + f"{file} {function}")
        print(f"{len(self.calls)} calls")
        for kind, returns in self.returns.items():
            places = self.places(kind)
            counts = f"{len(places)} {kind}, {self.crossings[kind]} crossings, {len(returns)} returns"
            print(f"{counts}: {', '.join(places)}")
            for caller, called in sorted(returns):
                print(f"    {caller} -> {called}")

    def _see(self, frame: FrameType, event: str, _argument: Any) -> None:
        if event not in ("call", "return"):
            return
        stack: list[tuple[FrameType, str]] = self._stacks.__dict__.setdefault("stack", [])
        if event == "return":
            if stack and stack[-1][0] is frame:
                stack.pop()
            return
        file = self._file_of(frame)
        if file is None or frame.f_code.co_name in self._unrelated:
            return
        with self._lock:
            self.calls.append((len(stack), file, frame.f_code.co_name))
            for kind, found in self.returns.items():
                below = [place_of(known, kind) for _, known in stack]
                here = place_of(file, kind)
                self.crossings[kind] += bool(below) and below[-1] != here
                if below and below[-1] != here and here in below:
                    found.add((f"{stack[-1][1]}:{stack[-1][0].f_code.co_name}", f"{file}:{frame.f_code.co_name}"))
        stack.append((frame, file))

    def _file_of(self, frame: FrameType) -> str | None:
        """The file of a function, such as ``serve/wire/tensors.py``; None for other folders and generated code."""
        path = Path(frame.f_code.co_filename)
        for name, folder in self._folders.items():
            if path.is_relative_to(folder) and not path.stem.endswith(("_pb2", "_pb2_grpc")):
                return f"{name}/{path.relative_to(folder).as_posix()}"
        return None


def place_of(file: str, kind: str) -> str:
    """A file's room, or the file itself."""
    parts = file.split("/")
    return "/".join(parts[:2]) if kind == "rooms" else file
