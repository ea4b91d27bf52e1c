"""Count the rooms on the way of a queued Classify: ``python benchmarks/request_rooms.py [--calls]``.

A server with a small classifier runs in this process. One request, which has to wait in the queue, is followed by a
profiler: every call of a function of torso's, on the event loop and in other threads, in order. `call_tracer.py` says
what is counted. ``--calls`` prints every call, indented by its depth.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import torch
from call_tracer import Tracer

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


async def trace(folder: Path) -> Tracer:
    """Trace the last of a few requests, each of which waits 20 ms for a batch to fill."""
    spec = NetworkSpec(input=InputSpec(shape=(8,)), torso=MLPSpec(hidden=(16,)), head=LogitsHeadSpec(num_classes=3))
    network = build_network(spec, torch.Generator().manual_seed(0))
    save_model(folder / "digits", network, kind="classifier")
    tensor = pb.Tensor(dtype="float32", shape=(1, 8), data=np.zeros((1, 8), "<f4").tobytes())
    request = pb.ClassifyRequest(model="digits", tensor=tensor).SerializeToString()
    config = ServeConfig(models=(str(folder / "digits"),), port=0, max_delay_us=20_000)
    tracer = Tracer(FOLDERS, UNRELATED)
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
    tracer.report(calls=arguments.calls)


if __name__ == "__main__":
    main()
