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
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from torso import __version__
from torso.cli.arguments.flags import in_flags
from torso.cli.arguments.help_page import command_list, terminal_width, wrapped
from torso.cli.arguments.options import options_of
from torso.cli.imports import modules_of, take_imports, trust
from torso.cli.parsing import option_value, option_values, parse_options
from torso.cli.terminal.output import log_to_stderr
from torso.cli.terminal.streams import drop_broken_streams, open_standard_streams
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
    "quickstart": Command("QuickstartOptions", "the whole workflow in a minute: fit, train, serve, send requests"),
    "fit": Command("FitOptions", "fit a classifier or a regressor to a data set", has_presets=True),
    "train": Command("TrainOptions", "train an agent in an environment", has_presets=True),
    "evaluate": Command("EvaluateOptions", "score a model: accuracy on test data, or returns of new episodes"),
    "inspect": Command("InspectOptions", "plot what a model has learned: weights, units, attacks, errors"),
    "plot": Command("PlotOptions", "plot learning curves of several runs, with their spread"),
    "report": Command("ReportOptions", "report scores of several runs: tables, intervals, profiles"),
    "export": Command("ExportOptions", "export a model to ONNX (model.onnx)"),
    "serve": Command("ServeOptions", "serve models over gRPC", log="%(asctime)s %(levelname)s %(message)s"),
    "classify": Command("ClassifyOptions", "classify images or arrays, with a local or a served model"),
    "act": Command("ActOptions", "choose actions for observations, with a local or a served model"),
    "bench-serve": Command("BenchServeOptions", "load test a server: latency, throughput and goodput"),
    "play": Command("PlayOptions", "play episodes, with a local or a served model"),
    "playground": Command("PlaygroundOptions", "draw for a classifier in the browser, and watch its network"),
}


class _RefusedError(TorsoError):
    """A torso error of a command, whose message names flags."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (None: this process's) and return its exit code; errors are printed and not raised."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    open_standard_streams()
    try:
        code = _run_and_report(words, is_process=arguments is None)
        sys.stderr.flush()
        return code
    except BrokenPipeError:
        drop_broken_streams()
        return BROKEN_PIPE


def _run_and_report(words: list[str], *, is_process: bool) -> int:
    debug = "--debug" in words
    try:
        with interruptible(exits_while_importing=is_process):
            code = _dispatch([word for word in words if word != "--debug"])
            sys.stdout.flush()
            return code
    except Interrupted as interrupted:
        _print_error("interrupted", debug=debug)
        return interrupted.exit_code
    except BrokenPipeError:
        raise
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
    if len(words) > 1 and words[0] == "help":
        words = [*words[1:], "--help"]
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help_text(terminal_width()))
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
    command, module = COMMANDS[name], import_module(f"torso.cli.commands.{name.replace('-', '_')}")
    options_class = getattr(module, command.options)
    trust(modules_of([option_value(arguments, "--env"), *option_values(arguments, "--wrapper")]))
    try:
        presets = module.presets(arguments) if command.has_presets else None
        options_class = options_class if presets is None else type(presets)  # whose settings are the algorithm's
        options = parse_options(options_class, arguments, name, presets)
        if options is None:
            return SUCCESS
        with log_to_stderr(command.log):
            return int(module.run(options))
    except TorsoError as error:
        names = [option.name for option in options_of(options_class)]
        raise _RefusedError(in_flags(str(error), names)) from error


def _unknown_command_message(name: str) -> str:
    if name.startswith("-"):
        return f"the first argument must be a command, got {name}; torso --help lists the commands"
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {close[0]}?" if close else "torso --help describes each"
    return f"command must be one of {', '.join(COMMANDS)}, got {name!r}; {hint}"


def _help_text(width: int) -> str:
    intro = "One kind of network, a torso and a head, trained to label or to act, and served over gRPC."
    outro = [
        "torso help COMMAND, or torso COMMAND --help, lists a command's options, with defaults and units.",
        "torso --version prints the version; --debug, anywhere, shows the traceback of an error.",
        "--import MODULE, anywhere, imports a module first: one that registers torsos, heads or envs of your own.",
    ]
    commands = command_list({name: command.summary for name, command in COMMANDS.items()}, width)
    return "\n".join(
        [
            "usage: torso COMMAND ...",
            "",
            wrapped(intro, width),
            "",
            "commands:",
            commands,
            "",
            *(wrapped(line, width) for line in outro),
        ]
    )


def _print_error(line: str, *, debug: bool) -> None:
    """Print an error as one line on stderr, after the traceback with --debug."""
    if debug:
        traceback.print_exc()
    print(" ".join(line.split()), file=sys.stderr, flush=True)
