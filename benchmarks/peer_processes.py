"""Sides of a comparison, each a process of its own."""

from __future__ import annotations

import json
import subprocess
from typing import Any


def ask(command: list[str]) -> dict[str, Any]:
    """Run one side and read the JSON object that it prints last."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result
