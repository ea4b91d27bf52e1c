"""Output: results on stdout, as text or as one JSON object; status messages and logs on stderr."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


def print_result(figures: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print a command's result to stdout; in JSON, numbers that are not finite are null."""
    print(json.dumps(_finite(figures), allow_nan=False) if as_json else text, flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_status(text: str) -> None:
    """Print a status message to stderr."""
    print(text, file=sys.stderr, flush=True)


class _StderrHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print_status(self.format(record))  # looked up at each call: a progress bar replaces sys.stderr


@contextmanager
def log_to_stderr(log_format: str) -> Iterator[None]:
    """Write torso's log records, INFO and above, to stderr for a block."""
    handler, logger = _StderrHandler(), logging.getLogger("torso")
    handler.setFormatter(logging.Formatter(log_format))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
