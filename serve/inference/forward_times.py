"""How long a model's forwards take: measured when it was loaded, corrected as it goes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

WEIGHT = 0.2  # of the newest forward
MAX_STEP = 4.0  # a forward that took longer than so many times what was expected counts as that: one stall says little


class LatencyEstimate:
    """Expected seconds of a forward, by its rows.

    ``measured`` maps rows to seconds; between its sizes lie straight lines, above the largest seconds grow as rows do.
    All of it is stretched by how slow the latest forwards were. Nothing measured: nothing is expected, 0 seconds.
    """

    def __init__(self, measured: Mapping[int, float] | None = None) -> None:
        points = sorted((measured or {}).items())
        self._rows = [rows for rows, _ in points]
        self._seconds = [seconds for _, seconds in points]
        self._slowness = 1.0

    def seconds(self, rows: int) -> float:
        """Return what a forward of so many rows is expected to take."""
        return self._slowness * self._measured(rows)

    def observe(self, rows: int, seconds: float) -> None:
        """Learn from a forward that has ended."""
        expected = self._measured(rows)
        if expected > 0:
            slowness = min(seconds / expected, MAX_STEP * self._slowness)
            self._slowness += WEIGHT * (slowness - self._slowness)

    def _measured(self, rows: int) -> float:
        if not self._rows:
            return 0.0
        above = bisect_left(self._rows, rows)
        if above == 0:
            return self._seconds[0]
        low, low_s = self._rows[above - 1], self._seconds[above - 1]
        if above == len(self._rows):
            return low_s * rows / low
        return low_s + (self._seconds[above] - low_s) * (rows - low) / (self._rows[above] - low)
