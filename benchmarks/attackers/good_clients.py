"""The clients that a server under siege has to go on serving: small calls at a fixed rate, first answers only."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
from numpy.typing import NDArray

from torso.errors import ServiceError
from torso.nets import Predictor
from torso.proto import oip_pb2
from torso.serve import AsyncClient, RetryPolicy

INFER = "/inference.GRPCInferenceService/ModelInfer"
KINDS = ("classify", "classify", "infer", "act cartpole", "classify", "infer", "act cartpole", "act frames")
RATE = 25.0  # calls of each client a second
ROWS = 8  # the most rows of a call
TIMEOUT_S = 5.0

Ask = Callable[[int], Awaitable[NDArray[Any]]]


@dataclass
class Outcomes:
    """Outcomes of a phase: milliseconds of the calls that were answered rightly, and why the others were not."""

    sent: int = 0
    milliseconds: list[float] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    probes: Counter[str] = field(default_factory=Counter)  # of /readyz

    def summary(self) -> dict[str, Any]:
        """Return the figures. The share is of all calls; the percentiles are of those that were answered."""
        p50, p99 = np.percentile(self.milliseconds, (50, 99)).tolist() if self.milliseconds else (None, None)
        return {
            "calls": self.sent,
            "answered_share": len(self.milliseconds) / self.sent if self.sent else None,
            "p50_ms": p50,
            "p99_ms": p99,
            "max_ms": max(self.milliseconds, default=None),
            "not_answered": dict(self.faults.most_common()),
            "readyz": dict(self.probes.most_common()),
        }


class GoodClients:
    """Eight clients, each with a connection of its own; `run` sends calls when they are due, not when others end.

    models: directories by name: ``digits`` [28, 28] uint8, ``cartpole`` [4] float32, ``frames`` [4, 84, 84] uint8. An
    answer counts if its labels or actions are those of the model's own predictor.
    """

    def __init__(self, address: str, token: str, models: Mapping[str, Path]) -> None:
        self._metadata = (("authorization", f"Bearer {token}"),)
        rng = np.random.default_rng(0)
        self._inputs: dict[str, NDArray[Any]] = {
            "digits": rng.integers(256, size=(ROWS, 28, 28), dtype=np.uint8),
            "cartpole": rng.standard_normal((ROWS, 4)).astype(np.float32),
            "frames": rng.integers(256, size=(ROWS, 4, 84, 84), dtype=np.uint8),
        }
        self._expected = {}
        for name, inputs in self._inputs.items():
            predictor = Predictor.load(models[name])
            readout = predictor.run(inputs)
            self._expected[name] = predictor.greedy(readout) if name != "digits" else readout.argmax(axis=1)
        once = RetryPolicy(max_attempts=1)
        self._clients = [AsyncClient(address, token, timeout_s=TIMEOUT_S, retries=once) for _ in KINDS]
        self._channels = [grpc.aio.insecure_channel(address, (("grpc.use_local_subchannel_pool", 1),)) for _ in KINDS]

    async def run(self, seconds: float, stop: asyncio.Event) -> Outcomes:
        """Send for so long, or until ``stop``; return once every call has ended."""
        outcomes = Outcomes()
        await asyncio.gather(*(self._send(number, outcomes, seconds, stop) for number in range(len(KINDS))))
        return outcomes

    async def close(self) -> None:
        """Close the connections."""
        await asyncio.gather(*(each.close() for each in (*self._clients, *self._channels)))

    async def _send(self, number: int, outcomes: Outcomes, seconds: float, stop: asyncio.Event) -> None:
        begin = time.monotonic() + number / len(KINDS) / RATE
        calls = set()
        for count in itertools.count():
            due = begin + count / RATE
            if due >= begin + seconds or stop.is_set():
                break
            await asyncio.sleep(max(due - time.monotonic(), 0))
            outcomes.sent += 1
            calls.add(asyncio.ensure_future(self._call(number, count % ROWS + 1, due, outcomes)))
        await asyncio.gather(*calls)

    async def _call(self, number: int, rows: int, due: float, outcomes: Outcomes) -> None:
        kind = KINDS[number]
        model = {"classify": "digits", "infer": "digits"}.get(kind) or kind.removeprefix("act ")
        rows = min(rows, 2) if model == "frames" else rows
        try:
            answer = await self._ask(number, kind, model, self._inputs[model][:rows])
        except (ServiceError, grpc.aio.AioRpcError) as error:
            code = error.code().name if isinstance(error, grpc.aio.AioRpcError) else type(error).__name__
            outcomes.faults[f"{kind}: {code}: {_detail(error)}"] += 1
        else:
            if np.array_equal(answer, self._expected[model][:rows]):
                outcomes.milliseconds.append((time.monotonic() - due) * 1e3)
            else:
                outcomes.faults[f"{kind}: a wrong answer"] += 1

    async def _ask(self, number: int, kind: str, model: str, inputs: NDArray[Any]) -> NDArray[Any]:
        client = self._clients[number]
        if kind == "classify":
            return (await client.classify(model, inputs)).indices[:, 0]
        if kind.startswith("act"):
            return (await client.act(model, inputs)).actions
        request = oip_pb2.ModelInferRequest(model_name=model, raw_input_contents=[inputs.tobytes()])
        request.inputs.add(name="tensor", datatype="UINT8", shape=inputs.shape)
        method = self._channels[number].unary_unary(INFER)
        data = await method(request.SerializeToString(), timeout=TIMEOUT_S, metadata=self._metadata)
        response = oip_pb2.ModelInferResponse.FromString(data)
        return np.frombuffer(response.raw_output_contents[0], dtype=np.float32).reshape(len(inputs), -1).argmax(axis=1)


def _detail(error: Exception) -> str:
    """Return the beginning of an error's text, without what differs from call to call."""
    text = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
    return "".join("#" if letter.isdigit() else letter for letter in (text or "")[:100])


async def probe(port: int, outcomes: Outcomes, seconds: float, stop: asyncio.Event) -> None:
    """Ask /readyz each second, as an orchestrator would, and count its answers."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not stop.is_set():
        begun = time.monotonic()
        try:
            async with asyncio.timeout(1):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    writer.write(b"GET /readyz HTTP/1.0\r\n\r\n")
                    status = (await reader.readline()).split()
                finally:
                    writer.close()
            outcomes.probes[status[1].decode() if len(status) > 1 else "no status"] += 1
        except TimeoutError:
            outcomes.probes["no answer in 1 s"] += 1
        except OSError as error:
            outcomes.probes[type(error).__name__] += 1
        await asyncio.sleep(max(begun + 1 - time.monotonic(), 0))
