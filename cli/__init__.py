"""Command line: ``main`` is the ``torso`` command, and each command imports what it needs when it runs."""

from __future__ import annotations

from collections.abc import Sequence

from torso.interrupts import exit_on_signals

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (None: this process's) and return its exit code; errors are printed and not raised.

    A process that is a command ends quietly on a signal from here on: while it imports, too, and after it has returned.
    """
    if arguments is None:
        exit_on_signals()
    from torso.cli import entry

    return entry.main(arguments)
