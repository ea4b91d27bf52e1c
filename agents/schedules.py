"""Schedules as pure functions of the step, so that a resume has nothing to restore."""

from __future__ import annotations


def linear(step: int, *, start: float, end: float, num_steps: int) -> float:
    """``start`` at step 0, ``end`` from ``num_steps`` on, a straight line between."""
    if step >= num_steps:
        return end
    return start + (end - start) * (step / num_steps)


def multiples_passed(before: int, after: int, period: int) -> int:
    """How many multiples of ``period`` lie in (before, after]: what a count of steps that grew by several owes."""
    return after // period - before // period
