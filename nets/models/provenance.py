"""Model provenance: what made a model, when, with which versions and seed."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from typing import Any

import numpy
import torch

import torso


def versions() -> dict[str, str]:
    """Return the versions of the packages that determine a run's bits."""
    return {
        "torso": torso.__version__,
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "python": platform.python_version(),
    }


def make_provenance(made_by: str, *, seed: int | None, **what: Any) -> dict[str, Any]:
    """Return a model's provenance as plain data; ``what`` holds JSON values such as env_id, dataset or total_steps."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"made_by": made_by, "made_at": now, "seed": seed, "versions": versions(), **what}
