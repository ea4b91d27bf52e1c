"""Results on stdout, lines for people or one JSON object; everything else on stderr."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


def result(figures: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print a command's result."""
    print(json.dumps(figures) if as_json else text, flush=True)


def say(text: str) -> None:
    """Tell what is not a result."""
    print(text, file=sys.stderr, flush=True)


class _Say(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))  # to whatever stderr is by then: a progress bar puts its own in place


@contextmanager
def log_on_stderr(form: str) -> Iterator[None]:
    """Say what torso logs, from INFO on, for a while."""
    handler, logger = _Say(), logging.getLogger("torso")
    handler.setFormatter(logging.Formatter(form))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
