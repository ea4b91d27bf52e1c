"""``docs/training.md``: the driver it shows is the driver, and the agent it shows learns."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def test_the_driver_that_is_shown_is_the_driver() -> None:
    [(path, code)] = re.findall(r"<!-- from (\S+) -->\n```python\n(.*?)```", TEXT, re.DOTALL)
    assert code in (ROOT / path).read_text(encoding="utf-8")


def test_the_agent_that_is_shown_learns(tmp_path: Path) -> None:
    [code] = re.findall(r"```python\n# dqn.py\n(.*?)```", TEXT, re.DOTALL)
    [output] = re.findall(r"```text\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "dqn.py").write_text(code)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "dqn.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, output), done.stderr


def test_the_interval_that_is_shown_is_one() -> None:
    [code] = re.findall(r"```python\n(import numpy as np\nfrom torso.insight.*?)```", TEXT, re.DOTALL)
    names: dict[str, float] = {}
    exec(code, names)
    assert names["low"] < names["high"]
