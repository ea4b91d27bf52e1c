"""For all tests: the oracles of ``tests/oracles`` are importable by name, and Hypothesis measures no time."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import settings

sys.path.append(str(Path(__file__).parent / "oracles"))
settings.register_profile("torso", deadline=None)
settings.load_profile("torso")
