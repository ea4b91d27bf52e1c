"""Entry point of ``torso``: command dispatch, error messages, exit codes.

| outcome | exit code |
|---|---|
| success; a server that was stopped by a signal | 0 |
| an unexpected error, which is a bug | 1 |
| a user error: arguments, inputs, files, an error status from a server | 2 |
| Ctrl-C; SIGTERM; a closed terminal (training saves first) | 130; 143; 129 |
| broken pipe: the reader of the output has gone | 141 |
"""

from __future__ import annotations

import difflib
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from torso import __version__
from torso.cli.imports import take_imports
from torso.errors import ConfigError, TorsoError
from torso.interrupts import Interrupted, interruptible

SUCCESS, INTERNAL_ERROR, USER_ERROR, BROKEN_PIPE = 0, 1, 2, 141


@dataclass(frozen=True)
class Command:
    """Subcommand, implemented by the module of its name (with ``_`` for ``-``), whose ``run(options)`` is called."""

    options: str
    """Name of the module's options dataclass."""
    summary: str
    """Line in ``torso --help``."""
    has_presets: bool = False
    """Whether the module also has ``presets(arguments)``, the defaults of options that are not given."""
    log: str = "%(message)s"
    """Format of log lines on stderr."""


COMMANDS = {
    "quickstart": Command(
        "QuickstartOptions", "the whole workflow in a minute: fit digits, train CartPole, serve both, send requests"
    ),
    "fit": Command("FitOptions", "fit a classifier or a regressor to a data set", has_presets=True),
    "train": Command("TrainOptions", "train an agent in an environment", has_presets=True),
    "evaluate": Command("EvaluateOptions", "evaluate a model: accuracy on test data, or returns of fresh episodes"),
    "inspect": Command("InspectOptions", "plot what a model has learned: weights, units, adversarial attacks, errors"),
    "export": Command("ExportOptions", "export a model to ONNX (model.onnx)"),
    "serve": Command("ServeOptions", "serve models over gRPC", log="%(asctime)s %(levelname)s %(message)s"),
    "classify": Command("ClassifyOptions", "classify images or arrays, with a local or a served model"),
    "act": Command("ActOptions", "choose actions for observations, with a local or a served model"),
    "bench-serve": Command(
        "BenchServeOptions", "load test a server: latency, throughput and goodput, as a table and a plot"
    ),
    "play": Command("PlayOptions", "play episodes, with a local or a served model"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (None: this process's) and return its exit code; errors are printed and not raised."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        with interruptible():
            code = _dispatch([word for word in words if word != "--debug"])
            sys.stdout.flush()
            return code
    except Interrupted as interrupted:
        _print_error("interrupted", debug=debug)
        return interrupted.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the flush at exit raises again
        return BROKEN_PIPE
    except TorsoError as error:
        _print_error(f"error: {error}", debug=debug)
        return USER_ERROR
    except OSError as error:  # of the system: a full disk, a file without read permission
        where = f"{error.filename}: " if error.filename is not None else ""
        _print_error(f"error: {where}{error.strerror or error}", debug=debug)
        return USER_ERROR
    except Exception as error:  # noqa: BLE001 - top level: an unexpected error still ends in one line
        hint = "" if debug else "; --debug shows the traceback"
        _print_error(f"error: unexpected {type(error).__name__}: {error}{hint}", debug=debug)
        return INTERNAL_ERROR


def _dispatch(words: list[str]) -> int:
    words, modules = take_imports(words)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help_text())
        return SUCCESS
    if words[0] == "--version":
        print(f"torso {__version__}")
        return SUCCESS
    name, *rest = words
    if name not in COMMANDS:
        raise ConfigError(_unknown_command_message(name))
    if modules and name == "serve":  # whose workers import them too
        if any(word.partition("=")[0] in ("--import-modules", "--import_modules") for word in rest):
            raise ConfigError(
                "--import must be given alone, got --import-modules too, which is the same; --import may be repeated"
            )
        rest += ["--import-modules", *modules]
    return _run(name, rest)


def _run(name: str, arguments: list[str]) -> int:
    from torso.cli.parsing import parse_options
    from torso.cli.terminal.output import log_to_stderr

    command, module = COMMANDS[name], import_module(f"torso.cli.commands.{name.replace('-', '_')}")
    presets = module.presets(arguments) if command.has_presets else None
    options = parse_options(getattr(module, command.options), arguments, name, presets)
    if options is None:
        return SUCCESS
    with log_to_stderr(command.log):
        return int(module.run(options))


def _unknown_command_message(name: str) -> str:
    if name.startswith("-"):
        return f"the first argument must be a command, got {name}; torso --help lists the commands"
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {close[0]}?" if close else "torso --help describes each"
    return f"command must be one of {', '.join(COMMANDS)}, got {name!r}; {hint}"


def _help_text() -> str:
    width = max(map(len, COMMANDS))
    rows = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: torso COMMAND ...",
            "",
            "One kind of network, a torso and a head, trained to label or to act, and served over gRPC.",
            "",
            "commands:",
            *rows,
            "",
            "torso COMMAND --help lists a command's options, with defaults and units.",
            "torso --version prints the version; --debug, anywhere, shows the traceback of an error.",
            "--import MODULE, anywhere, imports a module first: one that registers torsos or heads of your own.",
        ]
    )


def _print_error(line: str, *, debug: bool) -> None:
    """Print an error as one line on stderr, after the traceback with --debug."""
    if debug:
        traceback.print_exc()
    print(" ".join(line.split()), file=sys.stderr, flush=True)
