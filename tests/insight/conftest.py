"""Pixels of drawn pictures, read back from their PNG files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from numpy.typing import NDArray

Array = NDArray[Any]


@pytest.fixture(scope="session")
def pixels() -> Callable[[Path], Array]:
    """Read a picture's pixels, [H, W, 3]; it must be larger than 200 pixels both ways."""

    def read(path: Path) -> Array:
        found: Array = imread(path)[..., :3]
        assert min(found.shape[:2]) > 200
        return found

    return read


@pytest.fixture(scope="session")
def share_of() -> Callable[..., float]:
    """Compute the share of a picture's pixels that have a colour."""

    def share(picture: Array, colour: str, tolerance: float = 0.02) -> float:
        return float((np.abs(picture - np.array(to_rgb(colour))) < tolerance).all(axis=2).mean())

    return share
