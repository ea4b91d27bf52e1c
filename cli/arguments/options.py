"""Options of a command, read from a frozen dataclass: one for each field, with the docstring under it as its text.

A field that holds a dataclass of its own, such as the settings of an algorithm, stands for the options of that one.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

POSITIONAL: Mapping[str, Any] = {"positional": True}  # metadata of a field that is given without its name
REPEATED: Mapping[str, Any] = {"repeated": True}  # of a tuple whose option is given once for each value
HIDDEN: Mapping[str, Any] = {"hidden": True}  # of a field that is no option

Sections = Mapping[str, tuple[str, ...]]
"""Headings of a command's help with the options below each; those that none names come first."""

Place = tuple[str | None, str]
"""Field that a value goes to: the one whose dataclass holds it (None: the options themselves), and its name there."""

_METAVARS = {int: "N", float: "X"}


@dataclass(frozen=True, kw_only=True)
class Option:
    """Option of a command: the field that it sets, how its text is read, and what its help says."""

    name: str
    """Name of the field."""
    settings: str | None = None
    """Name of the field whose dataclass holds this one; None: the options themselves."""
    types: tuple[Any, ...]
    """Types of a value, tried in turn; of each value, where there may be several."""
    takes_many: bool = False
    takes_none: bool = False
    default: Any = MISSING
    text: str = ""
    metavar: str = ""
    is_positional: bool = False
    is_repeated: bool = False

    @property
    def place(self) -> Place:
        """Field that its value goes to."""
        return self.settings, self.name

    @property
    def flag(self) -> str:
        """The option as it is written, such as --batch-size."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def label(self) -> str:
        """Name in messages: --batch-size, or MODEL for a value that stands alone."""
        return self.metavar if self.is_positional else self.flag

    @property
    def is_flag(self) -> bool:
        """Whether it is on or off."""
        return self.types == (bool,)

    @property
    def is_required(self) -> bool:
        """Whether it must be given."""
        return self.default is MISSING

    @property
    def choices(self) -> tuple[str, ...]:
        """Words of which a value must be one; empty where others may be given."""
        words = [word for each in self.types if get_origin(each) is Literal for word in get_args(each)]
        return tuple(map(str, words)) if all(get_origin(each) is Literal for each in self.types) else ()


def options_of(options: type[Any], defaults: Any = None, settings: str | None = None) -> list[Option]:
    """List the options of a dataclass, in the order of its fields; ``defaults`` is an instance with other defaults."""
    hints, texts = get_type_hints(options), field_texts(options)
    found = []
    for field in fields(options):
        default = default_of(field, defaults)
        if is_dataclass(hints[field.name]):
            found += options_of(hints[field.name], None if default is MISSING else default, field.name)
        elif not field.metadata.get("hidden"):
            found.append(_option(field, hints[field.name], default, texts.get(field.name, ""), settings))
    return found


def _option(field: Field[Any], hint: Any, default: Any, text: str, settings: str | None) -> Option:
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    types = tuple(each for each in members if each is not NoneType)
    takes_many = get_origin(types[0]) is tuple
    if takes_many:
        types = (get_args(types[0])[0],)
    is_positional = bool(field.metadata.get("positional"))
    metavar = field.name.upper() if is_positional else _metavar(field.name, types)
    return Option(
        name=field.name,
        settings=settings,
        types=types,
        takes_many=takes_many,
        # A path or a name may be the word none; a setting that has a value of its own can be set to none.
        takes_none=settings is not None and len(types) < len(members),
        default=default,
        text=str(field.metadata.get("help", text)),
        metavar=str(field.metadata.get("metavar", metavar)),
        is_positional=is_positional,
        is_repeated=bool(field.metadata.get("repeated")),
    )


def default_of(field: Field[Any], defaults: Any = None) -> Any:
    """Return a field's value in ``defaults``, or else its own default; MISSING without one."""
    if defaults is not None:
        return getattr(defaults, field.name)
    return field.default if field.default_factory is MISSING else field.default_factory()


def _metavar(name: str, types: tuple[Any, ...]) -> str:
    """Word for a value in the help: what it is, by the option's name, or else by its type."""
    if types[0] in _METAVARS and name.rpartition("_")[2] != "port":
        return _METAVARS[types[0]] + ("|full" if len(types) > 1 else "")
    known = {"out": "DIR", "repository": "DIR", "env_kwargs": "JSON", "wrapper": "MODULE:NAME", "unit": "LAYER:INDEX"}
    last = name.rpartition("_")[2].upper()
    if name in known:
        return known[name]
    if last in ("DIR", "ENV", "PORT", "HOST", "ADDRESS", "MODEL", "MODELS", "MODULES"):
        return last
    return "FILE" if types == (Path,) else "NAME"


def field_texts(options: type[Any]) -> dict[str, str]:
    """Read the docstring under each field of a dataclass and of its bases, each as one line."""
    texts: dict[str, str] = {}
    for each in reversed(options.__mro__):
        if is_dataclass(each):
            texts.update(_texts_in(each))
    return texts


def _texts_in(options: type[Any]) -> Iterator[tuple[str, str]]:
    [body] = ast.parse(textwrap.dedent(inspect.getsource(options))).body
    statements = body.body if isinstance(body, ast.ClassDef) else []
    for statement, after in pairwise(statements):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            yield statement.target.id, " ".join(str(after.value.value).split())
