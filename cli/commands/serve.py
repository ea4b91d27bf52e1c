"""``torso serve``: serve models over gRPC."""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from torso.serve.config import ServeConfig


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

        serve(options)
    return 0
