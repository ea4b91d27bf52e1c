"""The README as it is printed: its Python blocks are run, one after another, and its commands are checked.

So are the commands of docs/course.md.
"""

from __future__ import annotations

import re
import shlex
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
