"""The command line. ``main`` is the ``torso`` command; everything that a command needs is imported when it runs."""

from torso.cli.entry import main

__all__ = ["main"]
