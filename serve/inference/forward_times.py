"""Latency estimate of a model's forward by batch size, measured at load and updated online."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

WEIGHT = 0.2  # of the newest forward in the moving average
MAX_STEP = 4.0  # a forward that took longer than so many times its estimate counts as that: one stall says little


class LatencyEstimate:
    """Estimate of a forward's seconds by its rows.

    ``measured`` maps rows to seconds. Between its sizes the estimate is interpolated linearly; above the largest it is
    proportional to the rows. All of it is scaled by a moving average of the latest forwards' slowness, observed over
    measured seconds. Without measurements the estimate is 0 seconds.
    """

    def __init__(self, measured: Mapping[int, float] | None = None) -> None:
        points = sorted((measured or {}).items())
        self._rows = [rows for rows, _ in points]
        self._seconds = [seconds for _, seconds in points]
        self._slowness = 1.0

    def seconds(self, rows: int) -> float:
        """Return the estimated seconds of a forward of so many rows."""
        return self._slowness * self._measured(rows)

    def observe(self, rows: int, seconds: float) -> None:
        """Update the estimate with a forward's seconds."""
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
