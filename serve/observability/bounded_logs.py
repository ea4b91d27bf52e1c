"""Bounds of what callers can make a server log: refusals are summed up, repeated tracebacks left out.

A refusal costs a count, and a line in every ``INTERVAL_S`` for all of them. Records of gRPC, asyncio and aiohttp, which
write one, mostly with a traceback, for every call or request that breaks off, are written ``WHOLE`` times in an
interval, and then counted. Internal errors of torso keep a line each, with the incident's id.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from typing import Final

from torso.serve.observability.logs import STDERR, escape_control_characters

INTERVAL_S: Final = 10.0
WHOLE: Final = 3  # records of a kind that are written in an interval before the rest is shortened, or counted
MAX_KINDS: Final = 64  # that an interval tells apart; those beyond are of one kind
MAX_TEXT: Final = 500  # characters of another library's message: it may hold a caller's text, such as a call's path

PEER_ERRORS: Final = (
    "grpc.",
    "google.protobuf.message",
    "aiohttp.http_exceptions",
)  # modules of exceptions that tell what a peer did
LIBRARIES: Final = ("grpc", "grpc._cython.cygrpc", "asyncio", "aiohttp.server", STDERR)  # loggers
OWN: Final = ("torso.serve.wire.status",)  # loggers of torso's internal errors

logger = logging.getLogger(__name__)


class IntervalCounts:
    """Counts by label, given to ``report`` at the end of every interval in which there were any. Thread-safe."""

    def __init__(self, report: Callable[[Mapping[str, int]], None]) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._timer: threading.Timer | None = None

    def count(self, label: str) -> None:
        """Count one."""
        with self._lock:
            self._counts[label] += 1
            if self._timer is None:
                self._timer = threading.Timer(INTERVAL_S, self.flush)
                self._timer.name, self._timer.daemon = "log-counts", True
                self._timer.start()

    def flush(self) -> None:
        """Report now what was counted since the last report, if anything was."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        if counts:
            self._report(counts)


class RefusalLog:
    """Log of calls that callers may not make: one line for all of an interval."""

    def __init__(self) -> None:
        self._counts = IntervalCounts(_report_refusals)

    def count(self, status: str) -> None:
        """Count a refused call, by its gRPC status' name."""
        self._counts.count(status)

    def close(self) -> None:
        """Log the refusals that are not in the log yet."""
        self._counts.flush()


def _report_refusals(counts: Mapping[str, int]) -> None:
    numbers = ", ".join(f"{number:,} {status}" for status, number in Counter(counts).most_common())
    logger.warning("calls refused in the last %g s: %s", INTERVAL_S, numbers)


class RepeatedRecords(logging.Filter):
    """Filter of the loggers whose records callers can cause: shortens those, and counts those that repeat.

    Records are of one kind if they have the same logger and the same place of the exception, or, without one, the same
    text. Of torso's own loggers every record is kept, those that repeat without their traceback.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._seen: Counter[tuple[str, ...]] = Counter()
        self._end = 0.0
        self._left_out = IntervalCounts(_report_repetitions)

    def filter(self, record: logging.LogRecord) -> bool:
        """Shorten a record where it repeats or is a peer's doing; False where it is left out."""
        repeats = self._number(_kind(record)) > WHOLE
        if record.name in OWN:
            if repeats:
                _drop_traceback(record)
            return True
        if repeats:
            self._left_out.count(record.name)
            return False
        if record.exc_info and _is_peers_doing(record.exc_info[1]):
            _drop_traceback(record)
        if record.exc_info and record.exc_info[1] is None:
            record.exc_info = None  # gRPC logs some errors outside of `except`
        record.msg, record.args = escape_control_characters(record.getMessage())[:MAX_TEXT], ()
        return True

    def flush(self) -> None:
        """Log now how many records were left out and are not in the log yet."""
        self._left_out.flush()

    def _number(self, kind: tuple[str, ...]) -> int:
        """Count a record of a kind; return its number in the interval."""
        with self._lock:
            if monotonic() >= self._end:
                self._seen.clear()
                self._end = monotonic() + INTERVAL_S
            if kind not in self._seen and len(self._seen) >= MAX_KINDS:
                kind = ()
            self._seen[kind] += 1
            return self._seen[kind]


def _report_repetitions(counts: Mapping[str, int]) -> None:
    numbers = ", ".join(f"{number:,} of {name}" for name, number in Counter(counts).most_common())
    logger.warning("records like those above, left out in the last %g s: %s", INTERVAL_S, numbers)


def _kind(record: logging.LogRecord) -> tuple[str, ...]:
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return (record.name, str(record.msg)[:MAX_TEXT])
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = "" if place is None else f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}"
    return (record.name, type(error).__qualname__, where)


def _is_peers_doing(error: BaseException | None) -> bool:
    by_class = isinstance(error, (ConnectionError, UnicodeDecodeError))  # the latter of a call's path
    return by_class or type(error).__module__.startswith(PEER_ERRORS)


def _drop_traceback(record: logging.LogRecord) -> None:
    """Replace a record's traceback by the name of its exception."""
    if record.exc_info and record.exc_info[1] is not None:
        record.msg, record.args = f"{record.getMessage()} ({type(record.exc_info[1]).__name__})", ()
    record.exc_info, record.exc_text = None, None


@contextmanager
def bounded_logs() -> Iterator[None]:
    """Bound, in a block, what callers can make this process log. It is for a server's own processes.

    gRPC's core is silenced, unless GRPC_VERBOSITY is set: it writes lines of its own to stderr, with a peer's text as
    it came. It reads that variable when it begins, so enter this block before gRPC is imported.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    repeated = RepeatedRecords()
    loggers = [logging.getLogger(name) for name in (*LIBRARIES, *OWN)]
    for one in loggers:
        one.addFilter(repeated)
    try:
        yield
    finally:
        for one in loggers:
            one.removeFilter(repeated)
        repeated.flush()
