"""Count the rooms on the way of a queued Classify: ``python benchmarks/request_rooms.py [--calls]``.

A server with a small classifier runs in this process. One request, which has to wait in the queue, is followed by a
profiler: every call of a function of torso's, on the event loop and in other threads, in order. A *room* is a
sub-package such as ``serve/inference``, or a file that stands in none. A *return* is a call into a place while another
place's function, which that place had called, is still running: A calls B, and B calls A. Both are counted for rooms
and for files. ``--calls`` prints every call, indented by its depth.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import grpc.aio
import numpy as np
import torch

import torso.nets
import torso.proto
import torso.serve
from torso.nets import InputSpec, LogitsHeadSpec, MLPSpec, NetworkSpec, build_network, save_model
from torso.proto import prediction_pb2 as pb
from torso.serve import ServeConfig, create_server

FOLDERS = {
    package.__name__.rpartition(".")[2]: Path(str(package.__file__)).parent
    for package in (torso.nets, torso.proto, torso.serve)
}
UNRELATED = {"_keep_listening"}  # tasks of the server that happen to run meanwhile


class Tracer:
    """The calls of a request: depth, file and function."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, str, str]] = []
        self.returns: dict[str, set[tuple[str, str]]] = {"rooms": set(), "files": set()}
        self._stacks = threading.local()
        self._lock = threading.Lock()

    @contextmanager
    def follow(self) -> Iterator[None]:
        """Trace this thread, and those that start meanwhile."""
        threading.setprofile(self._see)
        sys.setprofile(self._see)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    def places(self, kind: str) -> list[str]:
        """Rooms or files in the order in which they were first entered."""
        return list(dict.fromkeys(place_of(file, kind) for _, file, _ in self.calls))

    def _see(self, frame: FrameType, event: str, _argument: Any) -> None:
        if event not in ("call", "return"):
            return
        stack: list[tuple[FrameType, str]] = self._stacks.__dict__.setdefault("stack", [])
        if event == "return":
            if stack and stack[-1][0] is frame:
                stack.pop()
            return
        file = file_of(frame)
        if file is None or frame.f_code.co_name in UNRELATED:
            return
        with self._lock:
            self.calls.append((len(stack), file, frame.f_code.co_name))
            for kind, found in self.returns.items():
                below = [place_of(known, kind) for _, known in stack]
                here = place_of(file, kind)
                if below and below[-1] != here and here in below:
                    found.add((f"{stack[-1][1]}:{stack[-1][0].f_code.co_name}", f"{file}:{frame.f_code.co_name}"))
        stack.append((frame, file))


def file_of(frame: FrameType) -> str | None:
    """The file of a function of torso's, such as ``serve/wire/tensors.py``; None for others and generated code."""
    path = Path(frame.f_code.co_filename)
    for name, folder in FOLDERS.items():
        if path.is_relative_to(folder) and not path.stem.endswith(("_pb2", "_pb2_grpc")):
            return f"{name}/{path.relative_to(folder).as_posix()}"
    return None


def place_of(file: str, kind: str) -> str:
    """A file's room, or the file itself."""
    parts = file.split("/")
    return "/".join(parts[:2]) if kind == "rooms" else file


async def trace(folder: Path) -> Tracer:
    """Trace the last of a few requests, each of which waits 20 ms for a batch to fill."""
    spec = NetworkSpec(input=InputSpec(shape=(8,)), torso=MLPSpec(hidden=(16,)), head=LogitsHeadSpec(num_classes=3))
    network = build_network(spec, torch.Generator().manual_seed(0))
    save_model(folder / "digits", network, kind="classifier")
    tensor = pb.Tensor(dtype="float32", shape=(1, 8), data=np.zeros((1, 8), "<f4").tobytes())
    request = pb.ClassifyRequest(model="digits", tensor=tensor).SerializeToString()
    config = ServeConfig(models=(str(folder / "digits"),), port=0, max_delay_us=20_000)
    tracer = Tracer()
    async with (
        await create_server(config) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        classify: Callable[[bytes], Any] = channel.unary_unary("/torso.v1.PredictionService/Classify")
        for _ in range(3):
            await classify(request)
        with tracer.follow():
            await classify(request)
    return tracer


def main() -> None:
    """Trace, and print what was counted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", action="store_true", help="print every call")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        tracer = asyncio.run(trace(Path(folder)))
    if arguments.calls:
        for depth, file, function in tracer.calls:
            print("  " * depth + f"{file} {function}")
    for kind, returns in tracer.returns.items():
        places = tracer.places(kind)
        print(f"{len(places)} {kind}, {len(returns)} returns: {', '.join(places)}")
        for caller, called in sorted(returns):
            print(f"    {caller} -> {called}")


if __name__ == "__main__":
    main()
