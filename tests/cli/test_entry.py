"""Entry point of ``torso``: commands, help, version, exit codes."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from torso import __version__
from torso.cli.commands.export import ExportOptions
from torso.cli.entry import COMMANDS

Run = Callable[..., Any]


def test_version(run: Run) -> None:
    ended = run("--version")
    assert (ended.code, ended.out, ended.err) == (0, f"torso {__version__}\n", "")


def test_the_installed_script_runs() -> None:
    script = Path(sys.executable).with_name("torso")
    ended = subprocess.run([script, "--version"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"torso {__version__}\n", "")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_command_on_a_line(run: Run, arguments: list[str]) -> None:
    ended = run(*arguments)
    assert (ended.code, ended.err) == (0, "")
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.summary)}$", ended.out, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_defaults(run: Run, name: str) -> None:
    ended = run(name, "--help")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"usage: torso {name} ")
    assert "(default: " in ended.out
    assert import_module(f"torso.cli.commands.{name.replace('-', '_')}").__doc__.startswith(f"``torso {name}``")


def test_an_unknown_command_gets_the_nearest(run: Run) -> None:
    assert run("trian").error.startswith("command must be one of quickstart, fit, train, ")
    assert run("trian").error.endswith(", got 'trian'; did you mean train?")
    assert run("xyzzy").error.endswith("; torso --help describes each")
    assert run("--env", "CartPole-v1").error == (
        "the first argument must be a command, got --env; torso --help lists the commands"
    )


@pytest.mark.parametrize("arguments", [["--debug", "trian"], ["trian", "--debug"]])
def test_debug_anywhere_shows_the_traceback(run: Run, arguments: list[str]) -> None:
    ended = run(*arguments)
    assert ended.code == 2
    assert ended.err.startswith("Traceback (most recent call last):\n")
    assert ended.err.splitlines()[-1].startswith("error: command must be one of quickstart, ")


BOOM = """
import gymnasium as gym, numpy as np
class Boom(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (2,)); action_space = gym.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None): return np.zeros(2, np.float32), {}
    def step(self, action): raise RuntimeError("boom\\nand more")
gym.register("Boom-v0", Boom)
"""


def test_what_an_env_raises_is_the_envs_error(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "boom_for_cli.py").write_text(BOOM)
    monkeypatch.syspath_prepend(tmp_path)
    error = run("train", "dqn", "--env", "boom_for_cli:Boom-v0", "--out", tmp_path / "run").error
    assert "Boom-v0" in error
    assert "RuntimeError" in error
    assert "boom" in error
    assert not (tmp_path / "run").exists()


def test_what_nobody_foresaw_ends_in_a_line_and_exit_code_1(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def boom(*args: object, **kwargs: object) -> None:
        raise RuntimeError("boom\nand more")

    monkeypatch.setattr("torso.cli.commands.train.train_run", boom)
    train = ("train", "dqn", "--env", "CartPole-v1", "--out", tmp_path / "run")
    ended = run(*train)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == "error: unexpected RuntimeError: boom and more; --debug shows the traceback\n"
    ended = run(*train, "--resume", "--debug")
    assert ended.code == 1
    assert 'raise RuntimeError("boom' in ended.err


def test_a_reader_that_went_away_is_no_matter(start: Run) -> None:
    process = start("--help", bufsize=0)
    process.stdout.close()
    assert process.wait() == 141
    assert process.stderr.read() == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_that_cannot_be_written_is_an_error(start: Run) -> None:
    with Path("/dev/full").open("w") as full:
        process = start("--version", stdout=full)
        assert process.wait() == 2
    assert process.stderr.read() == "error: No space left on device\n"


LIGHT = """
import sys
from torso.cli import main
for arguments in (["--version"], ["--help"], ["classify", "--help"], ["serve", "--help"], ["play", "--help"], ["nope"],
                  ["act", "[0, 0]", "--model", "m", "--address", "127.0.0.1:1"]):
    main(arguments)
    heavy = {"torch", "onnxruntime", "gymnasium", "sklearn", "matplotlib"} & set(sys.modules)
    assert not heavy, (arguments, heavy)
"""


def test_help_and_clients_import_nothing_heavy() -> None:
    ended = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("error: no answer from 127.0.0.1:1")


def test_what_is_logged_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log records of a command, such as the warning before a replay of 20 GB, are printed to stderr."""

    def logging_run(options: ExportOptions) -> int:
        logging.getLogger("torso.anything").info("about to do %s", "much")
        logging.getLogger("torso.anything").debug("a detail")
        return 0

    monkeypatch.setattr("torso.cli.commands.export.run", logging_run)
    ended = run("export", "model")
    assert (ended.code, ended.err) == (0, "about to do much\n")
    assert logging.getLogger("torso").level == logging.NOTSET
