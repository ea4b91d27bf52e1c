"""A server under a mix of everything, for long: good, bad and cancelled requests, clients that vanish, hot swaps.

    python benchmarks/soak.py [--requests 1000000] [--workers 1] [--swap-s 3] [--in-flight 16] [--cancelled 0.1]

Holds, or ends with exit code 1 and says what did not:

- every good request is answered, and rightly: by what torso computes for the version that the answer names;
- every bad request is refused with the status that its fault has;
- the server's resident memory grows by less than 10 MB between the end of the warm-up and the end, beside what
  ``grpc.aio`` (1.85) loses of every call that its caller gives up, whatever is served: what it was about to send or
  receive (https://github.com/grpc/grpc/issues/43360). ``--cancelled 0`` does without such calls.

A tenth of the requests are bad and a tenth are cancelled; every second a client process vanishes in the middle of its
calls, by SIGKILL; every ``--swap-s`` seconds a new version is published whose answers differ, and the oldest goes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import psutil
import torch
import uvloop
from numpy.typing import NDArray

from torso.nets import InputSpec, LogitsHeadSpec, MLPSpec, NetworkSpec, Predictor, build_network, save_model
from torso.proto import oip_pb2
from torso.proto import prediction_pb2 as pb
from torso.serve.backends.selection import ATOL, RTOL

NAME = "digits"
SHAPE = (784,)
ROWS = 64  # rows that requests are drawn from
CHANNELS = 4
BAD = 0.1  # of the requests
WARM_UP = 0.1  # of the requests, before memory is read
WARM_UP_VERSIONS = 4  # and so many versions: swaps, too, take memory the first times
MAX_GROWTH_MB = 10.0
LOST_BYTES = 100  # that grpc.aio never gives back of a call that its caller gives up, by measurement
CANCEL_S = 0.002  # the most that a caller waits before it gives up
READ_S = 15.0

CLASSIFY = "/torso.v1.PredictionService/Classify"
INFER = "/inference.GRPCInferenceService/ModelInfer"

# A client that asks for ever, many at once: it is killed in the middle of that.
VANISHING = """
import sys, grpc
data = open(sys.argv[2], "rb").read()
channel = grpc.insecure_channel(sys.argv[1])
call = channel.unary_unary(sys.argv[3])
asked = []
while True:
    asked = [call.future(data) for _ in range(32)]
    for future in asked:
        future.exception()
    print(flush=True)
"""


@dataclass
class Tally:
    """Counts of events, and the faults among them."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def fault(self, what: str) -> None:
        """Count something that should not have happened, and keep the first few."""
        self.counts["faults"] += 1
        if len(self.wrong) < 20:
            self.wrong.append(what)


@dataclass(frozen=True)
class Good:
    """A request that must be answered, and with what: probabilities by the parity of the version that answers."""

    method: str
    data: bytes
    rows: slice


def make_model(folder: Path, seed: int) -> Path:
    """Save a classifier, 784-128-10; another seed gives other answers."""
    spec = NetworkSpec(input=InputSpec(shape=SHAPE), torso=MLPSpec(hidden=(128,)), head=LogitsHeadSpec(num_classes=10))
    network = build_network(spec, torch.Generator().manual_seed(seed))
    return save_model(folder, network, kind="classifier", labels=tuple(range(10)))


class Publisher:
    """Publishes versions, each by one rename; even ones answer as one model, odd ones as another."""

    def __init__(self, repository: Path, models: Sequence[Path]) -> None:
        self._folder = repository / NAME
        self._folder.mkdir(parents=True)
        self._models = models
        self.version = 0

    def publish(self) -> None:
        """Add the next version and remove the one before the last."""
        self.version += 1
        fresh = self._folder / f".{self.version}.tmp"
        shutil.copytree(self._models[self.version % 2], fresh)
        fresh.rename(self._folder / str(self.version))
        shutil.rmtree(self._folder / str(self.version - 2), ignore_errors=True)


