"""Arguments into frozen dataclasses, by tyro; what is wrong with them as one line."""

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
"""A switch that is off unless it is given; it has no ``--no-`` twin."""


def parse_options(options: type[T], arguments: Sequence[str], command: str, defaults: T | None = None) -> T | None:
    """Read a command's arguments; None where they asked for help, which is printed then.

    ``defaults`` hold where no argument says else, and are what the help shows.

    Raises:
        ConfigError: arguments that are unknown, missing or not what the option takes.
        TorsoError: what ``options`` itself refuses.
    """
    known: dict[str, Any] = {} if defaults is None else {"default": defaults}
    if "-h" in arguments or "--help" in arguments:
        arguments = ["--help"]  # alone, for tyro's help leaves out positional arguments that were given
    said = io.StringIO()  # tyro explains in a box of several lines
    try:
        with redirect_stderr(said):
            parsed: T = tyro.cli(
                options,
                prog=f"torso {command}",
                args=list(arguments),
                config=(tyro.conf.PositionalMetavarFromFieldName,),
                **known,
            )
    except SystemExit as end:
        if not end.code:
            return None
        refusal = next((error for error in _causes(end) if isinstance(error, TorsoError)), None)
        if refusal is not None:
            raise refusal from None
        raise ConfigError(f"{_in_a_line(said.getvalue())}; torso {command} --help lists what there is") from None
    sys.stderr.write(said.getvalue())
    return parsed


def given(arguments: Sequence[str], option: str) -> str | None:
    """What ``option`` is given on the command line, before it is parsed as a whole; the last one counts."""
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


def _in_a_line(box: str) -> str:
    """What tyro's box says, without its frame and title, and without the help that it repeats."""
    sections: list[list[str]] = [[]]
    for line in box.splitlines():
        row = line.strip("│╭╮╰╯ ")
        if "──" in row or set(row) == {"-"}:  # a rule; where stdout is not UTF-8, tyro draws in ASCII
            sections.append([])
        elif row:
            sections[-1].append(row)
    _, *bodies = sections  # what stands above the first rule is the title
    told = [" ".join(rows) for rows in bodies if rows and not rows[0].startswith(("Argument helptext", "For full"))]
    told = [text.removeprefix("Error parsing ") for text in told] or ["wrong arguments"]
    return "; ".join(text[0].lower() + text[1:] for text in told)
