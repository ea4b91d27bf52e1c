"""Retry policy: which failed calls are retried, with exponential backoff and jitter. The policy itself never waits."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from torso.errors import ConfigError, DeadlineError, OverloadedError, ServiceError, UnavailableError
from torso.plain import shown
from torso.serve.client.arguments import check_count, is_number
from torso.serve.client.operations import Operation, Pause, UnaryCall

T = TypeVar("T")

# gRPC's own texts where a message or its headers are over a limit: RESOURCE_EXHAUSTED, also after any retry.
_NOT_RETRIABLE = ("larger than max", "metadata size exceeds")


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """Retries of calls that ended UNAVAILABLE or RESOURCE_EXHAUSTED: number of attempts, and backoff between them.

    The waits double, each is drawn from its upper half, and the service's own advice (RetryInfo) is added. A wait
    that the call's deadline would end is not begun: the error is raised at once instead. ``max_attempts=1`` never
    retries. Every operation of the clients may safely be repeated.
    """

    max_attempts: int = 5
    """Attempts in all, the first included; gRPC's own retries stop at 5 too (gRFC A6)."""
    first_wait_s: float = 0.05
    """Longest wait before the first retry, in seconds; it doubles with each further one."""
    max_wait_s: float = 5.0
    """Limit of the doubled waits, in seconds."""

    def __post_init__(self) -> None:
        check_count("max_attempts", self.max_attempts)
        for name in ("first_wait_s", "max_wait_s"):
            if not is_number(getattr(self, name)):
                raise ConfigError(f"{name} must be a number of seconds, got {shown(getattr(self, name))}")
        if not 0 <= self.first_wait_s <= self.max_wait_s < math.inf:
            raise ConfigError(
                "first_wait_s and max_wait_s must be finite, with 0 <= first_wait_s <= max_wait_s, "
                f"got {self.first_wait_s} and {self.max_wait_s}"
            )

    def wait_s(self, error: ServiceError, attempts: int, left_s: float, draw: float) -> float | None:
        """Return the seconds to wait after so many attempts, the last ending in ``error``; None: give up.

        ``left_s``: what the deadline leaves. ``draw``: drawn evenly from [0, 1), so that clients that were rejected
        together do not retry together.
        """
        if attempts >= self.max_attempts or not retriable(error):
            return None
        doublings = min(attempts - 1, 60)  # further ones are beyond any max_wait_s, and at some point beyond floats
        backoff_s = min(self.first_wait_s * 2.0**doublings, self.max_wait_s)
        wait_s = max(error.retry_after_s or 0.0, 0.0) + backoff_s * (1 + draw) / 2
        return wait_s if wait_s < left_s else None


RETRIES = RetryPolicy()


def check_policy(retries: RetryPolicy) -> RetryPolicy:
    """Check that a client's retries are a policy, and return it; ConfigError for anything else."""
    if not isinstance(retries, RetryPolicy):
        raise ConfigError(
            f"retries must be a RetryPolicy, got {shown(retries)}; RetryPolicy(max_attempts=1) never retries"
        )
    return retries


def retriable(error: ServiceError) -> bool:
    """Return whether a retry of the same call may succeed."""
    if isinstance(error, OverloadedError):
        return not any(words in str(error) for words in _NOT_RETRIABLE)
    # No client cancels a call and then waits for it: it was gRPC in the server, which drops calls where too many are
    # unread, and those that are still running when it ends.
    return isinstance(error, UnavailableError) or error.status == "CANCELLED"


def with_retries(
    operation: Operation[T],
    policy: RetryPolicy,
    timeout_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    draw: Callable[[], float] = random.random,
) -> Operation[T]:
    """Yield an operation's steps, with retries of its calls by the policy; all of it ends within ``timeout_s``.

    Each call's timeout is what is left of that time.
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
