"""Logging of a server: text or JSON formatters, each line with its request's id (``x-request-id``).

A request's id is its ``x-request-id`` where the caller sent a usable one, else a new one. It is in every line that is
logged while the request is handled, in the trailing metadata of answers to callers who sent one, and in that of every
failure, so that a caller's report can be matched to lines. With ``log_requests`` and with traces every answer has one.
"""

from __future__ import annotations

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
from typing import Final, Protocol

from torso.serve.config import LogFormat

ID_KEY: Final = "x-request-id"
MAX_ID: Final = 128  # characters
FIELDS: Final = ("model", "version", "method", "status", "seconds")  # of a record about a request, in `extra`

logger = logging.getLogger(__name__)

UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


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
        line = UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), super().formatMessage(record))
        return line if request is None else f"{line} [{request.request_id}]"


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
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


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
    included, so that a JSON parser finds nothing else. gRPC's core writes lines of its own to stderr, such as of every
    handshake that fails; as JSON is asked for it does not, unless GRPC_VERBOSITY is set. It reads that when it is
    imported, so enter this block before.
    """
    if log_format == "json":
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FORMATTERS[log_format]())
    root, ours = logging.getLogger(), logging.getLogger("torso")
    before = [(logger, logger.handlers[:], logger.level) for logger in (root, ours)]
    hooks = threading.excepthook, sys.unraisablehook
    threading.excepthook, sys.unraisablehook = _log_thread_error, _log_unraisable
    root.handlers[:], ours.handlers[:] = [handler], []
    root.setLevel(logging.WARNING)
    ours.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        threading.excepthook, sys.unraisablehook = hooks
        for logger, handlers, level in before:
            logger.handlers[:] = handlers
            logger.setLevel(level)
