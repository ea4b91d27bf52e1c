"""Metrics: recorded by the request handler and by models, and summed over several processes."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torso.errors import InputError
from torso.proto import prediction_pb2 as pb
from torso.serve.observability.metrics import (
    GAUGES,
    MAX_UNLOADED_VERSIONS,
    NO_MODEL,
    ROWS_BOUNDS,
    SECONDS_BOUNDS,
    Histogram,
    Metrics,
    merge,
    without_gauges,
)
from torso.serve.services.request_handler import Call, RequestHandler
from torso.serve.wire.status import WireStatus

REQUEST = pb.GetModelRequest(model="digits").SerializeToString()

# Seconds are sums of powers of two, so that they add up to the same bits in every order.
seconds = st.integers(0, 1 << 20).map(lambda ticks: ticks / 1024)
models = st.sampled_from([NO_MODEL, ("digits", "1"), ("digits", "2"), ("cartpole", "1")])
ended = st.tuples(st.just("ended"), models, st.sampled_from(["OK", "CANCELLED", "INTERNAL"]), seconds)
computed = st.tuples(st.just("computed"), models, st.integers(1, 2000), st.integers(1, 64), seconds, st.integers(0, 99))
queued = st.tuples(st.just("queued"), models, seconds)
waits = st.tuples(st.just("waits"), models, st.integers(0, 9))
events = st.lists(st.one_of(ended, computed, queued, waits), max_size=30)


def counted(happened: list[Any]) -> dict[Any, Any]:
    metrics = Metrics()
    for kind, key, *what in happened:
        model = metrics.model(*key)
        if kind == "ended":
            model.ended(*what)
        elif kind == "computed":
            *batch, moment = what
            before = model.last_inference_ms
            model.computed(*batch)
            model.last_inference_ms = max(before, moment)
        elif kind == "queued":
            model.queue.observe(*what)
        else:
            model.queued_rows += what[0]
    return metrics.snapshot()


@given(events, events, events)
def test_the_sum_of_processes_is_what_one_would_have_counted(a: list[Any], b: list[Any], c: list[Any]) -> None:
    parts = [counted(a), counted(b), counted(c)]
    before = copy.deepcopy(parts)
    whole = counted([*a, *b, *c])
    assert merge(parts) == whole
    assert merge([merge(parts[:2]), parts[2]]) == merge([parts[0], merge(parts[1:])]) == whole
    assert merge(reversed(parts)) == whole
    assert merge([*parts, {}]) == whole
    assert parts == before, "an addend was changed"
    assert pickle.loads(pickle.dumps(whole)) == whole


@given(events)
def test_of_a_process_that_ended_all_but_the_gauges_remains(happened: list[Any]) -> None:
    snapshot = counted(happened)
    left = without_gauges(snapshot)
    assert left.keys() == snapshot.keys()
    for key, counts in snapshot.items():
        assert left[key] == {**counts, "in_flight": 0, "queued_rows": 0}
    assert set(GAUGES) == {"in_flight", "queued_rows"}


@pytest.mark.parametrize("bounds", [SECONDS_BOUNDS, ROWS_BOUNDS])
def test_a_value_that_equals_a_bound_lies_below_it(bounds: tuple[float, ...]) -> None:
    for index, bound in enumerate(bounds):
        histogram = Histogram(bounds)
        histogram.observe(bound)
        histogram.observe(bound * 1.001)
        assert [at for at, count in enumerate(histogram.counts) if count] == [index, index + 1]
        assert histogram.total == bound + bound * 1.001


def test_bounds_grow() -> None:
    for bounds in (SECONDS_BOUNDS, ROWS_BOUNDS):
        assert sorted(set(bounds)) == list(bounds)


def test_a_version_that_comes_back_goes_on_counting() -> None:
    metrics = Metrics()
    first = metrics.model("digits", "1")
    metrics.forget([])
    assert metrics.model("digits", "1") is first
    assert (first.name, first.version) == ("digits", "1")


def test_versions_without_end_are_forgotten_but_those_that_serve_are_not() -> None:
    metrics = Metrics()
    serving = {("digits", "1"), ("digits", "500")}
    for version in range(1, 501):
        metrics.model("digits", str(version))
    metrics.model("digits", "7")  # is being loaded anew
    metrics.forget(serving)
    kept = set(metrics.snapshot())
    assert serving | {NO_MODEL, ("digits", "7")} <= kept
    assert len(kept) == len(serving) + 1 + MAX_UNLOADED_VERSIONS
    assert ("digits", "499") in kept, "the newest are those to keep"
    assert metrics.model("", "") is metrics.unknown


# -- the request handler -----------------------------------------------------------------------------------------------


def test_requests_count_where_they_belong(behind: Callable[..., Any]) -> None:
    metrics = Metrics()
    digits = metrics.model("digits", "1")
    entered, released = asyncio.Event(), asyncio.Event()

    async def answer(request: pb.GetModelRequest, call: Call) -> pb.GetModelResponse:
        if request.model == "":
            raise InputError("model", expected="a name", got="none")
        call.metrics = digits
        if request.model == "slow":
            entered.set()
            await released.wait()
        return pb.GetModelResponse(name=request.model)

    async def scenario() -> None:
        async with behind(RequestHandler(metrics), answer) as channel:
            ask = channel.unary_unary("/test.Door/answer")
            for data, code in ((b"", "INVALID_ARGUMENT"), (b"\xff", "INVALID_ARGUMENT")):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await ask(data)
                assert refused.value.code().name == code
            await ask(REQUEST)
            slow = ask(pb.GetModelRequest(model="slow").SerializeToString())
            await entered.wait()
            assert (digits.in_flight, metrics.unknown.in_flight) == (1, 0)
            released.set()
            await slow

    asyncio.run(scenario())
    assert digits.statuses == {"OK": 2}
    assert metrics.unknown.statuses == {"INVALID_ARGUMENT": 2}
    assert (digits.in_flight, metrics.unknown.in_flight) == (0, 0)
    assert sum(digits.total.counts) == 2
    assert digits.total.total == digits.succeeded_s > 0
    assert digits.failed_s == metrics.unknown.succeeded_s == 0
    assert metrics.unknown.total.total == metrics.unknown.failed_s > 0


@pytest.mark.parametrize("leaves", ["goes away", "is out of time"])
def test_a_caller_who_leaves_is_counted_by_why(behind: Callable[..., Any], leaves: str) -> None:
    metrics = Metrics()
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def answer(_request: pb.GetModelRequest, _call: Call) -> pb.GetModelResponse:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async def scenario() -> None:
        async with behind(RequestHandler(metrics), answer) as channel:
            ask = channel.unary_unary("/test.Door/answer")(REQUEST, timeout=0.5 if leaves == "is out of time" else 60)
            await entered.wait()
            if leaves == "goes away":
                ask.cancel()
            with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
                await ask
            await cancelled.wait()

    asyncio.run(scenario())
    assert metrics.unknown.statuses == {"CANCELLED" if leaves == "goes away" else "DEADLINE_EXCEEDED": 1}
    assert metrics.unknown.in_flight == 0


def test_requests_of_a_stream_count_one_by_one_and_the_stream_does_not(behind: Callable[..., Any]) -> None:
    metrics = Metrics()
    handler = RequestHandler(metrics)
    digits = metrics.model("digits", "1")
    seen: list[int] = []

    async def chat(requests: AsyncIterator[bytes], stream: Call) -> AsyncIterator[pb.GetModelResponse]:
        async for data in requests:

            async def one(call: Call, data: bytes = data) -> pb.GetModelResponse:
                call.metrics = digits
                seen.append(digits.in_flight)
                assert handler.busy
                if data == b"bad":
                    raise InputError("data", expected="good", got="bad")
                return pb.GetModelResponse(name=data.decode())

            outcome = await handler.message(stream, one, 0)
            assert metrics.unknown.in_flight == digits.in_flight == 0
            if isinstance(outcome, WireStatus):
                outcome = pb.GetModelResponse(name=outcome.code.name)
            yield outcome
            if data == b"bug":
                raise ValueError("a bug")

    async def scenario() -> list[str]:
        async with behind(handler, chat) as channel:
            stream = channel.stream_stream("/test.Door/chat")()
            names = []
            for data in (b"good", b"bad", b"good"):
                await stream.write(data)
                names.append(pb.GetModelResponse.FromString(await stream.read()).name)
            await stream.done_writing()
            assert await stream.read() is grpc.aio.EOF
            handler.closed = True
            late = channel.stream_stream("/test.Door/chat")()
            await late.write(b"good")
            names.append(pb.GetModelResponse.FromString(await late.read()).name)
            await late.done_writing()
            assert await late.read() is grpc.aio.EOF
            return names

    assert asyncio.run(scenario()) == ["good", "INVALID_ARGUMENT", "good", "UNAVAILABLE"]
    assert seen == [1, 1, 1]
    assert digits.statuses == {"OK": 2, "INVALID_ARGUMENT": 1}
    assert metrics.unknown.statuses == {"UNAVAILABLE": 1}
    assert not handler.busy
