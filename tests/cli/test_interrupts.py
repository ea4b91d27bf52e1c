"""Signal handling: Ctrl-C and SIGTERM, with and without state to save."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from torso.agents.runs.run_directory import RunDirectory
from torso.agents.runs.trackers import read_jsonl
from torso.interrupts import Interrupted, interruptible, stoppable

Start = Callable[..., subprocess.Popen[str]]
TRAIN = shlex.split(
    "train dqn --env CartPole-v1 --num-envs 1 --hidden 16 --min-replay-size 100 --learn-period 4 --updates-per-phase 1 "
    "--batch-size 8 --evaluation-period 1000 --evaluation-episodes 2 --log-period 100"
)


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end_s = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end_s, "nothing happened"
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_what_has_nothing_to_save(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with interruptible(), pytest.raises(Interrupted) as caught:
        signal.raise_signal(number)
    assert caught.value.exit_code == 128 + number
    assert signal.getsignal(number) is before


def test_the_first_signal_is_a_request_and_the_second_an_end(capfd: pytest.CaptureFixture[str]) -> None:
    with stoppable() as request:
        assert (request.requested(), request.exit_code) == (False, 0)
        signal.raise_signal(signal.SIGTERM)
        assert (request.requested(), request.exit_code) == (True, 143)
        with pytest.raises(Interrupted) as caught:
            signal.raise_signal(signal.SIGINT)
    assert caught.value.exit_code == 130
    assert capfd.readouterr().err == "\nstopping: saving first; press Ctrl-C again to stop at once\n"


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup and a shell's & do
    try:
        with interruptible(), stoppable() as request:
            signal.raise_signal(signal.SIGINT)
        assert not request.requested()
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_saves_and_a_resume_completes(start: Start, run: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "a run"  # a space, which the advice must quote
    training = start(*TRAIN, "--steps", 1_000_000, "--out", out)
    until(lambda: (out / "progress.jsonl").exists() and bool(read_jsonl(out / "progress.jsonl")), training)
    training.send_signal(signal.SIGINT)
    stdout, stderr = training.communicate()
    assert (training.returncode, stdout) == (130, "")
    *_, notice, advice = stderr.splitlines()
    assert notice == "stopping: saving first; press Ctrl-C again to stop at once"
    steps = json.loads((out / "checkpoint" / "latest.json").read_bytes())["step"]
    assert steps >= 100
    assert (
        advice
        == f"stopped at step {steps:,} of 1,000,000, saved in {out}; to resume: torso train --out '{out}' --resume"
    )

    ended = run("train", "--out", out, "--resume", "--steps", steps + 200, "--json")
    assert ended.code == 0, ended.err
    summary = json.loads(ended.out)
    assert summary["total_steps"] == steps + 200
    assert summary["cuts"] == [steps, steps + 200]
    assert RunDirectory.open(out).read_summary() == {k: v for k, v in summary.items() if k not in ("run", "model")}
    logged = [line["step"] for line in read_jsonl(out / "progress.jsonl")]
    assert logged == sorted(logged)
    assert logged[0] == 100


def test_sigterm_saves_a_fit_and_a_resume_completes(start: Start, run: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    fitting = start(
        "fit", "--hidden", 16, "--max-epochs", 100_000, "--patience", "None", "--schedule", "constant", "--out", out
    )
    until(lambda: (out / "progress.jsonl").exists() and bool(read_jsonl(out / "progress.jsonl")), fitting)
    fitting.send_signal(signal.SIGTERM)
    stdout, stderr = fitting.communicate()
    assert (fitting.returncode, stdout) == (143, "")
    epochs = len(read_jsonl(out / "progress.jsonl"))
    assert stderr.splitlines()[-1] == (
        f"stopped at epoch {epochs} of 100,000, saved in {out}; to resume: torso fit --out {out} --resume"
    )
    ended = run("fit", "--out", out, "--resume", "--max-epochs", epochs + 1, "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["epochs"] == epochs + 1


def test_ctrl_c_before_there_is_anything_to_save(start: Start, models: Any) -> None:
    playing = start("play", "--model", models.cartpole, "--episodes", 100_000)
    assert playing.stdout is not None
    assert playing.stdout.readline().startswith("episode 1: return ")
    os.kill(playing.pid, signal.SIGINT)
    _, stderr = playing.communicate()
    assert (playing.returncode, stderr) == (130, "interrupted\n")


def test_a_signal_before_there_is_anything_to_save_ends_it_at_once() -> None:
    with stoppable(saves_from_start=False) as request, pytest.raises(Interrupted):
        os.kill(os.getpid(), signal.SIGINT)
    assert not request.requested()
    with stoppable(saves_from_start=False) as request:
        assert not request.requested()  # after the first step
        os.kill(os.getpid(), signal.SIGINT)
        assert request.requested()
