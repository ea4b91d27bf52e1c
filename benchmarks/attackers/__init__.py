"""Attackers of `benchmarks/siege.py`, each in a process of its own. Begin with `process.py`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "tests" / "oracles"))  # bare_http2
