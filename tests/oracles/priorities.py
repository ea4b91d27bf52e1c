"""Oracle for prioritized replay: a dictionary of priorities, by (row, env)."""

from __future__ import annotations

from collections.abc import Iterable


class NaivePriorities:
    """Priorities of Schaul et al. 2016, section 3.3: new transitions have the largest priority so far."""

    def __init__(self, exponent: float) -> None:
        self.exponent = exponent
        self.largest = 1.0
        self.p: dict[tuple[int, int], float] = {}

    def see(self, starts: Iterable[tuple[int, int]]) -> None:
        """Set the transitions that the replay holds now."""
        self.p = {place: self.p.get(place, self.largest) for place in starts}

    def update(self, places: Iterable[tuple[int, int]], errors: Iterable[float]) -> None:
        """Update priorities by TD errors, one after another; transitions that were overwritten are ignored."""
        for place, error in zip(places, errors, strict=True):
            if place in self.p:
                self.p[place] = (abs(error) + 1e-6) ** self.exponent
                self.largest = max(self.largest, self.p[place])
