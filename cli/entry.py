"""``torso``: which command, and what becomes of its errors and of signals.

| how it ended | exit code |
|---|---|
| done; a server was told to stop | 0 |
| a bug | 1 |
| a mistake: arguments, inputs, files, a server's answer that is an error | 2 |
| Ctrl-C; SIGTERM; a closed terminal (training saves first) | 130; 143; 129 |
| nobody reads the output any more | 141 |
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
from torso.cli.interrupts import Interrupted, interruptible
from torso.errors import ConfigError, TorsoError

DONE, BUG, MISTAKE, BROKEN_PIPE = 0, 1, 2, 141


@dataclass(frozen=True)
class Command:
    """A command. The module of its name has the dataclass ``options``, and ``run(options)`` gives the exit code.

    A ``-`` in the name is a ``_`` in the module's. With ``has_presets`` the module also has ``presets(arguments)``: the
    options where no argument says else. ``log`` is how lines of the log look on stderr.
    """

    options: str
    summary: str
    has_presets: bool = False
    log: str = "%(message)s"


COMMANDS = {
    "quickstart": Command(
        "QuickstartOptions", "the whole road in a minute: fit digits, train CartPole, serve and ask both"
    ),
    "fit": Command("FitOptions", "fit a classifier to a data set", has_presets=True),
    "train": Command("TrainOptions", "train an agent in an environment", has_presets=True),
    "evaluate": Command("EvaluateOptions", "score a model: accuracy on test data, or the returns of fresh episodes"),
    "inspect": Command("InspectOptions", "draw what a model has learned: weights, units, attacks, mistakes"),
    "export": Command("ExportOptions", "write a model's model.onnx"),
    "serve": Command("ServeOptions", "serve models over gRPC", log="%(asctime)s %(levelname)s %(message)s"),
    "classify": Command("ClassifyOptions", "label images or arrays, with a model here or one that is served"),
    "act": Command("ActOptions", "choose actions for observations, with a model here or one that is served"),
    "bench-serve": Command("BenchServeOptions", "load a server: latency, throughput and goodput, as a table and a PNG"),
    "play": Command("PlayOptions", "play episodes, with a model here or one that is served"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (None: this process's) and return its exit code. Nothing that goes wrong is raised."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        with interruptible():
            code = _dispatch([word for word in words if word != "--debug"])
            sys.stdout.flush()
            return code
    except Interrupted as interrupted:
        _say("interrupted", debug=debug)
        return interrupted.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's last flush would complain
        return BROKEN_PIPE
    except TorsoError as error:
        _say(f"error: {error}", debug=debug)
        return MISTAKE
    except OSError as error:  # the machine's: a full disk, a file that may not be read
        where = f"{error.filename}: " if error.filename is not None else ""
        _say(f"error: {where}{error.strerror or error}", debug=debug)
        return MISTAKE
    except Exception as error:  # noqa: BLE001 - the last stop: what nobody foresaw still ends in a line
        hint = "" if debug else "; --debug shows where it comes from"
        _say(f"error: unexpected {type(error).__name__}: {error}{hint}", debug=debug)
        return BUG


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return DONE
    if words[0] == "--version":
        print(f"torso {__version__}")
        return DONE
    name, *rest = words
    if name not in COMMANDS:
        raise ConfigError(_unknown(name))
    return _run(name, rest)


def _run(name: str, arguments: list[str]) -> int:
    from torso.cli.output import log_on_stderr
    from torso.cli.parsing import parse_options

    command, module = COMMANDS[name], import_module(f"torso.cli.commands.{name.replace('-', '_')}")
    presets = module.presets(arguments) if command.has_presets else None
    options = parse_options(getattr(module, command.options), arguments, name, presets)
    if options is None:
        return DONE
    with log_on_stderr(command.log):
        return int(module.run(options))


def _unknown(name: str) -> str:
    if name.startswith("-"):
        return f"expected a command first, got {name}; torso --help lists them"
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {close[0]}?" if close else "torso --help lists what each does"
    return f"unknown command {name!r}, expected one of {', '.join(COMMANDS)}; {hint}"


def _help() -> str:
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
        ]
    )


def _say(line: str, *, debug: bool) -> None:
    """The one line on stderr, after the traceback where it is asked for."""
    if debug:
        traceback.print_exc()
    print(" ".join(line.split()), file=sys.stderr, flush=True)