def good_requests(inputs: NDArray[np.float32]) -> list[Good]:
    """Requests of 1 to 8 rows, in both protocols."""
    made = []
    for start in range(0, ROWS, 4):
        for rows in (1, 2, 8):
            part = slice(start, min(start + rows, ROWS))
            array = np.ascontiguousarray(inputs[part])
            tensor = pb.Tensor(dtype="float32", shape=array.shape, data=array.tobytes())
            own = pb.ClassifyRequest(model=NAME, tensor=tensor, top_k=10)
            made.append(Good(CLASSIFY, own.SerializeToString(), part))
            other = oip_pb2.ModelInferRequest(model_name=NAME, raw_input_contents=[array.tobytes()])
            other.inputs.add(name="tensor", datatype="FP32", shape=array.shape)
            made.append(Good(INFER, other.SerializeToString(), part))
    return made


def bad_requests() -> list[tuple[str, bytes, grpc.StatusCode]]:
    """Requests with a fault, and the status that each must get."""
    row = np.zeros((1, *SHAPE), dtype=np.float32)

    def own(model: str = NAME, **tensor: Any) -> bytes:
        given = {"dtype": "float32", "shape": row.shape, "data": row.tobytes(), **tensor}
        return pb.ClassifyRequest(model=model, tensor=pb.Tensor(**given)).SerializeToString()

    invalid, missing = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
    nameless = oip_pb2.ModelInferRequest(model_name="nobody").SerializeToString()
    return [
        (CLASSIFY, own(shape=(2, *SHAPE)), invalid),
        (CLASSIFY, own(dtype="float64"), invalid),
        (CLASSIFY, own(data=np.full_like(row, np.nan).tobytes()), invalid),
        (CLASSIFY, own(model="nobody"), missing),
        (CLASSIFY, b"\xff\xff\xff\xff", invalid),
        (INFER, nameless, missing),
        (INFER, oip_pb2.ModelInferRequest(model_name=NAME).SerializeToString(), invalid),
    ]


def read_answer(good: Good, data: bytes) -> tuple[int, NDArray[np.float32]]:
    """Return the version and the probabilities, [B, 10], of an answer in either protocol."""
    if good.method == CLASSIFY:
        response = pb.ClassifyResponse.FromString(data)
        probabilities = np.zeros((len(response.rows), 10), dtype=np.float32)
        for row, ranking in zip(probabilities, response.rows, strict=True):
            row[list(ranking.indices)] = ranking.probabilities
        return int(response.version), probabilities
    answer = oip_pb2.ModelInferResponse.FromString(data)
    values = np.frombuffer(answer.raw_output_contents[0], dtype=np.float32)
    return int(answer.model_version), values.reshape(-1, 10)


