"""A training run that is killed again and again, in the middle of checkpoints too, ends as one that never was."""

from __future__ import annotations

import json
import random
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Start = Callable[..., subprocess.Popen[str]]
TRAIN = shlex.split(
    "train dqn --env CartPole-v1 --steps 10000 --seed 7 --hidden 32 --min-replay-size 300 --learn-period 4 "
    "--updates-per-phase 1 --batch-size 16 --replay-capacity 5000 --target-update-period 100 "
    "--evaluation-period 1000 --evaluation-episodes 2 --log-period 300 --checkpoint-period 500"
)


def step_of(out: Path) -> int:
    """The step of the latest checkpoint; 0 before the first."""
    path = out / "checkpoint" / "latest.json"
    return int(json.loads(path.read_bytes())["step"]) if path.exists() else 0


def is_writing(out: Path) -> bool:
    """Whether a file of a checkpoint or model is half-way onto the disk at this moment."""
    return any(name.name.endswith(".tmp") for folder in ("checkpoint", "model") for name in (out / folder).glob(".*"))


def kill(process: subprocess.Popen[str], out: Path, moment: Callable[[], bool]) -> None:
    """Kill a run at a moment after it has made a checkpoint of its own."""
    before, end_s = step_of(out), time.monotonic() + 120
    while step_of(out) == before:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end_s, "it makes no checkpoint"
        time.sleep(0.005)
    while not moment():  # without a pause: a file is being written for milliseconds
        assert process.poll() is None, process.communicate()
    process.kill()
    process.communicate()
    assert process.returncode == -9
    assert step_of(out) > before


def learnt(out: Path) -> dict[str, Any]:
    """All that a run leaves behind and a resume must reproduce, as bytes or as plain data."""
    latest = json.loads((out / "checkpoint" / "latest.json").read_bytes())
    state = json.loads((out / "checkpoint" / latest["state"]).read_bytes())
    del state["tracker"]  # where logs end, one of which is the wall clock's
    segments = sorted(path.name for path in (out / "checkpoint").glob("rows-*"))
    files = ["progress.jsonl", "summary.json", "model/weights.safetensors", "best/weights.safetensors"]
    files += [f"checkpoint/{name}" for name in (latest["tensors"], *segments)]
    return {"state": state, "step": latest["step"], **{name: (out / name).read_bytes() for name in files}}


def test_a_run_that_is_killed_ends_as_one_that_is_not(start: Start, run: Callable[..., Any], tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(*TRAIN, "--out", whole).code == 0

    rng = random.Random(0)
    for writing in (True, False, True, False):
        process = start(*TRAIN, "--out", killed, "--resume")
        if writing:
            kill(process, killed, lambda: is_writing(killed))
        else:
            delay_s = rng.uniform(0, 0.2)
            kill(process, killed, lambda s=delay_s: time.sleep(s) or True)  # type: ignore[misc]
    assert step_of(killed) < 10_000, "it was to be killed before its end"
    ended = run("train", "--out", killed, "--resume")
    assert ended.code == 0, ended.err

    expected, came = learnt(whole), learnt(killed)
    assert came.keys() == expected.keys()
    for name, value in expected.items():
        assert came[name] == value, name
    assert len(expected) > 10
    assert not list(killed.rglob("*.tmp"))
