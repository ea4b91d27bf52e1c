"""``torso serve``: serve models over gRPC."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import tyro

from torso.errors import TorsoError
from torso.serve.config import ServeConfig

logger = logging.getLogger(__name__)


@tyro.conf.configure(tyro.conf.PositionalRequiredArgs, tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
@dataclass(frozen=True, kw_only=True)
class ServeOptions(ServeConfig):
    """Serve models over gRPC until Ctrl-C or SIGTERM; then finish requests in flight, and end with exit code 0."""

    models: tyro.conf.Positional[tuple[str, ...]] = ()
    """Model or run directories. A model's name is its directory's name; NAME=DIR chooses another."""


def run(options: ServeOptions) -> int:
    """Serve until a signal; configure logging for the whole process, in the format of the options."""
    from torso.serve.observability.logs import log_as

    with log_as(options.log_format):
        from torso.serve import serve  # imports gRPC, whose own log follows the format

        try:
            serve(options)
        except Exception as error:
            if options.log_format != "json":
                raise
            expected = isinstance(error, (TorsoError, OSError))
            logger.critical("error: %s", error, exc_info=None if expected else error)
            return 2 if expected else 1  # as `torso.cli.entry` exits, which prints errors as text
    return 0
