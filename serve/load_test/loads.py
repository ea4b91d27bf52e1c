"""Loads and results of a load test: closed and open loop, timing, latency percentiles, goodput."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from torso.errors import ConfigError

Arrivals = Literal["poisson", "constant"]

PERCENTILES = (50.0, 90.0, 99.0, 99.9)
OK = "OK"
NOT_SENT = "NOT_SENT"  # no gRPC status: the deadline had passed before the generator could send
LATE_MS = 5.0  # if requests are sent later than this, the generator is the bottleneck


@dataclass(frozen=True, kw_only=True)
class ClosedLoop:
    """Closed loop: a constant number of requests in flight."""

    in_flight: int
    """Requests in flight at any time."""

    def __post_init__(self) -> None:
        if self.in_flight < 1:
            raise ConfigError(f"in_flight must be at least 1, got {self.in_flight}")


@dataclass(frozen=True, kw_only=True)
class OpenLoop:
    """Open loop: a constant rate of requests, at equal intervals or, as from many users, at random ones (Poisson)."""

    rate: float
    """Requests a second."""
    arrivals: Arrivals = "poisson"
    """Intervals between requests: random (poisson) or equal (constant)."""
    seed: int = 0
    """Seed of random intervals."""

    def __post_init__(self) -> None:
        if not 0 < self.rate < math.inf:
            raise ConfigError(f"rate must be more than 0 requests a second, got {self.rate}")
        if self.arrivals not in ("poisson", "constant"):
            raise ConfigError(f"arrivals must be poisson or constant, got {self.arrivals!r}")

    def times_s(self, duration_s: float) -> NDArray[np.float64]:
        """Return the intended send times in seconds, from 0 on and below ``duration_s``. [N]."""
        if self.arrivals == "constant":
            return np.arange(math.ceil(duration_s * self.rate)) / self.rate
        generator = np.random.default_rng(self.seed)
        times: NDArray[np.float64] = np.empty(0)
        while not times.size or times[-1] < duration_s:
            gaps = generator.exponential(1 / self.rate, size=int(duration_s * self.rate) + 100)
            times = np.concatenate([times, (times[-1] if times.size else 0.0) + np.cumsum(gaps)])
        return times[times < duration_s]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Durations of a load test, and the deadline of its requests."""

    duration_s: float = 10.0
    """Measured seconds."""
    warmup_s: float = 1.0
    """Seconds of the same load before them."""
    deadline_s: float = 1.0
    """Every request's deadline, counted as its latency is; goodput is what is answered within it."""

    def __post_init__(self) -> None:
        for name in ("duration_s", "deadline_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be more than 0 seconds, got {getattr(self, name)}")
        if not 0 <= self.warmup_s < math.inf:
            raise ConfigError(f"warmup_s must be 0 or more seconds, got {self.warmup_s}")


@dataclass(frozen=True, kw_only=True)
class LoadResult:
    """Result of one load: counts, throughput, goodput, latencies, errors."""

    in_flight: int | None
    """Of a closed loop; None for an open one."""
    offered: float | None
    """Intended requests a second of an open loop, as drawn; None for a closed one."""
    duration_s: float
    rows: int
    deadline_s: float
    sent: int
    answered: int
    """Requests that ended OK."""
    throughput: float
    """Answers a second."""
    goodput: float
    """Answers a second within the deadline."""
    rows_per_s: float
    latency_ms: dict[str, float] = field(default_factory=dict)
    """Of the answers: p50, p90, p99, p99.9, mean and max. Empty without any."""
    refusal_ms: dict[str, float] = field(default_factory=dict)
    """The same, of the errors."""
    errors: dict[str, int] = field(default_factory=dict)
    """Requests by status, except OK; NOT_SENT where the generator could not send them before their deadline."""
    late_ms: dict[str, float] = field(default_factory=dict)
    """In an open loop: delay of sending after the intended time. Beyond a millisecond or two, the generator is the
    bottleneck."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)


class Tally:
    """Counts and latencies within the measured time."""

    def __init__(self) -> None:
        self.answers_s: list[float] = []
        self.refusals_s: list[float] = []
        self.late_s: list[float] = []
        self.errors: Counter[str] = Counter()

    def add(self, status: str, seconds: float) -> None:
        """Record one request."""
        if status == OK:
            self.answers_s.append(seconds)
        else:
            self.refusals_s.append(seconds)
            self.errors[status] += 1

    def result(self, rows: int, load: ClosedLoop | OpenLoop, timing: Timing) -> LoadResult:
        """Compute the result, for requests of ``rows`` rows."""
        answers_s = np.asarray(self.answers_s)
        sent = len(self.answers_s) + len(self.refusals_s)
        throughput = len(answers_s) / timing.duration_s
        return LoadResult(
            in_flight=load.in_flight if isinstance(load, ClosedLoop) else None,
            offered=sent / timing.duration_s if isinstance(load, OpenLoop) else None,
            duration_s=timing.duration_s,
            rows=rows,
            deadline_s=timing.deadline_s,
            sent=sent,
            answered=len(answers_s),
            throughput=throughput,
            goodput=float((answers_s <= timing.deadline_s).sum()) / timing.duration_s,
            rows_per_s=throughput * rows,
            latency_ms=_summary_ms(answers_s),
            refusal_ms=_summary_ms(np.asarray(self.refusals_s)),
            errors=dict(self.errors.most_common()),
            late_ms=_summary_ms(np.asarray(self.late_s)),
        )


def _summary_ms(seconds: NDArray[np.float64]) -> dict[str, float]:
    if not seconds.size:
        return {}
    milliseconds = np.sort(seconds) * 1000
    # The nearest rank, a measured value: a tail of few values is not interpolated.
    ranks = {percent: math.ceil(round(percent / 100 * seconds.size, 6)) for percent in PERCENTILES}
    found = {f"p{percent:g}": float(milliseconds[rank - 1]) for percent, rank in ranks.items()}
    return {**found, "mean": float(milliseconds.mean()), "max": float(milliseconds[-1])}
