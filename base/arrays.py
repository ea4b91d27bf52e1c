"""Array type aliases that several folders use."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Readout: TypeAlias = NDArray[np.float32]  # a model's output, [B, K]
ArrayState: TypeAlias = tuple[Array, ...]  # a recurrent model's, between calls; () for the others
