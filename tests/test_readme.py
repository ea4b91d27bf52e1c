"""The README as it is printed: its Python blocks are run, one after another, and its commands are checked.

So are the commands of docs/course.md.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from torso.cli.entry import COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COURSE = (ROOT / "docs" / "course.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCKS if name == language]


def run_python(code: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which the first block ran, and what it printed."""
    folder = tmp_path_factory.mktemp("readme")
    return folder, run_python(blocks("python")[0], folder)


@pytest.fixture
def address(trained: tuple[Path, str]) -> Iterator[str]:
    folder, _ = trained
    port_file = folder / "port"
    command = [sys.executable, "-m", "torso.cli", "serve", "digits", "cartpole", "--port", "0"]
    server = subprocess.Popen([*command, "--port-file", str(port_file)], cwd=folder, stderr=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + 60
        while not port_file.exists():
            assert server.poll() is None, f"the server ended with {server.returncode}"
            assert time.monotonic() < deadline_s, "the server was not ready in time"
            time.sleep(0.05)
        yield f"127.0.0.1:{port_file.read_text().strip()}"
    finally:
        server.terminate()
        server.wait(timeout=30)


def test_quick_start_learns_what_it_says(trained: tuple[Path, str]) -> None:
    accuracy, mean_return = (float(line) for line in trained[1].split())
    assert accuracy >= 0.97
    assert mean_return >= 475


def test_quick_start_is_short() -> None:
    code = [line for line in blocks("python")[0].splitlines() if line.strip()]
    assert len(code) < 15


def test_client_asks_what_was_trained(trained: tuple[Path, str], address: str) -> None:
    _, client = blocks("python")[:2]
    assert "127.0.0.1:8500" in client
    first, second = run_python(client.replace("127.0.0.1:8500", address), trained[0]).splitlines()
    assert re.fullmatch(r"\(\('\d', '\d'\),\) \[\[[\d.,e -]+\]\]", first)
    assert re.fullmatch(r"\[[01]\]", second)


def test_the_block_of_commands_runs_from_top_to_bottom(tmp_path: Path) -> None:
    [block] = [text for text in blocks("console") if "torso quickstart" in text]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    commands = tmp_path / "bin"
    commands.mkdir()
    torso = commands / "torso"
    torso.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m torso.cli "$@"\n')
    torso.chmod(0o755)
    folder = tmp_path / "clean"
    folder.mkdir()
    done = subprocess.run(
        ["bash", "-ec", f"trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{block.replace('8500', str(port))}"],
        cwd=folder,
        env={**os.environ, "PATH": f"{commands}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "runs" / "quickstart" / "digits" / "inspection").is_dir()
    assert (folder / "runs" / "cartpole" / "best").is_dir()


def test_the_figures_of_the_course_are_the_measured_ones() -> None:
    measured = json.loads((ROOT / "benchmarks" / "results" / "course.json").read_text())["test_accuracy"]
    caption, held = "", 0
    for line in COURSE.splitlines():
        if found := re.match(r"\| `torso fit ?([^`]*)` \| test accuracy \|", line):
            caption = found[1]
        elif found := re.match(r"\| `(--[^`]+)`[^|]*\| ([\d.]+)%(?: to ([\d.]+)%)?", line):
            wanted = sorted(f"{caption} {found[1]}".split())
            [accuracies] = [each for command, each in measured.items() if sorted(command.split()) == wanted]
            assert (found[2], found[3] or found[2]) == (f"{100 * accuracies[0]:.1f}", f"{100 * accuracies[-1]:.1f}")
            held += 1
    assert held == len(measured)


def test_commands_are_ones_that_exist() -> None:
    """Every ``torso ...`` line names a command, with options that its help lists."""
    texts = blocks("console") + re.findall(r"^```console\n(.*?)^```", COURSE, flags=re.DOTALL | re.MULTILINE)
    lines = [line for text in texts for line in text.splitlines() if line.startswith("torso ")]
    assert lines
    for command in {line.split()[1] for line in lines}:
        assert command in COMMANDS
        mine = [shlex.split(line, comments=True) for line in lines if line.split()[1] == command]
        options = {word.partition("=")[0] for words in mine for word in words if word.startswith("--")}
        shown = subprocess.run(
            [sys.executable, "-m", "torso.cli", command, "--help"], capture_output=True, text=True, timeout=120
        ).stdout
        assert all(option in shown for option in options), f"{command}: {options} are not all in its help"


def test_nothing_is_left_to_fill_in() -> None:
    assert "@" not in re.sub(r"```.*?```", "", README, flags=re.DOTALL)


def test_links_lead_somewhere() -> None:
    for text, folder in ((README, ROOT), (COURSE, ROOT / "docs")):
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            if not target.startswith("http"):
                assert (folder / target).exists(), target
