"""Parse arguments into frozen dataclasses; an argument error is one line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from typing import Any, TypeVar

from torso.cli.arguments.help_page import help_page, terminal_width
from torso.cli.arguments.hints import did_you_mean
from torso.cli.arguments.options import Option, Place, default_of, options_of
from torso.cli.arguments.values import expected, read_value
from torso.errors import ConfigError

T = TypeVar("T")
HELP = ("-h", "--help")
_Values = dict[Place, Any]
UNSET: Any = MISSING  # the value, in defaults, of an option that must be given


def parse_options(options: type[T], arguments: Sequence[str], command: str, defaults: T | None = None) -> T | None:
    """Parse a command's arguments; print the help and return None for ``--help``.

    ``defaults`` are the values of options that are not given, and the defaults that the help shows.

    Raises:
        ConfigError: arguments that are unknown, missing or not of the option's type.
        TorsoError: ``options`` itself rejects the values.
    """
    known = options_of(options, defaults)
    if any(word in HELP for word in arguments):
        print(help_page(command, options, known, terminal_width()))
        return None
    try:
        values = _read(known, arguments, command)
    except ConfigError as error:
        raise ConfigError(f"{error}; torso {command} --help lists the options") from None
    return _built(options, values, defaults)


def option_value(arguments: Sequence[str], option: str) -> str | None:
    """Return the value of ``option`` in unparsed arguments; the last occurrence counts, None without one."""
    return next(reversed(option_values(arguments, option)), None)


def option_values(arguments: Sequence[str], option: str) -> list[str | None]:
    """Return the values of all occurrences of ``option`` in unparsed arguments; None for one without a value."""
    found = []
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name.replace("_", "-") == option:
            found.append(value if equals else next(iter(arguments[index + 1 : index + 2]), None))
    return found


def _read(known: Sequence[Option], arguments: Sequence[str], command: str) -> _Values:
    """Read the values that are given."""
    values: _Values = {}
    standing, unknown = [], []
    by_flag = {option.flag: option for option in known if not option.is_positional}
    words = _Words(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if not _is_option(word):
            standing.append(word)
            continue
        flag = name.replace("_", "-")
        option = by_flag.get(flag)
        negated = by_flag.get("--" + flag.removeprefix("--no-")) if flag.startswith("--no-") else None
        if option is not None:
            given = _value(option, [value] if equals else words.values_of(option))
            values[option.place] = (*values.get(option.place, ()), *given) if option.is_repeated else given
        elif negated is not None and negated.is_flag and not equals:
            values[negated.place] = False
        else:
            unknown.append((name, [word, *words.rest()]))
    if unknown:
        raise ConfigError(_unknown_options(unknown, known))
    values.update(_positional_values([option for option in known if option.is_positional], standing))
    missing = [option for option in known if option.is_required and option.place not in values]
    if missing:
        names = ", ".join(each.metavar if each.is_positional else f"{each.flag} {each.metavar}" for each in missing)
        raise ConfigError(f"missing from torso {command}: {names}")
    return values


class _Words:
    """Words of a command line, taken one by one."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = list(words)

    def __iter__(self) -> Iterator[str]:
        while self._words:
            yield self._words.pop(0)

    def values_of(self, option: Option) -> list[str]:
        """Take the words that follow an option and are values of it."""
        if option.takes_many and not option.is_repeated:
            return self.rest()
        if option.is_flag and not (option.takes_none and self._next_is_bool()):
            return ["true"]
        return [self._words.pop(0)] if self._words and not _is_option(self._words[0]) else []

    def rest(self) -> list[str]:
        """Take all words up to the next option."""
        taken = []
        while self._words and not _is_option(self._words[0]):
            taken.append(self._words.pop(0))
        return taken

    def _next_is_bool(self) -> bool:
        return bool(self._words) and self._words[0].lower() in ("true", "false", "none")


def _is_option(word: str) -> bool:
    """Whether a word is an option's name; a negative number, and - alone, are values."""
    return word.startswith("--") or (word.startswith("-") and word[1:2].isalpha())


def _value(option: Option, words: list[str]) -> Any:
    if option.takes_many:
        if option.is_repeated and not words:
            raise ConfigError(f"{option.flag} must be followed by {expected(option)}, got nothing")
        if option.takes_none and [word.lower() for word in words] == ["none"]:
            return None
        numbers = int in option.types or float in option.types
        words = [part for word in words for part in (word.split(",") if numbers else [word]) if part]
        return tuple(read_value(option, word) for word in words)
    if not words:
        raise ConfigError(f"{option.flag} must be followed by {expected(option)}, got nothing")
    return read_value(option, words[0])


def _positional_values(options: Sequence[Option], words: list[str]) -> Iterator[tuple[Place, Any]]:
    """Pair the words that stand alone with the options that take them."""
    for option in options:
        if words:
            taken = words if option.takes_many else words[:1]
            yield option.place, _value(option, taken)
            words = words[len(taken) :]
    if words:
        raise ConfigError(f"unrecognized arguments: {', '.join(words)}")


def _unknown_options(unknown: Sequence[tuple[str, list[str]]], known: Sequence[Option]) -> str:
    meant = dict.fromkeys(hint for name, _ in unknown if (hint := did_you_mean(name, known)))
    words = ", ".join(word for _, words in unknown for word in words)
    return f"unrecognized options: {words}" + (f"; perhaps you meant: {', '.join(meant)}" if meant else "")


def _built(options: type[T], values: Mapping[Place, Any], defaults: T | None) -> T:
    """Build the options, and the settings that they hold, of the values that are given and the defaults."""
    changed = {name: value for (settings, name), value in values.items() if settings is None}
    for field in fields(options):  # type: ignore[arg-type]
        own = {name: value for (settings, name), value in values.items() if settings == field.name}
        if own:
            changed[field.name] = replace(default_of(field, defaults), **own)
    return options(**changed) if defaults is None else replace(defaults, **changed)  # type: ignore[type-var]
