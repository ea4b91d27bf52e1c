"""Tests of ``torso quickstart``: run to its end, and interrupted while its server runs."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from torso.envs import load_dataset
from torso.nets import Predictor, onnx_path

TIMEOUT_S = 240


def server_of(process: subprocess.Popen[str]) -> psutil.Process:
    """Wait for the server process that a quickstart starts, and return it."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline_s:
        assert process.poll() is None, process.communicate()
        for child in psutil.Process(process.pid).children():
            with suppress(psutil.NoSuchProcess):  # one that ends in between
                if "serve" in child.cmdline():
                    return child
        time.sleep(0.01)
    raise AssertionError("no server was started")


def test_it_walks_the_whole_road(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start("quickstart", "--plain", "--out", out)
    server = server_of(process)
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, stderr
    assert not server.is_running()
    words = " ".join(stdout.split())
    accuracy = float(re.findall(r"([\d.]+)% of 353 test scans correct", words)[0])
    assert accuracy >= 97.5
    assert len(re.findall(r"first +\d +[\d.]+%", words)) == 4
    assert len(re.findall(r"second +\d +[\d.]+%", words)) == 4
    assert float(re.findall(r"return ([\d.]+) ± [\d.]+ over 20 fresh episodes", words)[0]) >= 475
    assert "20 of 20 returns equal" in words
    assert "100% the same" in words
    for name in ("digits", "cartpole"):
        assert (out / name / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
        assert str(out / name / "best") in stdout
        assert onnx_path(out / name / "best") is not None
        Predictor.load(out / name)
    scan = load_dataset("digits").test
    digits = Predictor.load(out / "digits")
    assert (digits.prepare_images([(out / "scan.png").read_bytes()])[0] == scan.inputs[0]).all()
    score = json.loads((out / "cartpole" / "summary.json").read_text())["score"]
    assert f"return {score['mean_return']:.1f}" in words


@pytest.mark.slow
def test_an_interruption_leaves_nothing_running(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    process = start("quickstart", "--out", tmp_path / "run")
    server = server_of(process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.strip().splitlines()[-1] == "interrupted"
    assert not server.is_running()


def test_a_directory_with_something_in_it_is_left_alone(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    assert "give another --out" in run("quickstart", "--out", tmp_path).error
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
