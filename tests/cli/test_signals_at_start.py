"""Ctrl-C while a command starts: it ends quietly with 130, whatever it imports at that moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

TRAIN = ("train", "dqn", "--env", "CartPole-v1", "--steps", "100000000", "--out", "run")


def interrupted(words: tuple[str, ...], folder: Path, after_s: float, number: int) -> tuple[int, str, str]:
    """Start a command, send it a signal a while after it has begun to run, and return how it ended."""
    started = folder / "started"
    code = (
        "import sys, torso.interrupts as i; begin = i.exit_on_signals\n"
        "def begun(): begin(); open('started', 'w').close()\n"
        "i.exit_on_signals = begun; sys.argv[0] = 'torso'; from torso.cli import main; sys.exit(main())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    with process:
        end_s = time.monotonic() + 120
        while not started.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end_s, "the command has not begun"
            time.sleep(0.002)
        time.sleep(after_s)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.4, 0.8, 1.5])
def test_ctrl_c_while_it_imports(tmp_path: Path, after_s: float) -> None:
    code, out, err = interrupted(TRAIN, tmp_path, after_s, signal.SIGINT)
    assert (code, out) == (130, "")
    assert "Traceback" not in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_other_signals_have_their_own_codes(tmp_path: Path, number: int, code: int) -> None:
    assert interrupted(TRAIN, tmp_path, 0.1, number) == (code, "", "interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == ["started"]


NEVER_STEPS = """
import time, gymnasium as gym, numpy as np
class Slow(gym.Env):
    made = 0
    observation_space = gym.spaces.Box(-1, 1, (2,)); action_space = gym.spaces.Discrete(2)
    def __init__(self):
        Slow.made += 1
        self.is_trained = Slow.made > 1
    def reset(self, *, seed=None, options=None):
        if self.is_trained:
            open("resetting", "w").close()
            time.sleep(60)
        return np.zeros(2, np.float32), {}
    def step(self, action): return np.zeros(2, np.float32), 0.0, False, False, {}
gym.register("Slow-v0", Slow)
"""


def test_ctrl_c_before_the_first_step_leaves_nothing(tmp_path: Path, start: Any) -> None:
    """While the envs are reset for the first time the run directory is there already."""
    (tmp_path / "slow.py").write_text(NEVER_STEPS)
    words = ("train", "dqn", "--env", "slow:Slow-v0", "--out", "runs/a/b")
    process = start(*words, cwd=tmp_path)
    end_s = time.monotonic() + 120
    while not (tmp_path / "resetting").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end_s
        time.sleep(0.01)
    assert (tmp_path / "runs" / "a" / "b" / "config.json").exists()
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert process.stderr.read() == "interrupted\n"
    assert not (tmp_path / "runs").exists()