class Soak:
    """The traffic. ``expected`` holds the probabilities of even and odd versions, [2][ROWS, 10]."""

    def __init__(
        self,
        address: str,
        inputs: NDArray[np.float32],
        expected: Sequence[NDArray[np.float32]],
        requests: int,
        cancelled: float,
    ) -> None:
        self.tally = Tally()
        self.sent = 0
        self.requests = requests
        self._expected = expected
        self._cancelled = cancelled
        self._good, self._bad = good_requests(inputs), bad_requests()
        options = (("grpc.use_local_subchannel_pool", 1),)
        self._channels = [grpc.aio.insecure_channel(address, options) for _ in range(CHANNELS)]
        self._calls = [
            {method: channel.unary_unary(method) for method in (CLASSIFY, INFER)} for channel in self._channels
        ]

    async def run(self, in_flight: int) -> None:
        """Send everything, so many at once."""
        await asyncio.gather(*(self._ask(random.Random(number), number) for number in range(in_flight)))

    async def close(self) -> None:
        """End the connections."""
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def _ask(self, rng: random.Random, number: int) -> None:
        calls = self._calls[number % CHANNELS]
        while self.sent < self.requests:
            self.sent += 1
            drawn = rng.random()
            if drawn < BAD:
                await self._ask_badly(calls, *rng.choice(self._bad))
            elif drawn < BAD + self._cancelled:
                await self._cancel(calls, rng.choice(self._good), rng.random() * CANCEL_S)
            else:
                await self._ask_well(calls, rng.choice(self._good))

    async def _ask_well(self, calls: Any, good: Good) -> None:
        try:
            data = await calls[good.method](good.data, timeout=60)
        except grpc.aio.AioRpcError as error:
            self.tally.fault(f"a good request failed: {error.code().name}: {error.details()}")
            return
        version, probabilities = read_answer(good, data)
        if not np.allclose(probabilities, self._expected[version % 2][good.rows], rtol=RTOL, atol=ATOL):
            self.tally.fault(f"a wrong answer of version {version} to rows {good.rows}")
        self.tally.counts["good"] += 1
        self.tally.counts[f"answered by an {'odd' if version % 2 else 'even'} version"] += 1

    async def _ask_badly(self, calls: Any, method: str, data: bytes, wanted: grpc.StatusCode) -> None:
        try:
            await calls[method](data, timeout=60)
        except grpc.aio.AioRpcError as error:
            if error.code() is not wanted:
                self.tally.fault(f"a bad request got {error.code().name}, not {wanted.name}: {error.details()}")
        else:
            self.tally.fault(f"a bad request was answered, not {wanted.name}")
        self.tally.counts["bad"] += 1

    async def _cancel(self, calls: Any, good: Good, after_s: float) -> None:
        call = calls[good.method](good.data, timeout=60)
        await asyncio.sleep(after_s)
        call.cancel()
        try:
            await call
        except asyncio.CancelledError:
            self.tally.counts["cancelled"] += 1
        except grpc.aio.AioRpcError as error:
            self.tally.fault(f"a request that was cancelled failed before: {error.code().name}: {error.details()}")
        else:
            self.tally.counts["answered before it was cancelled"] += 1


async def every(seconds: float, act: Callable[[], object]) -> None:
    """Act again and again, in a thread, until cancelled."""
    while True:
        await asyncio.sleep(seconds)
        await asyncio.to_thread(act)


async def vanish(address: str, good: Good, folder: Path, tally: Tally) -> None:
    """Start a client process, wait until its calls are under way, kill it; for ever."""
    path = folder / "request"
    path.write_bytes(good.data)
    command = [sys.executable, "-c", VANISHING, address, str(path), good.method]
    while True:
        # Not asyncio's: uvloop forks, and gRPC's threads of this process would be the child's to trip over.
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
            try:
                assert client.stdout is not None  # noqa: S101 - a pipe was asked for
                asked = await asyncio.to_thread(client.stdout.readline)
            finally:
                client.kill()
            complaint = await asyncio.to_thread(client.communicate)
        if asked:
            tally.counts["clients that vanished"] += 1
        else:
            tally.fault(
                f"a client that was to vanish ended of itself with {client.returncode}: {complaint[1].decode()[-500:]}"
            )
        await asyncio.sleep(1)


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process and its children, MB."""
    process = psutil.Process(pid)
    family = [process, *process.children(recursive=True)]
    return float(sum(each.memory_info().rss for each in family) / 1e6)


async def weigh(pid: int, readings: list[float]) -> None:
    """Read a server's memory now and then, until cancelled."""
    while True:
        readings.append(resident_mb(pid))
        await asyncio.sleep(READ_S)


