"""``torso serve``: models, over gRPC."""

from __future__ import annotations

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

    serve(options)
    return 0
