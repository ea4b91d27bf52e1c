"""A tick of training, its update included, passes few rooms."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "tick_rooms.py"


def test_a_learning_tick_passes_few_rooms() -> None:
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = re.search(r"^(\d+) rooms, \d+ crossings, \d+ returns: (.*)$", done.stdout, flags=re.MULTILINE)
    assert found, done.stdout
    rooms = found[2].split(", ")
    assert {"agents/acting", "agents/replay", "agents/value_based", "agents/optim"} <= set(rooms)
    assert len(rooms) == int(found[1]) <= 10
