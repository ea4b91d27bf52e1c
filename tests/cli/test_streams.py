"""Streams that are closed, and readers that leave early: no traceback, whatever the shell did."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SMALL = "train dqn --env CartPole-v1 --steps 60 --hidden 8 --min-replay-size 50 --evaluation-episodes 1 --num-envs 1"


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which ``torso`` stands for this torso."""
    torso = f"{sys.executable} -m torso"
    line = f"set -o pipefail; {command.replace('torso', torso, 1)}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=False, env=environment
    )


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_a_training_without_a_stream_is_the_same(tmp_path: Path, closed: str) -> None:
    ended = shell(f"torso {SMALL} --out run {closed}", tmp_path)
    assert ended.returncode == 0
    assert "Traceback" not in ended.stderr
    assert ("mean return" in ended.stdout) == (">&- 2" not in closed and closed != ">&-")
    assert (tmp_path / "run" / "summary.json").exists()
    assert b"dqn on CartPole" not in b"".join(
        path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()
    )  # what would be printed is in no file


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("torso export --nope 2>&-", 2),
        ("torso nope >&- 2>&-", 2),
        ("torso help >&-", 0),
        ("torso help | head -1", 141),
        ("torso export --nope 2>&1 | true", 141),
        ("torso export --nope --debug 2>&1 | true", 141),
        (f"torso {SMALL} --out run 2>&1 | true", 141),
    ],
)
def test_nothing_ends_in_a_traceback(tmp_path: Path, command: str, code: int) -> None:
    slow_reader = command.replace("| true", "| (exec <&-; true)")
    ended = shell(slow_reader, tmp_path)
    if "| head" in command and ended.returncode == 0:
        code = 0  # all of it was in the pipe before head ended
    assert (ended.returncode, ended.stderr) == (code, "")
    assert "Traceback" not in ended.stdout
