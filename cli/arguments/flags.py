"""Names of options in texts: Python's ``batch_size`` and ``resume=True`` are written as flags on the command line."""

from __future__ import annotations

import re
from collections.abc import Collection

_NAMES_IN_PYTHON = {"total_steps": "steps", "data": "dataset"}  # arguments of functions whose options are called else
_VALUE = r"'(?P<quoted>[^']*)'|(?P<bare>[\w.+-]*\w)"


def in_flags(text: str, names: Collection[str]) -> str:
    """Write the options of a text as flags: ``batch_size`` as --batch-size, ``resume=True`` as --resume.

    names: those of a command's options, as fields. A single word such as ``out`` is an option only where ``=`` follows.
    """
    known = {name: name for name in names}
    known |= {name: mine for name, mine in _NAMES_IN_PYTHON.items() if mine in names and name not in names}
    if not known:
        return text
    any_name = "|".join(sorted(map(re.escape, known), key=len, reverse=True))
    with_value = re.compile(rf"(?<![\w/.\-'\"=])(?P<name>{any_name})=(?:{_VALUE})?")
    text = with_value.sub(lambda match: _flag(known[match["name"]], match["quoted"] or match["bare"]), text)
    alone = re.compile(rf"(?<![\w/.\-'\"=])(?P<name>{any_name})(?![\w/\-'\"=]|\.\w)")

    def flag_alone(match: re.Match[str]) -> str:
        return _flag(known[match["name"]], None) if "_" in match["name"] else match["name"]

    return alone.sub(flag_alone, text)


def _flag(name: str, value: str | None) -> str:
    words = name.replace("_", "-")
    if value == "False":
        return f"--no-{words}"
    return f"--{words}" if value in (None, "True") else f"--{words} {value}"
