"""Rooms on the way of a queued request, counted by `benchmarks/request_rooms.py`: few, and none is entered twice."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "request_rooms.py"


def test_a_queued_classify_passes_few_rooms_and_never_returns_to_one() -> None:
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = re.search(r"^(\d+) rooms, \d+ crossings, (\d+) returns: (.*)$", done.stdout, flags=re.MULTILINE)
    assert found, done.stdout
    rooms = found[3].split(", ")
    assert {"serve/services", "serve/models", "serve/inference", "serve/backends"} <= set(rooms)
    assert len(rooms) == int(found[1]) <= 10
    assert int(found[2]) == 0, done.stdout
