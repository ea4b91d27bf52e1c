"""Settings of an inspection, and the picture type that it returns."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torso.errors import ConfigError

EPSILONS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2)


@dataclass(frozen=True, kw_only=True)
class InspectionSettings:
    """Settings of an inspection: units, attack sizes and counts."""

    units: tuple[str, ...] = ()
    """LAYER:INDEX; empty: those that tell inputs apart most."""
    epsilons: tuple[float, ...] = EPSILONS
    """Perturbations, as shares of the input's range."""
    num_units: int = 6
    """Units of a layer."""
    num_top: int = 8
    """Inputs that excite a unit most."""
    seed: int = 0
    """Seed of the noise that gradient ascent starts from."""

    def __post_init__(self) -> None:
        values = ", ".join(map(str, self.epsilons))
        if not self.epsilons or not all(0 <= epsilon <= 1 and math.isfinite(epsilon) for epsilon in self.epsilons):
            raise ConfigError(
                f"epsilons must be shares of the input's range, numbers in [0, 1], got {values or 'none'}"
            )
        object.__setattr__(self, "epsilons", tuple(sorted({0.0, *self.epsilons})))
        for name in ("num_units", "num_top"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class InspectionPicture:
    """A picture that was drawn, and the figures that it shows, as JSON-serialisable data."""

    name: str
    path: Path
    figures: dict[str, Any] = field(default_factory=dict)
