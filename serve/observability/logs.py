"""Logging of a server: text or JSON formatters, each line with its request's id (``x-request-id``).

A request's id is its ``x-request-id`` where the caller sent a usable one, else a new one. It is in every line that is
logged while the request is handled, in the trailing metadata of answers to callers who sent one, and in that of every
failure, so that a caller's report can be matched to lines. With ``log_requests`` and with traces every answer has one.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Protocol, TextIO, TypeAlias

from torso.serve.config import LogFormat

ID_KEY: Final = "x-request-id"
MAX_ID: Final = 128  # characters
FIELDS: Final = ("model", "version", "method", "status", "seconds")  # of a record about a request, in `extra`

logger = logging.getLogger(__name__)

STDERR: Final = "stderr"  # logger of what is printed to stderr
MAX_UNENDED: Final = 1 << 16  # characters of a line that has not ended

UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
RECORD: Final = re.compile(r"\d{4}-\d\d-\d\d ")  # the beginning of a record as text
ExceptionInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def escape_control_characters(text: str) -> str:
    """Escape what could begin a new line in a log, or control a terminal."""
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class IdentifiedRequest(Protocol):
    """A request that is being handled."""

    @property
    def request_id(self) -> str:
        """The request's id, generated on first use where the caller sent none."""


current_call: ContextVar[IdentifiedRequest | None] = ContextVar(
    "handled", default=None
)  # the context's current request


def caller_request_id(metadata: Iterable[tuple[str, str | bytes]] | None) -> str | None:
    """Return the caller's request id; None where there is none that is safe in a log and in a header."""
    for key, value in metadata or ():
        if key == ID_KEY:
            usable = isinstance(value, str) and 0 < len(value) <= MAX_ID and value.isascii() and value.isprintable()
            return str(value) if usable else None
    return None


class TextFormatter(logging.Formatter):
    """Format a log record as a text line: time, level, message, the request's id in brackets; a traceback follows.

    A message may hold a caller's text: control characters are escaped against log injection.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Format the record."""
        request = current_call.get()
        line = escape_control_characters(super().formatMessage(record))
        return line if request is None else f"{line} [{request.request_id}]"

    def formatException(self, ei: ExceptionInfo) -> str:  # noqa: N802 - logging's name
        """Format a traceback, in whose texts nothing looks like a record of its own."""
        lines = map(escape_control_characters, super().formatException(ei).split("\n"))
        return "\n".join(f"  {line}" if RECORD.match(line) else line for line in lines)


class JsonFormatter(logging.Formatter):
    """Format a log record as a JSON object on a line: time (UTC, ISO 8601), level, logger, pid, message.

    Also: ``request_id``, ``model``, ``version``, ``method``, ``status``, ``seconds``, ``exception`` (traceback).
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format the record."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "pid": os.getpid(),
            "message": record.getMessage(),
        }
        request = current_call.get()
        if request is not None:
            line["request_id"] = request.request_id
        line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _LoggedStream(io.TextIOBase):
    """Text stream whose lines are log records: gRPC and other libraries print tracebacks to stderr.

    What the logging itself prints, such as a handler that fails, goes to the ``original`` stream.
    """

    def __init__(self, original: TextIO) -> None:
        self._original = original
        self._of_thread = threading.local()

    def write(self, text: str) -> int:
        """Log the lines that ``text`` completes."""
        state = self._of_thread
        if getattr(state, "logging", False):
            return self._original.write(text)
        *lines, rest = (getattr(state, "rest", "") + text).split("\n")
        state.rest = rest[:MAX_UNENDED]
        state.logging = True
        try:
            for line in filter(str.strip, lines):
                logging.getLogger(STDERR).warning(line)
        finally:
            state.logging = False
        return len(text)

    def end_line(self) -> None:
        """Log what this thread has printed of a line that has not ended."""
        if getattr(self._of_thread, "rest", ""):
            self.write("\n")

    def flush(self) -> None:
        """Flush the original stream."""
        self._original.flush()

    def fileno(self) -> int:
        """Return the original's file descriptor."""
        return self._original.fileno()


def _log_thread_error(args: threading.ExceptHookArgs) -> None:
    """Log an exception that ended a thread, which Python would write to stderr."""
    error = args.exc_value
    logger.error("thread %s ended", args.thread.name if args.thread is not None else "?", exc_info=error)


def _log_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Log an exception that could not be raised, such as a finalizer's, which Python would write to stderr."""
    logger.error(
        "%s: %r", unraisable.err_msg or "exception ignored in", unraisable.object, exc_info=unraisable.exc_value
    )


FORMATTERS: Final[dict[LogFormat, type[logging.Formatter]]] = {"text": TextFormatter, "json": JsonFormatter}


@contextmanager
def log_as(log_format: LogFormat) -> Iterator[None]:
    """Log on stderr in this format, and nowhere else, in a block: torso from INFO on, other libraries from WARNING on.

    It is for a server's own processes, the command's and its workers': it replaces the whole process' logging, warnings
    and what is printed to stderr included, so that a JSON parser finds nothing else. `bounded_logs` keeps gRPC's core
    silent.
    """
    stderr = sys.stderr
    handler = logging.StreamHandler(stderr)
    handler.setFormatter(FORMATTERS[log_format]())
    root, ours = logging.getLogger(), logging.getLogger("torso")
    before = [(logger, logger.handlers[:], logger.level) for logger in (root, ours)]
    hooks = threading.excepthook, sys.unraisablehook
    threading.excepthook, sys.unraisablehook = _log_thread_error, _log_unraisable
    root.handlers[:], ours.handlers[:] = [handler], []
    root.setLevel(logging.WARNING)
    ours.setLevel(logging.INFO)
    logging.captureWarnings(True)
    sys.stderr = printed = _LoggedStream(stderr)
    try:
        yield
    finally:
        printed.end_line()
        sys.stderr = stderr
        logging.captureWarnings(False)
        threading.excepthook, sys.unraisablehook = hooks
        for logger, handlers, level in before:
            logger.handlers[:] = handlers
            logger.setLevel(level)
