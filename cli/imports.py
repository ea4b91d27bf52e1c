"""``--import MODULE``: modules that register torsos and heads of a user's own, imported before a command."""

from __future__ import annotations

import shlex
import sys
from importlib import import_module
from pathlib import Path

from torso.errors import ConfigError

_imported: list[str] = []  # by this command


def take_imports(words: list[str]) -> tuple[list[str], list[str]]:
    """Import the module of each ``--import MODULE``, which may register torsos and heads; return the other words."""
    others, modules = [], []
    remaining = iter(words)
    for word in remaining:
        option, equals, value = word.partition("=")
        if option != "--import":
            others.append(word)
            continue
        module = value if equals else next(remaining, "")
        if not module or module.startswith("-"):
            raise ConfigError("--import must be followed by a module, got none; for example --import my_torsos")
        modules.append(module)
    if modules:
        sys.path.append(str(Path.cwd()))  # where a module of one's own usually stands
    _imported[:] = modules
    for module in modules:
        try:
            import_module(module)
        except Exception as error:
            raise ConfigError(
                f"--import {module}: it must be a module that can be imported, got {type(error).__name__}: {error}; is "
                "it in this folder, or on PYTHONPATH?"
            ) from error
    return others, modules


def with_imports(command: str) -> str:
    """Add this command's ``--import`` options to another one, which a message suggests."""
    return " ".join([command, *(f"--import {shlex.quote(module)}" for module in _imported)])
