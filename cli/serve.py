"""``torso serve``: models, over gRPC."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import tyro

from torso.serve.config import ServeConfig


@tyro.conf.configure(tyro.conf.PositionalRequiredArgs, tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
@dataclass(frozen=True, kw_only=True)
class ServeOptions(ServeConfig):
    """Serve models over gRPC until Ctrl-C or SIGTERM; then finish what is under way, and end with exit code 0."""


def run(options: ServeOptions) -> int:
    """Serve."""
    from torso.serve import serve

    with _log_on_stderr():
        serve(options)
    return 0


@contextmanager
def _log_on_stderr() -> Iterator[None]:
    """Show torso's log for a while."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("torso")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
