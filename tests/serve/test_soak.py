"""Short run of `make soak`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_everything_at_once(workers: int) -> None:
    command = [sys.executable, str(SOAK), "--requests", "6000", "--swap-s", "1", "--workers", str(workers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    for what in ("good", "bad", "cancelled", "answered by an odd version", "answered by an even version"):
        assert f" {what}\n" in done.stdout
    assert "clients that vanished" in done.stdout
