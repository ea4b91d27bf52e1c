"""Training that knows how long its evaluations took."""

from __future__ import annotations

import time

from torso.agents import Training
from torso.agents.runs.events import Evaluated


class TimedTraining(Training):
    """A training whose evaluations' seconds are known, so that they can be left out of its speed."""

    evaluation_s = 0.0

    def _evaluate(self) -> Evaluated:
        began_s = time.perf_counter()
        evaluated = super()._evaluate()
        self.evaluation_s += time.perf_counter() - began_s
        return evaluated
