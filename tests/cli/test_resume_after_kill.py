"""Resume after SIGKILL: runs that are killed, also while writing checkpoints, end bit-identical to whole runs."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., "Running"]
SMALL = (
    "--hidden 32 --min-replay-size 300 --learn-period 4 --updates-per-phase 1 --batch-size 16 "
    "--target-update-period 100 --evaluation-episodes 2 --log-period 100 "
)
RUNS = {
    "cartpole": "train dqn --env CartPole-v1 --steps 4000 --replay-capacity 2000 --checkpoint-period 400 "
    "--evaluation-period 1000",
    "minatar": "train double --env MinAtar/Breakout-v1 --steps 2400 --replay-capacity 1000 --checkpoint-period 300 "
    "--evaluation-period 1000 --num-envs 3",
    # Frame stacks over lost lives, episode ends, priorities and 3-step windows, in a ring buffer that wraps.
    "atari": "train prioritized --env ALE/Breakout-v5 --steps 1000 --replay-capacity 400 --checkpoint-period 150 "
    "--evaluation-period 500 --num-envs 2 --n-step 3 --dueling --learn-period 16 --min-replay-size 200 --batch-size 8 "
    """--env-kwargs '{"protocol": "dqn2015", "max_episode_steps": 60}'""",
}


class Running:
    """Command that runs in its own process."""

    def __init__(self, forks: subprocess.Popen[str], log: Path, arguments: tuple[object, ...]) -> None:
        assert forks.stdin is not None
        assert forks.stdout is not None
        print(json.dumps([str(log), *map(str, arguments)]), file=forks.stdin, flush=True)
        self.pid = int(forks.stdout.readline())
        self._log, self._stdout = log, forks.stdout

    def is_alive(self) -> bool:
        """Return True; fail with the log if the process has ended."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            pytest.fail(self._log.read_text())
        return True

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        assert int(self._stdout.readline()) == -signal.SIGKILL, self._log.read_text()


@pytest.fixture(scope="module")
def forks() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("forks.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        yield process
        process.stdin.close()  # type: ignore[union-attr]


def step_of(out: Path) -> int:
    """Return the step of the latest checkpoint; 0 before the first."""
    path = out / "checkpoint" / "latest.json"
    return int(json.loads(path.read_bytes())["step"]) if path.exists() else 0


def is_writing(out: Path) -> bool:
    """Return whether a file of a checkpoint or model is being written at this moment."""
    return any(name.name.endswith(".tmp") for folder in ("checkpoint", "model") for name in (out / folder).glob(".*"))


def kill(running: Running, out: Path, moment: Callable[[], bool]) -> None:
    """Kill a run at a moment after it has made a checkpoint of its own."""
    before, end_s = step_of(out), time.monotonic() + 120
    while step_of(out) == before and running.is_alive():
        assert time.monotonic() < end_s, "it makes no checkpoint"
        time.sleep(0.005)
    while not moment() and running.is_alive():  # without a pause: a file is being written for milliseconds
        pass
    running.kill()
    assert step_of(out) > before


def results_of(out: Path) -> dict[str, Any]:
    """Return all results of a run that a resume must reproduce, as bytes or as plain data."""
    latest = json.loads((out / "checkpoint" / "latest.json").read_bytes())
    state = json.loads((out / "checkpoint" / latest["state"]).read_bytes())
    del state["tracker"]  # where logs end, one of which is the wall clock's
    segments = sorted(path.name for path in (out / "checkpoint").glob("rows-*"))
    files = ["progress.jsonl", "summary.json", "model/weights.safetensors", "best/weights.safetensors"]
    files += [f"checkpoint/{name}" for name in (latest["tensors"], *segments)]
    return {"state": state, "step": latest["step"], **{name: (out / name).read_bytes() for name in files}}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_killed_ends_as_one_that_is_not(
    forks: subprocess.Popen[str], run: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command, *arguments = shlex.split(RUNS[name])
    train = [command, arguments[0], *shlex.split(SMALL), *arguments[1:]]
    assert run(*train, "--seed", 7, "--out", whole).code == 0

    rng = random.Random(0)
    for writing in (True, False, True):
        running = Running(forks, tmp_path / "log", (*train, "--seed", 7, "--out", killed, "--resume"))
        if writing:
            kill(running, killed, lambda: is_writing(killed))
        else:
            delay_s = rng.uniform(0, 0.1)
            kill(running, killed, lambda s=delay_s: time.sleep(s) or True)  # type: ignore[misc]
    expected = results_of(whole)
    assert step_of(killed) < expected["step"], "it was to be killed before its end"
    ended = run("train", "--out", killed, "--resume")
    assert ended.code == 0, ended.err

    got = results_of(killed)
    assert got.keys() == expected.keys()
    for part, value in expected.items():
        assert got[part] == value, part
    assert len(expected) > 8
    assert not list(killed.rglob("*.tmp"))
