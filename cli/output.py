"""Results on stdout, lines for people or one JSON object; everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any


def result(figures: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print a command's result."""
    print(json.dumps(figures, ensure_ascii=False) if as_json else text, flush=True)


def say(text: str) -> None:
    """Tell what is not a result."""
    print(text, file=sys.stderr, flush=True)
