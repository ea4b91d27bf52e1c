"""Command line: ``main`` is the ``torso`` command, and each command imports what it needs when it runs."""

from torso.cli.entry import main

__all__ = ["main"]
