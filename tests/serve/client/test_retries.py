"""Retries: the policy on a fake clock, and the clients on a real server that fails."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torso.errors import (
    ConfigError,
    DeadlineError,
    InternalServiceError,
    InvalidRequestError,
    OverloadedError,
    ServiceError,
    UnavailableError,
    UnknownModelError,
)
from torso.proto import prediction_pb2 as pb
from torso.serve import AsyncClient, Client, RetryPolicy
from torso.serve.client.operations import Operation, Pause, UnaryCall
from torso.serve.client.retries import retriable, with_retries
from torso.serve.wire.status import to_wire

NEVER = RetryPolicy(max_attempts=1)
BUSY = OverloadedError("queue full", status="RESOURCE_EXHAUSTED", retry_after_s=0.25)
GONE = UnavailableError("nobody there", status="UNAVAILABLE")


# -- the policy --------------------------------------------------------------------------------------------------------


def test_waits_double_up_to_a_limit_and_are_drawn_from_their_upper_half() -> None:
    policy = RetryPolicy(max_attempts=9, first_wait_s=0.1, max_wait_s=1.0)
    longest = [policy.wait_s(GONE, attempts, math.inf, 1.0) for attempts in range(1, 7)]
    assert longest == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])
    shortest = [policy.wait_s(GONE, attempts, math.inf, 0.0) for attempts in range(1, 7)]
    assert shortest == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.5, 0.5])


def test_the_services_advice_comes_on_top() -> None:
    policy = RetryPolicy(first_wait_s=0.1)
    assert policy.wait_s(BUSY, 1, math.inf, 0.0) == pytest.approx(0.25 + 0.05)
    assert policy.wait_s(BUSY, 2, math.inf, 1.0) == pytest.approx(0.25 + 0.2)


def test_it_gives_up_after_so_many_attempts_and_never_waits_beyond_the_deadline() -> None:
    policy = RetryPolicy(max_attempts=3, first_wait_s=0.1)
    assert policy.wait_s(GONE, 2, math.inf, 0.5) is not None
    assert policy.wait_s(GONE, 3, math.inf, 0.5) is None
    assert policy.wait_s(BUSY, 1, 0.31, 0.0) == pytest.approx(0.3)
    assert policy.wait_s(BUSY, 1, 0.29, 0.0) is None
    assert NEVER.wait_s(GONE, 1, math.inf, 0.0) is None


def test_what_will_fail_again_is_not_retried() -> None:
    assert retriable(BUSY)
    assert retriable(GONE)
    assert retriable(InternalServiceError("CANCELLED", status="CANCELLED"))
    for error in (
        OverloadedError("SERVER: Received message larger than max (99 vs. 4)", status="RESOURCE_EXHAUSTED"),
        OverloadedError("received initial metadata size exceeds hard limit", status="RESOURCE_EXHAUSTED"),
        InvalidRequestError("bad", status="INVALID_ARGUMENT"),
        UnknownModelError("who", status="NOT_FOUND"),
        DeadlineError("late", status="DEADLINE_EXCEEDED"),
        InternalServiceError("oops", status="INTERNAL"),
    ):
        assert not retriable(error), error


@pytest.mark.parametrize(
    "settings",
    [{"max_attempts": 0}, {"first_wait_s": -1}, {"first_wait_s": 2, "max_wait_s": 1}, {"max_wait_s": math.inf}],
)
def test_policies_that_cannot_work_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"(max_attempts|first_wait_s and max_wait_s) must be .*, got "):
        RetryPolicy(**settings)


# -- driven by a clock of the test's -----------------------------------------------------------------------------------


@dataclass
class World:
    """Fake server and clock: calls take ``call_s`` and end as the script says, None being an answer."""

    script: list[ServiceError | None]
    call_s: float = 0.0
    now: float = 1000.0
    made_at: list[float] = field(default_factory=list)
    timeouts: list[float | None] = field(default_factory=list)

    def run(self, operation: Operation[Any], policy: RetryPolicy, timeout_s: float, draw: float = 0.5) -> Any:
        steps = with_retries(operation, policy, timeout_s, clock=lambda: self.now, draw=lambda: draw)
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    self.now += step.seconds
                    step = steps.send(None)
                    continue
                self.made_at.append(self.now - 1000.0)
                self.timeouts.append(step.timeout_s)
                self.now += self.call_s
                outcome = self.script.pop(0)
                step = steps.send("answer") if outcome is None else steps.throw(outcome)
        except StopIteration as stop:
            return stop.value


def once(**settings: Any) -> Operation[Any]:
    return (
        yield UnaryCall(method="/x/Y", request=pb.ListModelsRequest(), response_class=pb.ListModelsResponse, **settings)
    )


def twice() -> Operation[Any]:
    first = yield from once()
    return first, (yield from once())


def test_a_call_is_made_until_it_is_answered() -> None:
    world = World([GONE, BUSY, None])
    assert world.run(once(), RetryPolicy(first_wait_s=0.1), 10.0) == "answer"
    assert world.made_at == pytest.approx([0.0, 0.075, 0.075 + 0.25 + 0.15])
    assert world.timeouts == pytest.approx([10 - at for at in world.made_at])


def test_the_last_error_is_what_is_raised() -> None:
    world = World([GONE, GONE, BUSY])
    with pytest.raises(OverloadedError):
        world.run(once(), RetryPolicy(max_attempts=3), 10.0)
    assert world.script == []


def test_a_call_that_asks_for_none_is_not_retried() -> None:
    world = World([GONE, None])
    with pytest.raises(UnavailableError):
        world.run(once(retried=False), RetryPolicy(), 10.0)


def test_attempts_are_counted_for_each_call_and_the_deadline_for_all() -> None:
    world = World([GONE, None, GONE, None], call_s=1.0)
    assert world.run(twice(), RetryPolicy(max_attempts=2), 10.0) == ("answer", "answer")
    assert world.timeouts == pytest.approx([10 - at for at in world.made_at])
    assert len(world.made_at) == 4


def test_a_call_for_which_no_time_is_left_is_not_made() -> None:
    world = World([None, None], call_s=5.0)
    with pytest.raises(DeadlineError, match="before the call could be made"):
        world.run(twice(), RetryPolicy(), 5.0)
    assert len(world.made_at) == 1


def test_a_calls_own_limit_holds_within_the_operations() -> None:
    world = World([None])
    world.run(once(timeout_s=2.0), RetryPolicy(), 10.0)
    world.script = [None]
    world.run(once(timeout_s=20.0), RetryPolicy(), 10.0)
    world.script = [None]
    world.run(once(), RetryPolicy(), math.inf)
    assert world.timeouts == [2.0, 10.0, None]


@given(
    outcomes=st.lists(st.sampled_from([GONE, BUSY]), min_size=1, max_size=12),
    timeout_s=st.floats(0.001, 20),
    call_s=st.floats(0, 2),
    draw=st.floats(0, 1, exclude_max=True),
    max_attempts=st.integers(1, 12),
)
def test_no_attempt_begins_after_the_deadline(
    outcomes: list[ServiceError], timeout_s: float, call_s: float, draw: float, max_attempts: int
) -> None:
    world = World([*outcomes, *([GONE] * 12)], call_s=call_s)
    with pytest.raises(ServiceError):
        world.run(once(), RetryPolicy(max_attempts=max_attempts), timeout_s, draw)
    assert 1 <= len(world.made_at) <= max_attempts
    assert all(at < timeout_s for at in world.made_at)
    for before, after, outcome in zip(world.made_at, world.made_at[1:], outcomes, strict=False):
        assert after - before >= call_s + (outcome.retry_after_s or 0.0) - 1e-9


# -- the clients, on a server that fails by a script -------------------------------------------------------------------


@dataclass
class Flaky:
    """A real server of ListModels whose answers are scripted: an error, or None for an answer; then only answers."""

    address: str = ""
    script: list[Exception | None] = field(default_factory=list)
    timeouts_s: list[float] = field(default_factory=list)
    peers: set[str] = field(default_factory=set)

    def list_models(self, _request: Any, context: grpc.ServicerContext) -> pb.ListModelsResponse:
        self.timeouts_s.append(context.time_remaining())
        self.peers.add(context.peer())
        if self.script and (error := self.script.pop(0)) is not None:
            code, text, trailing = to_wire(error, "a test")
            context.set_trailing_metadata(trailing)
            context.abort(code, text)
        return pb.ListModelsResponse(models=[pb.ModelSummary(name="a", version="1")])


@pytest.fixture
def flaky() -> Iterator[Flaky]:
    flaky = Flaky()
    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    handler = grpc.unary_unary_rpc_method_handler(
        flaky.list_models, pb.ListModelsRequest.FromString, pb.ListModelsResponse.SerializeToString
    )
    handlers = {"ListModels": handler}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("torso.v1.PredictionService", handlers),))
    flaky.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield flaky
    server.stop(None).wait()


QUICK = RetryPolicy(max_attempts=4, first_wait_s=0.001, max_wait_s=0.002)


def list_models(kind: str, address: str, timeout_s: float | None = None, **settings: Any) -> Any:
    """List models through either client."""
    if kind == "sync":
        with Client(address, **settings) as client:
            return client.list_models(timeout_s=timeout_s)

    async def scenario() -> Any:
        async with AsyncClient(address, **settings) as client:
            return await client.list_models(timeout_s=timeout_s)

    return asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_both_clients_retry(flaky: Flaky, kind: str) -> None:
    busy = OverloadedError("full", retry_after_s=0.001)
    flaky.script = [UnavailableError("draining"), busy, busy]
    [model] = list_models(kind, flaky.address, retries=QUICK)
    assert model.name == "a"
    assert len(flaky.timeouts_s) == 4

    flaky.script = [busy] * 5
    with pytest.raises(OverloadedError) as caught:
        list_models(kind, flaky.address, retries=QUICK)
    assert caught.value.retry_after_s == pytest.approx(0.001)
    assert len(flaky.script) == 1

    flaky.script = [busy]
    with pytest.raises(OverloadedError):
        list_models(kind, flaky.address, retries=NEVER)
    flaky.script = [UnknownModelError("who"), None]
    with pytest.raises(UnknownModelError):
        list_models(kind, flaky.address, retries=QUICK)
    assert flaky.script == [None]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_advice_that_reaches_beyond_the_deadline_is_not_waited_for(flaky: Flaky, kind: str) -> None:
    flaky.script = [OverloadedError("full", retry_after_s=3600.0)]
    with pytest.raises(OverloadedError):
        list_models(kind, flaky.address, timeout_s=60)
    assert flaky.script == []


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_call_has_the_clients_time_or_its_own(flaky: Flaky, kind: str) -> None:
    list_models(kind, flaky.address, timeout_s=100)
    list_models(kind, flaky.address)
    assert 50 < flaky.timeouts_s[0] <= 101  # gRPC rounds up what it sends
    assert 20 < flaky.timeouts_s[1] <= 31
    with pytest.raises(ConfigError, match="timeout_s"):
        list_models(kind, flaky.address, timeout_s=0)


@contextmanager
def listening_late(address: str) -> Iterator[None]:
    """Start a server, on a known port, while a client is already retrying."""
    server = grpc.server(ThreadPoolExecutor(max_workers=1))
    handler = grpc.unary_unary_rpc_method_handler(
        lambda _request, _context: pb.ListModelsResponse(),
        pb.ListModelsRequest.FromString,
        pb.ListModelsResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("torso.v1.PredictionService", {"ListModels": handler}),)
    )
    server.add_insecure_port(address)
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait()


def test_a_server_that_is_restarted_is_not_noticed() -> None:
    probe = grpc.server(ThreadPoolExecutor(max_workers=1))
    address = f"127.0.0.1:{probe.add_insecure_port('127.0.0.1:0')}"
    probe.stop(None).wait()
    tried = threading.Event()

    class Telling(RetryPolicy):
        def wait_s(self, *arguments: Any) -> float | None:
            tried.set()
            return super().wait_s(*arguments)

    answers: list[Any] = []
    with Client(address, retries=Telling(max_attempts=1000, max_wait_s=0.05)) as client:
        asking = threading.Thread(target=lambda: answers.append(client.list_models()))
        asking.start()
        assert tried.wait(30)
        with listening_late(address):
            asking.join(30)
    assert answers == [()]
