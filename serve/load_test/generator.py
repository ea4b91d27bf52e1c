"""Load generator: sends serialised requests in a closed or an open loop, and measures latencies and errors.

A closed loop keeps a number of requests in flight: the next is sent when one is answered, so a slow server gets fewer.
An open loop sends at a rate, whatever the server does. There latency counts from the time at which a request was
intended to be sent, not from when the generator sent it: a stall counts for every request that it delays, so there is
no coordinated omission.
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

Send = Callable[[bytes, float], Awaitable[bytes]]  # a request, and its deadline in seconds from now
FIRST_CALL_S = 30.0  # timeout of a connection's first call


@dataclass(frozen=True, kw_only=True)
class Target:
    """Endpoint, method and requests of a load test. ``requests``: serialised, of ``rows`` rows each, sent in turn."""

    endpoint: Endpoint
    method: str
    """The path, such as /torso.v1.PredictionService/Act."""
    requests: Sequence[bytes]
    rows: int = 1
    connections: int = 2


def run_load(target: Target, load: ClosedLoop | OpenLoop, timing: Timing) -> LoadResult:
    """Run `measure_load` to its end, on uvloop where the platform has it. Raises ServiceError as it does."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(measure_load(target, load, timing))


async def measure_load(target: Target, load: ClosedLoop | OpenLoop, timing: Timing) -> LoadResult:
    """Load test a server. Raises ServiceError where the first request on a connection, which is not counted, fails."""
    if target.connections < 1 or not target.requests:
        raise ConfigError(
            f"connections and requests must be at least 1 of each, got {target.connections} and {len(target.requests)}"
        )
    channels = [target.endpoint.aio_channel() for _ in range(target.connections)]
    try:
        sends = [_sender(channel, target) for channel in channels]
        for send in sends:
            await _warm_connection(send, target)
        tally = Tally()
        with _reduced_gc():
            if isinstance(load, ClosedLoop):
                await _run_closed_loop(sends, target.requests, load, timing, tally)
            else:
                await _run_open_loop(sends, target.requests, load, timing, tally)
        return tally.result(target.rows, load, timing)
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))


async def _run_closed_loop(
    sends: Sequence[Send], requests: Sequence[bytes], load: ClosedLoop, timing: Timing, tally: Tally
) -> None:
    """Keep ``in_flight`` requests in flight; count those that end within the measured time."""
    clock = time.perf_counter  # uvloop's own clock has whole milliseconds
    begin = clock() + timing.warmup_s
    end = begin + timing.duration_s
    payloads = cycle(requests)

    async def send_repeatedly(send: Send) -> None:
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

    await asyncio.gather(*(send_repeatedly(sends[index % len(sends)]) for index in range(load.in_flight)))


async def _run_open_loop(
    sends: Sequence[Send], requests: Sequence[bytes], load: OpenLoop, timing: Timing, tally: Tally
) -> None:
    """Send at the load's times; count requests intended within the measured time, however late they end."""
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

    async def send_one(send: Send, payload: bytes, intended: float) -> None:
        sent = clock()
        left_s = intended + timing.deadline_s - sent
        try:
            if left_s > 0:
                await send(payload, left_s)
            status = OK if left_s > 0 else NOT_SENT
        except grpc.aio.AioRpcError as error:
            status = error.code().name
        if intended >= counted_from:
            tally.add(status, clock() - intended)
            tally.late_s.append(sent - intended)

    def launch() -> None:
        """Send all requests that are due."""
        now = clock()
        while plan and plan[-1] <= now:
            send, payload = next(pairs)
            task = loop.create_task(send_one(send, payload, plan.pop()))
            running.add(task)
            task.add_done_callback(running.discard)
        if not plan:
            all_sent.set()

    if plan:
        with _timer_thread(moments, launch):
            await all_sent.wait()
    if running:
        await asyncio.wait(running)


@contextmanager
def _timer_thread(moments: Sequence[float], callback: Callable[[], None]) -> Iterator[None]:
    """Call ``callback`` on the event loop at given times of the clock, from a thread that sleeps until then.

    The loop's own timers would round to whole milliseconds, which is longer than many requests take. Where the loop
    is behind, one callback serves several times.
    """
    loop = asyncio.get_running_loop()
    stopped, pending = threading.Event(), threading.Event()

    def on_loop() -> None:
        pending.clear()
        callback()

    def wait_for_moments() -> None:
        for moment in moments:
            while (wait_s := moment - time.perf_counter()) > 0:  # a wait may end a little early
                if stopped.wait(wait_s):
                    return
            if not pending.is_set():
                pending.set()
                loop.call_soon_threadsafe(on_loop)

    thread = threading.Thread(target=wait_for_moments, name="send-timer")
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _sender(channel: grpc.aio.Channel, target: Target) -> Send:
    """Return a function that calls the target's method, bytes to bytes."""
    call: Callable[..., Awaitable[bytes]] = channel.unary_unary(target.method)
    metadata = target.endpoint.metadata
    return lambda payload, deadline_s: call(payload, timeout=deadline_s, metadata=metadata)


async def _warm_connection(send: Send, target: Target) -> None:
    """Connect, and check that the server answers the request."""
    try:
        await send(target.requests[0], FIRST_CALL_S)
    except grpc.aio.AioRpcError as error:
        raise target.endpoint.error(error) from None


@contextmanager
def _reduced_gc() -> Iterator[None]:
    """Collect garbage less often, and no existing objects, in a block: the pauses would count as latency."""
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 1000)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
