"""Imports of a user's own modules: those that were typed on this command line, and no others, may be in this folder.

``--import MODULE`` imports a module before a command, one that registers torsos or heads. A name such as
``module:Env-v0`` imports one too. What a model or a run names is never imported from the current folder: who looks at a
model would else run whatever file happens to lie beside it. What a server names is never imported.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from torso.errors import ConfigError, EnvError

_typed: list[str] = []  # modules of this command line
_folders: set[str] = {""}  # entries of sys.path that stand for the current folder


def leave_out_working_folder() -> None:
    """Remove the current folder from the head of sys.path, where ``python -m`` has put it."""
    if not sys.flags.safe_path and sys.path and Path(sys.path[0] or os.curdir).resolve() == Path.cwd().resolve():
        del sys.path[0]


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
    _typed.clear()
    trust(modules)
    for module in modules:
        try:
            import_module(module)
        except Exception as error:
            raise ConfigError(
                f"--import {module}: it must be a module that can be imported, got {type(error).__name__}: {error}; is "
                "it in this folder, or on PYTHONPATH?"
            ) from error
    return others, modules


def trust(modules: Iterable[str]) -> None:
    """Let modules that were typed on this command line be imported from the current folder."""
    _typed.extend(module for module in modules if module not in _typed)
    if _typed and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
        _folders.add(str(Path.cwd()))


def typed_modules() -> frozenset[str]:
    """Return the modules that were typed on this command line."""
    return frozenset(_typed)


def modules_of(names: Iterable[str | None]) -> list[str]:
    """Return the modules of names such as ``module:Env-v0``."""
    return [name.partition(":")[0] for name in names if name and ":" in name]


def import_recorded(names: Iterable[str], where: str) -> None:
    """Import the modules of names that a model or a run records, but not from the current folder.

    where: what records them, for the message.

    Raises:
        EnvError: a module that cannot be imported from elsewhere, and was not typed on this command line.
    """
    for name in names:
        module, colon, _ = name.rpartition(":")
        if not colon or module in sys.modules or module in _typed:
            continue
        try:
            with _without_working_folder():
                import_module(module)
        except ModuleNotFoundError as error:
            raise EnvError(
                f"{where} names {name!r}, whose module {module!r} must be installed, on PYTHONPATH or named on the "
                f"command line, got none; if you trust it, add --import {module}"
            ) from error
        except Exception as error:
            raise EnvError(
                f"{where} names {name!r}, whose module {module!r} could not be imported "
                f"({type(error).__name__}: {error})"
            ) from error


def with_imports(command: str) -> str:
    """Add ``--import`` for this command line's modules to another command, which a message suggests."""
    return " ".join([command, *(f"--import {shlex.quote(module)}" for module in _typed)])


@contextmanager
def _without_working_folder() -> Iterator[None]:
    before = list(sys.path)
    sys.path[:] = [entry for entry in before if entry not in _folders]
    try:
        yield
    finally:
        sys.path[:] = before
