"""Which failed calls are made again, and when. The policy reads an error and a draw, and itself waits for nothing."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from torso.errors import ConfigError, DeadlineError, OverloadedError, ServiceError, UnavailableError
from torso.serve.client.operations import Operation, Pause, UnaryCall

T = TypeVar("T")

# gRPC's own words where a message or its headers are over a limit: RESOURCE_EXHAUSTED, and no less so the next time.
_HOPELESS = ("larger than max", "metadata size exceeds")


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often a call is made again that ended UNAVAILABLE or RESOURCE_EXHAUSTED, and after which waits.

    The waits double, each is drawn from its upper half, and the service's own advice (RetryInfo) comes on top. A wait
    that the call's deadline would end is not begun: the error is raised at once instead. ``max_attempts=1`` never
    retries. Every operation of the clients may safely be repeated.
    """

    max_attempts: int = 5  # gRPC's own retries stop there too (gRFC A6)
    first_wait_s: float = 0.05
    max_wait_s: float = 5.0

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ConfigError(f"max_attempts: expected at least 1, got {self.max_attempts}")
        if not 0 <= self.first_wait_s <= self.max_wait_s < math.inf:
            raise ConfigError(
                "first_wait_s and max_wait_s: expected 0 <= first_wait_s <= max_wait_s, "
                f"got {self.first_wait_s} and {self.max_wait_s}"
            )

    def wait_s(self, error: ServiceError, attempts: int, left_s: float, draw: float) -> float | None:
        """Return the seconds to wait after so many attempts, the last ending in ``error``; None: give up.

        ``left_s``: what the deadline leaves. ``draw``: drawn evenly from [0, 1), so that clients that were turned away
        together do not come back together.
        """
        if attempts >= self.max_attempts or not retriable(error):
            return None
        doublings = min(attempts - 1, 60)  # further ones are beyond any max_wait_s, and at some point beyond floats
        backoff_s = min(self.first_wait_s * 2.0**doublings, self.max_wait_s)
        wait_s = max(error.retry_after_s or 0.0, 0.0) + backoff_s * (1 + draw) / 2
        return wait_s if wait_s < left_s else None


RETRIES = RetryPolicy()


def check_timeout(timeout_s: float) -> float:
    """Return a time limit; ConfigError where it leaves no time."""
    if not timeout_s > 0:
        raise ConfigError(f"timeout_s: expected more than 0 seconds, got {timeout_s}")
    return timeout_s


def retriable(error: ServiceError) -> bool:
    """Say whether the same call may fare better later."""
    if isinstance(error, OverloadedError):
        return not any(words in str(error) for words in _HOPELESS)
    # Nobody here cancels a call and then waits for it: it was gRPC in the server, which drops calls where too many wait
    # to be read, and those that are still running when it ends.
    return isinstance(error, UnavailableError) or error.status == "CANCELLED"


def with_retries(
    operation: Operation[T],
    policy: RetryPolicy,
    timeout_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    draw: Callable[[], float] = random.random,
) -> Operation[T]:
    """Hand on an operation's steps, each call as often as the policy says; all of it ends within ``timeout_s``.

    Each call that is handed on carries what is left of the time.
    """
    deadline = clock() + timeout_s
    try:
        step = next(operation)
        while True:
            try:
                if isinstance(step, Pause):
                    answer = yield step
                else:
                    answer = yield from _call(step, policy, deadline, clock, draw)
            except ServiceError as error:
                step = operation.throw(error)
            else:
                step = operation.send(answer)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


def _call(
    call: UnaryCall, policy: RetryPolicy, deadline: float, clock: Callable[[], float], draw: Callable[[], float]
) -> Operation[object]:
    attempts = 0
    while True:
        left_s = min(deadline - clock(), call.timeout_s if call.timeout_s is not None else math.inf)
        if left_s <= 0:
            raise DeadlineError("the time was over before the call could be made", status="DEADLINE_EXCEEDED")
        try:
            return (yield replace(call, timeout_s=None if left_s == math.inf else left_s))
        except ServiceError as error:
            attempts += 1
            wait_s = policy.wait_s(error, attempts, deadline - clock(), draw()) if call.retried else None
            if wait_s is None:
                raise
        yield Pause(wait_s)
