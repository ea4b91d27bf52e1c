"""A load generator: requests that are bytes already, sent in a closed or an open loop, and what became of them.

A closed loop keeps so many requests in flight: the next is sent when one is answered, so a slow server is asked less.
An open loop sends at a rate, whatever the server does. There a latency counts from the moment at which the request was
meant to be sent, not from when the generator got round to it: a stall is felt by every request that it delays, none is
quietly left out (coordinated omission).
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle

import grpc.aio

from torso.errors import ConfigError
from torso.serve.client.pool import Endpoint
from torso.serve.event_loop import new_event_loop
from torso.serve.load_test.loads import NOT_SENT, OK, ClosedLoop, LoadResult, OpenLoop, Tally, Timing
from torso.serve.wire.status import from_wire

Send = Callable[[bytes, float], Awaitable[bytes]]  # a request, and its deadline in seconds from now
FIRST_S = 30.0  # what a connection and its first answer may take


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where to send what. ``requests`` are serialised, of ``rows`` rows each, and are sent in turn."""

    endpoint: Endpoint
    method: str
    """The path, such as /torso.v1.PredictionService/Act."""
    requests: Sequence[bytes]
    rows: int = 1
    connections: int = 2


def run_load(target: Target, load: ClosedLoop | OpenLoop, timing: Timing) -> LoadResult:
    """Load a server, and wait for the end; on uvloop where there is one. Raises ServiceError as `measure_load` does."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(measure_load(target, load, timing))


async def measure_load(target: Target, load: ClosedLoop | OpenLoop, timing: Timing) -> LoadResult:
    """Load a server. Raises ServiceError where the first request on a connection, which is not counted, fails."""
    if target.connections < 1 or not target.requests:
        raise ConfigError("connections and requests: expected at least 1 of each")
    channels = [target.endpoint.aio_channel() for _ in range(target.connections)]
    try:
        sends = [_sender(channel, target) for channel in channels]
        for send in sends:
            await _try_out(send, target)
        tally = Tally()
        with _quiet_collector():
            if isinstance(load, ClosedLoop):
                await _closed(sends, target.requests, load, timing, tally)
            else:
                await _open(sends, target.requests, load, timing, tally)
        return tally.result(target.rows, load, timing)
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))


async def _closed(
    sends: Sequence[Send], requests: Sequence[bytes], load: ClosedLoop, timing: Timing, tally: Tally
) -> None:
    """Count what ends within the measured time."""
    clock = time.perf_counter  # the loop's own counts whole milliseconds where it is uvloop's
    begin = clock() + timing.warmup_s
    end = begin + timing.duration_s
    payloads = cycle(requests)

    async def keep_asking(send: Send) -> None:
        while True:
            started = clock()
            if started >= end:
                return
            try:
                await send(next(payloads), timing.deadline_s)
                status = OK
            except grpc.aio.AioRpcError as error:
                status = error.code().name
            done = clock()
            if begin <= done < end:
                tally.add(status, done - started)

    await asyncio.gather(*(keep_asking(sends[index % len(sends)]) for index in range(load.in_flight)))


async def _open(sends: Sequence[Send], requests: Sequence[bytes], load: OpenLoop, timing: Timing, tally: Tally) -> None:
    """Count what was meant to be sent within the measured time, however late it ends."""
    loop = asyncio.get_running_loop()
    clock = time.perf_counter
    times_s = load.times_s(timing.warmup_s + timing.duration_s)
    pairs = zip(cycle(sends), cycle(requests), strict=False)
    running: set[asyncio.Task[None]] = set()
    all_sent = asyncio.Event()
    started = clock()
    counted_from = started + timing.warmup_s
    moments = (started + times_s).tolist()
    plan = moments[::-1]  # the next at the end

    async def ask(send: Send, payload: bytes, meant: float) -> None:
        sent = clock()
        left_s = meant + timing.deadline_s - sent
        try:
            if left_s > 0:
                await send(payload, left_s)
            status = OK if left_s > 0 else NOT_SENT
        except grpc.aio.AioRpcError as error:
            status = error.code().name
        if meant >= counted_from:
            tally.add(status, clock() - meant)
            tally.late_s.append(sent - meant)

    def launch() -> None:
        """Send all that is due."""
        now = clock()
        while plan and plan[-1] <= now:
            send, payload = next(pairs)
            task = loop.create_task(ask(send, payload, plan.pop()))
            running.add(task)
            task.add_done_callback(running.discard)
        if not plan:
            all_sent.set()

    if plan:
        with _metronome(moments, launch):
            await all_sent.wait()
    if running:
        await asyncio.wait(running)


@contextmanager
def _metronome(moments: Sequence[float], beat: Callable[[], None]) -> Iterator[None]:
    """Call ``beat`` on the event loop at moments of the clock, from a thread that sleeps until then.

    The loop's own timers would round to whole milliseconds, which is longer than many an answer takes. Where the loop
    is behind, one beat stands for several moments.
    """
    loop = asyncio.get_running_loop()
    stopped, pending = threading.Event(), threading.Event()

    def on_loop() -> None:
        pending.clear()
        beat()

    def keep_time() -> None:
        for moment in moments:
            while (wait_s := moment - time.perf_counter()) > 0:  # a wait may end a little early
                if stopped.wait(wait_s):
                    return
            if not pending.is_set():
                pending.set()
                loop.call_soon_threadsafe(on_loop)

    thread = threading.Thread(target=keep_time, name="metronome")
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _sender(channel: grpc.aio.Channel, target: Target) -> Send:
    """Return the target's method, bytes to bytes."""
    call: Callable[..., Awaitable[bytes]] = channel.unary_unary(target.method)
    metadata = target.endpoint.metadata
    return lambda payload, deadline_s: call(payload, timeout=deadline_s, metadata=metadata)


async def _try_out(send: Send, target: Target) -> None:
    """Connect, and see that the request is one that the server answers."""
    try:
        await send(target.requests[0], FIRST_S)
    except grpc.aio.AioRpcError as error:
        raise from_wire(error, target.endpoint.address) from None


@contextmanager
def _quiet_collector() -> Iterator[None]:
    """Keep what is there out of the garbage collector's sight, and look less often: its pauses would be latencies."""
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 1000)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
