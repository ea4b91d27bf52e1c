"""Schedules of the learning rate and other settings: pure functions of the step, so a resume restores nothing."""

from __future__ import annotations

import math

from torso.errors import ConfigError


def linear(step: int, *, start: float, end: float, num_steps: int) -> float:
    """Interpolate linearly from ``start`` at step 0 to ``end`` at ``num_steps``, and ``end`` afterwards."""
    if step >= num_steps:
        return end
    return start + (end - start) * (step / num_steps)


def multiples_passed(before: int, after: int, period: int) -> int:
    """Count the multiples of ``period`` in (before, after]: periods that ended while the step count grew by several."""
    return after // period - before // period


SCHEDULES = ("constant", "step", "cosine", "one-cycle")


def scheduled_learning_rate(schedule: str, peak: float, step: int, total_steps: int) -> float:
    """Return the learning rate of step ``step`` (from 0) out of ``total_steps``.

    constant; step (He et al. 2016): a tenth of the peak from half of the steps on, a hundredth from three quarters on;
    cosine (Loshchilov & Hutter 2017): from the peak down to 0; one-cycle (Smith & Topin 2018, with cosine flanks): up
    from peak/25 over the first three tenths, then down to 0.
    """
    if schedule not in SCHEDULES:
        raise ConfigError(f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")
    done = min(step / max(total_steps, 1), 1.0)
    rise = 0.3
    if schedule == "constant":
        return peak
    if schedule == "step":
        return peak * (1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01)
    if schedule == "one-cycle" and done < rise:
        return peak * (1 / 25 + (1 - 1 / 25) * 0.5 * (1 - math.cos(math.pi * done / rise)))
    if schedule == "one-cycle":
        done = (done - rise) / (1 - rise)
    return peak * 0.5 * (1 + math.cos(math.pi * done))
