"""Output on a real terminal: errors of one plain line, and help in the terminal's width."""

from __future__ import annotations

import pytest
from terminals import on_terminal

from torso.cli.entry import COMMANDS

WRONG = [
    (["fit", "--nope"], "unrecognized options: --nope"),
    (["fit", "--seed"], "--seed must be followed by a whole number"),
    (["fit", "--seed", "x"], "--seed must be a whole number such as 1000 or 1e3, got 'x'"),
    (
        ["train", "--env", "CartPole-v1", "--steps", "1.5"],
        "--steps must be a whole number such as 1000 or 1e3, got '1.5'",
    ),
    (["evaluate"], "missing from torso evaluate: MODEL"),
    (["nope"], "command must be one of "),
    (["help", "nope"], "command must be one of "),
    (["--nope"], "the first argument must be a command, got --nope"),
]


@pytest.mark.parametrize(("words", "message"), WRONG)
def test_an_error_is_one_plain_line(words: list[str], message: str) -> None:
    code, shown = on_terminal(*words)
    assert code == 2
    assert shown.startswith(f"error: {message}")
    assert shown.count("\n") == 1
    assert shown[:-1].isprintable()  # no escape codes
    assert not set("│╭╮╰╯─") & set(shown)


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"FORCE_COLOR": "1"}])
@pytest.mark.parametrize("columns", [40, 200])
def test_the_line_is_the_same_on_every_terminal(variables: dict[str, str], columns: int) -> None:
    code, shown = on_terminal("fit", "--lr", "0.1", columns=columns, **variables)
    assert code == 2
    assert shown == (
        "error: unrecognized options: --lr, 0.1; perhaps you meant: --learning-rate; torso fit --help lists the "
        "options\n"
    )


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_help_fits_the_terminal(columns: int) -> None:
    code, shown = on_terminal("help", "serve", columns=columns)
    assert code == 0
    lines = shown.splitlines()
    assert max(map(len, lines)) <= columns
    assert max(map(len, lines)) > columns - 10
    assert "\x1b" not in shown


def test_torso_alone_shows_the_commands() -> None:
    code, shown = on_terminal(columns=40)
    assert code == 0
    assert max(map(len, shown.splitlines())) <= 40
    assert all(f"  {name} " in shown for name in COMMANDS)
