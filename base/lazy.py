"""Lazy exports of a package (PEP 562): a name's module is imported on first access."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_exports(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return a package's ``__getattr__`` and ``__dir__``.

    homes: from each exported name to the module that defines it, or that it names; relative to ``package`` or, with
    ``torso.``, absolute.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = homes[name]
        module = import_module(home if home.startswith("torso.") else f"{package}.{home}")
        is_module = home.rpartition(".")[2] == name and not hasattr(module, name)
        return module if is_module else getattr(module, name)

    def names() -> list[str]:
        return sorted({*vars(import_module(package)), *homes})

    return find, names
