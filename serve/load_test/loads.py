"""What a load is, and what came of it."""

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
NOT_SENT = "NOT_SENT"  # no status: the generator itself was so late that the deadline had passed
LATE_MS = 5.0  # a generator that sends later than this says more about itself than about the server


@dataclass(frozen=True, kw_only=True)
class ClosedLoop:
    """So many requests in flight at any time."""

    in_flight: int

    def __post_init__(self) -> None:
        if self.in_flight < 1:
            raise ConfigError(f"in_flight: expected at least 1, got {self.in_flight}")


@dataclass(frozen=True, kw_only=True)
class OpenLoop:
    """So many requests a second; between two passes either the same time or, as from many users, a random one."""

    rate: float
    arrivals: Arrivals = "poisson"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.rate < math.inf:
            raise ConfigError(f"rate: expected more than 0 requests a second, got {self.rate}")
        if self.arrivals not in ("poisson", "constant"):
            raise ConfigError(f"arrivals: expected poisson or constant, got {self.arrivals!r}")

    def times_s(self, duration_s: float) -> NDArray[np.float64]:
        """Return the moments, from 0 on and below ``duration_s``, at which requests are meant to be sent. [N]."""
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
    """How long to load, and what counts as in time."""

    duration_s: float = 10.0
    """Seconds that are measured."""
    warmup_s: float = 1.0
    """Seconds of the same load before them."""
    deadline_s: float = 1.0
    """Every request's deadline, counted as its latency is; goodput is what is answered within it."""

    def __post_init__(self) -> None:
        for name in ("duration_s", "deadline_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name}: expected more than 0 seconds, got {getattr(self, name)}")
        if not 0 <= self.warmup_s < math.inf:
            raise ConfigError(f"warmup_s: expected 0 or more seconds, got {self.warmup_s}")


@dataclass(frozen=True, kw_only=True)
class LoadResult:
    """What became of the requests of one load."""

    in_flight: int | None
    """The closed loop's; None: it was an open one."""
    offered: float | None
    """Requests a second that the open loop meant to send, as it drew them; None: it was a closed one."""
    duration_s: float
    rows: int
    deadline_s: float
    sent: int
    answered: int
    """Answers that are no error."""
    throughput: float
    """Answers a second."""
    goodput: float
    """Answers a second within the deadline."""
    rows_per_s: float
    latency_ms: dict[str, float] = field(default_factory=dict)
    """Of the answers: p50, p90, p99, p99.9, mean and max. Empty without any."""
    refusal_ms: dict[str, float] = field(default_factory=dict)
    """The same, of the errors: how soon they came."""
    errors: dict[str, int] = field(default_factory=dict)
    """How many requests ended in each status but OK; NOT_SENT where the generator had no time for them in time."""
    late_ms: dict[str, float] = field(default_factory=dict)
    """In an open loop: how much later than meant requests were sent. Beyond a millisecond or two, it is the generator
    that is at its limit."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)


class Tally:
    """What was seen within the measured time."""

    def __init__(self) -> None:
        self.answers_s: list[float] = []
        self.refusals_s: list[float] = []
        self.late_s: list[float] = []
        self.errors: Counter[str] = Counter()

    def add(self, status: str, seconds: float) -> None:
        """Count one request."""
        if status == OK:
            self.answers_s.append(seconds)
        else:
            self.refusals_s.append(seconds)
            self.errors[status] += 1

    def result(self, rows: int, load: ClosedLoop | OpenLoop, timing: Timing) -> LoadResult:
        """Sum up, for requests of so many rows."""
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
    # The nearest rank: a value that was seen, for nothing is to be interpolated in a tail of few.
    ranks = {percent: math.ceil(round(percent / 100 * seconds.size, 6)) for percent in PERCENTILES}
    found = {f"p{percent:g}": float(milliseconds[rank - 1]) for percent, rank in ranks.items()}
    return {**found, "mean": float(milliseconds.mean()), "max": float(milliseconds[-1])}
