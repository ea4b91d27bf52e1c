"""Help of a command: usage, description and options by section, wrapped to a width."""

from __future__ import annotations

import inspect
import re
import shutil
import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torso.cli.arguments.flags import in_flags
from torso.cli.arguments.options import Option, Sections
from torso.cli.arguments.values import written

_MIN_WIDTH, _MAX_WIDTH = 40, 120
_NARROW = 70  # below it, an option's text stands under its name
_COLUMN = 30  # where texts begin
_NONE_MEANS = re.compile(r"(?:[;,.:] |^)(?:None|unset): (.+?)\.?$")

_EVERYWHERE = (
    Option(
        name="import",
        types=(str,),
        default=None,
        metavar="MODULE",
        text="Import a module first, also one in the current folder: one that registers torsos, heads or envs",
    ),
    Option(name="debug", types=(bool,), default=None, text="Show the traceback of an error"),
)


def terminal_width() -> int:
    """Width for text: that of COLUMNS or of the terminal, within limits; 80 where there is neither."""
    return min(max(shutil.get_terminal_size().columns, _MIN_WIDTH), _MAX_WIDTH)


def help_page(command: str, options: type[Any], known: Sequence[Option], width: int) -> str:
    """Format the help of a command whose options are ``known``."""
    sections: Sections = getattr(options, "sections", {})
    named = {name for names in sections.values() for name in names}
    by_name = {option.name: option for option in reversed(known)}  # one that may stand alone, before its namesake
    first = [option for option in known if option.name not in named]
    shown = {"options": first, **{title: [by_name[name] for name in names] for title, names in sections.items()}}
    parts = [wrapped(_usage(command, known), width, "       "), *_description(options, width)]
    names = [option.name for option in known]
    for title, members in shown.items():
        members.sort(key=lambda each: not each.is_positional)
        if members:
            parts.append("\n".join([f"{title}:", *(_entry(option, names, width) for option in members)]))
    parts.append("\n".join(["every command:", *(_entry(option, [], width) for option in _EVERYWHERE)]))
    return "\n\n".join(parts)


def _usage(command: str, known: Sequence[Option]) -> str:
    words = [f"usage: torso {command}"]
    for option in sorted(known, key=lambda each: not each.is_positional):
        several = " ..." if option.takes_many else ""
        if option.is_positional:
            words.append(f"{option.metavar}{several}" if option.is_required else f"[{option.metavar}{several}]")
        elif option.is_required:
            words.append(f"{option.flag} {option.metavar}")
    return " ".join([*words, "[OPTION ...]"])


def _description(options: type[Any], width: int) -> list[str]:
    return [wrapped(" ".join(part.split()), width) for part in (inspect.getdoc(options) or "").split("\n\n")]


def _entry(option: Option, names: Collection[str], width: int) -> str:
    text, heading = in_flags(_text(option), names), _heading(option)
    if width < _NARROW:
        return f"  {heading}\n{textwrap.indent(wrapped(text, width - 6), ' ' * 6)}"
    body = textwrap.indent(wrapped(text, width - _COLUMN), " " * _COLUMN)
    if len(heading) + 4 > _COLUMN:
        return f"  {heading}\n{body}"
    return f"  {heading:<{_COLUMN - 2}}{body[_COLUMN:]}"


def _heading(option: Option) -> str:
    several = " ..." if option.takes_many and not option.is_repeated else ""
    if option.is_positional:
        return f"{option.metavar}{several}"
    if option.is_flag:
        return f"{option.flag}, --no-{option.flag[2:]}" if option.default else option.flag
    return f"{option.flag} {option.metavar}{several}"


def _text(option: Option) -> str:
    """An option's text, with its choices and its default; what None means is said as its default, or as none."""
    text, notes = option.text, []
    meaning = _NONE_MEANS.search(text)
    if meaning:
        text = text[: meaning.start()]
    if option.choices and not all(word in text for word in option.choices):
        notes.append(f"one of {', '.join(option.choices)}")
    if meaning and option.default not in (None, ()):
        notes.append(f"none: {meaning[1]}")
    default = option.default
    if option.is_required:
        notes.append("required")
    elif meaning and default in (None, ()):
        notes.append(f"default: {meaning[1]}")
    elif default not in (None, (), ""):
        notes.append(f"default: {written(default)}")
    text = text.rstrip(" .;:,")
    return f"{text} ({'; '.join(notes)})" if notes else text


def command_list(summaries: Mapping[str, str], width: int) -> str:
    """Format commands and their summaries, one below the other."""
    column = max(map(len, summaries)) + 4
    return "\n".join(wrapped(f"  {name:<{column - 2}}{text}", width, " " * column) for name, text in summaries.items())


def wrapped(text: str, width: int, indent: str = "") -> str:
    """Wrap a text, its later lines indented; words and options are never cut."""
    return textwrap.fill(text, width, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)
