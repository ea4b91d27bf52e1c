"""Parse arguments into frozen dataclasses with tyro; report argument errors as one line."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from typing import Any, TypeVar

import tyro

from torso.errors import ConfigError, TorsoError

T = TypeVar("T")

Flag = tyro.conf.FlagCreatePairsOff[bool]
"""Boolean flag that is off by default and has no ``--no-`` form."""


# Help shows a positional argument by its name; tyro before 1.0.16 has no such setting, and shows its type.
_CONFIG = (tyro.conf.PositionalMetavarFromFieldName,) if hasattr(tyro.conf, "PositionalMetavarFromFieldName") else ()


def parse_options(options: type[T], arguments: Sequence[str], command: str, defaults: T | None = None) -> T | None:
    """Parse a command's arguments; print the help and return None for ``--help``.

    ``defaults`` are the values of options that are not given, and the defaults that the help shows.

    Raises:
        ConfigError: arguments that are unknown, missing or not of the option's type.
        TorsoError: ``options`` itself rejects the values.
    """
    known: dict[str, Any] = {} if defaults is None else {"default": defaults}
    if "-h" in arguments or "--help" in arguments:
        arguments = ["--help"]  # alone: tyro's help omits positional arguments that were given
    captured = io.StringIO()  # tyro prints errors as a box of several lines
    try:
        with redirect_stderr(captured):
            parsed: T = tyro.cli(
                options,
                prog=f"torso {command}",
                args=list(arguments),
                config=_CONFIG,
                **known,
            )
    except SystemExit as end:
        if not end.code:
            return None
        torso_error = next((error for error in _causes(end) if isinstance(error, TorsoError)), None)
        if torso_error is not None:
            raise torso_error from None
        raise ConfigError(f"{_one_line(captured.getvalue())}; torso {command} --help lists the options") from None
    sys.stderr.write(captured.getvalue())
    return parsed


def option_value(arguments: Sequence[str], option: str) -> str | None:
    """Return the value of ``option`` in unparsed arguments; the last occurrence counts, None without one."""
    found = None
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == option:
            found = value if equals else next(iter(arguments[index + 1 : index + 2]), None)
    return found


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _one_line(box: str) -> str:
    """Join the text of tyro's error box into one line, without its frame, title and repeated help."""
    sections: list[list[str]] = [[]]
    for line in box.splitlines():
        row = line.strip("│╭╮╰╯ ")
        if "──" in row or set(row) == {"-"}:  # a rule; where stdout is not UTF-8, tyro draws in ASCII
            sections.append([])
        elif row:
            sections[-1].append(row)
    _, *bodies = sections  # the text above the first rule is the title
    messages = [" ".join(rows) for rows in bodies if rows and not rows[0].startswith(("Argument helptext", "For full"))]
    messages = [text.removeprefix("Error parsing ") for text in messages] or ["wrong arguments"]
    return "; ".join(text[0].lower() + text[1:] for text in messages)