def start_server(repository: Path, folder: Path, workers: int) -> tuple[subprocess.Popen[bytes], str]:
    """Start `torso serve` and return it with its address."""
    port_file = folder / "port"
    command = [sys.executable, "-m", "torso.cli", "serve", "--repository", str(repository), "--model-control", "poll"]
    command += ["--poll-s", "0.5", "--port", "0", "--port-file", str(port_file), "--workers", str(workers)]
    command += ["--ops-port", "0", "--drain-s", "0", "--cache-dir", str(folder / "cache")]
    server = subprocess.Popen(command)
    end = time.monotonic() + 120
    while not port_file.exists():
        if server.poll() is not None or time.monotonic() > end:
            server.kill()
            raise SystemExit("the server did not start")
        time.sleep(0.05)
    return server, f"127.0.0.1:{port_file.read_text().strip()}"


async def soak(arguments: argparse.Namespace, folder: Path) -> int:
    """Run it; return the exit code."""
    models = [make_model(folder / "even", 2), make_model(folder / "odd", 1)]
    inputs = np.random.default_rng(0).standard_normal((ROWS, *SHAPE)).astype(np.float32)
    predictors = [Predictor.load(model) for model in models]
    expected = [predictor.probabilities(predictor.run(inputs)) for predictor in predictors]
    publisher = Publisher(folder / "repository", models)
    publisher.publish()
    server, address = start_server(folder / "repository", folder, arguments.workers)
    started, readings = time.monotonic(), list[float]()
    try:
        traffic = Soak(address, inputs, expected, int(arguments.requests * WARM_UP), arguments.cancelled)
        beside = [
            asyncio.create_task(every(arguments.swap_s, publisher.publish)),
            asyncio.create_task(vanish(address, good_requests(inputs)[0], folder, traffic.tally)),
            asyncio.create_task(weigh(server.pid, readings)),
        ]
        try:
            await traffic.run(arguments.in_flight)
            while publisher.version < WARM_UP_VERSIONS:
                await asyncio.sleep(arguments.swap_s)
            before_mb, warm = resident_mb(server.pid), Counter(traffic.tally.counts)
            traffic.requests = arguments.requests
            await traffic.run(arguments.in_flight)
            after_mb = resident_mb(server.pid)
        finally:
            for task in beside:
                task.cancel()
            ended = await asyncio.gather(*beside, return_exceptions=True)
            await traffic.close()
        for outcome in ended:
            if not isinstance(outcome, asyncio.CancelledError):
                traffic.tally.fault(f"what ran beside ended: {outcome!r}")
        server.send_signal(signal.SIGTERM)
        if await asyncio.to_thread(server.wait, 60) != 0:
            traffic.tally.fault(f"the server ended with exit code {server.returncode}")
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()
    tally, seconds = traffic.tally, time.monotonic() - started
    print(f"{traffic.sent:,} requests in {seconds:.0f} s, {publisher.version} versions, {arguments.workers} workers")
    for what, count in sorted(tally.counts.items()):
        print(f"  {count:>9,} {what}")
    growth = after_mb - before_mb
    lost = LOST_BYTES * (tally.counts["cancelled"] - warm["cancelled"]) / 1e6
    print(f"resident memory {before_mb:.1f} MB after the warm-up, {after_mb:.1f} MB at the end: {growth:+.1f} MB")
    print(f"about {lost:.0f} MB of that would be what grpc.aio loses of cancelled calls")
    print(f"every {READ_S:g} s: {', '.join(f'{reading:.0f}' for reading in readings)}")
    if growth - lost >= MAX_GROWTH_MB:
        tally.fault(f"memory grew by {growth - lost:.1f} MB beside that, expected less than {MAX_GROWTH_MB:g}")
    for what in tally.wrong:
        print(f"error: {what}", file=sys.stderr)
    return 1 if tally.wrong else 0


def main() -> int:
    """Read the arguments, run, clean up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--swap-s", type=float, default=3.0, help="seconds between two versions")
    parser.add_argument("--cancelled", type=float, default=0.1, help="the share of requests that are given up")
    parser.add_argument("--in-flight", type=int, default=16, help="requests at once")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        return uvloop.run(soak(arguments, Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
