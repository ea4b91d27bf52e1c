"""Learning-rate finder: the range test of Smith 2017, its suggestion and its plot."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from torso.agents.optim.devices import torch_threads
from torso.agents.supervised.config import ClassifierConfig, RegressorConfig
from torso.agents.supervised.fit_runs import examples_of, spec_of
from torso.agents.supervised.fitting import Fitting, resolve_fit
from torso.envs import Splits
from torso.errors import ConfigError
from torso.files import make_directory
from torso.insight.pictures.canvas import BLUE, GREEN, log_scale_y, new_panels, save_with_legends

_SMOOTHING = 0.9  # decay of the exponential average of losses: over about ten steps
_LAG = round(_SMOOTHING / (1 - _SMOOTHING))  # steps, the mean age of what is averaged
_DIVERGENCE_FACTOR = 4.0  # times the best smoothed loss, where the sweep ends
_MIN_DECREASE = 0.05  # share of the first losses by which the loss must fall
_DESCENT_START = 0.1  # share of the whole fall at which the descent starts; before it, slopes are noise
_MIN_STEPS = 30


@dataclass(frozen=True, kw_only=True)
class RangeTest:
    """Result of a range test: its curves, all [n] float64, and the suggested learning rate.

    ``losses`` are as measured, each before the step of its learning rate; ``smoothed`` is their exponential average
    with Adam's correction of its start; n is the number of steps before the loss diverged.
    """

    learning_rates: NDArray[np.float64]
    losses: NDArray[np.float64]
    smoothed: NDArray[np.float64]
    suggestion: float


def range_test(
    update: Callable[[float], float], *, low: float = 1e-6, high: float = 10.0, num_steps: int = 100
) -> RangeTest:
    """Raise the learning rate from ``low`` to ``high`` by the same factor a step and record the loss (Smith 2017, 3.3).

    ``update(learning_rate)`` takes one gradient step on the next minibatch and returns its loss before the step; what
    it learns stays learnt, so give it a learner made for the test. The test ends early once the smoothed loss exceeds
    four times its best, or a loss is not finite.

    The suggestion is where the smoothed loss falls steepest against the logarithm of the learning rate, before its
    minimum, after a tenth of its fall for good, and after the first tenth of the steps, which are few to average; less
    the nine steps by which the average lags behind at most. It is a good constant rate; the peak of a one-cycle may be
    a few times larger.

    Raises:
        ConfigError: bounds or a number of steps that cannot work, or no learning rate lowers the loss by a twentieth.
    """
    if not 0 < low < high < math.inf:
        raise ConfigError(f"low and high must be learning rates with 0 < low < high, got {low} and {high}")
    if num_steps < _MIN_STEPS:
        raise ConfigError(f"num_steps must be at least {_MIN_STEPS} to tell a descent from noise, got {num_steps}")
    learning_rates = np.geomspace(low, high, num_steps)
    losses: list[float] = []
    smoothed: list[float] = []
    average = 0.0
    for learning_rate in learning_rates:
        loss = float(update(float(learning_rate)))
        if not math.isfinite(loss):
            break
        average = _SMOOTHING * average + (1 - _SMOOTHING) * loss
        losses.append(loss)
        smoothed.append(average / (1 - _SMOOTHING ** len(losses)))
        if smoothed[-1] > _DIVERGENCE_FACTOR * min(smoothed):
            break
    rates, recorded, smooth = learning_rates[: len(losses)], np.array(losses), np.array(smoothed)
    suggestion = _steepest_descent(rates, recorded, smooth, first=max(num_steps // 10, _LAG))
    return RangeTest(learning_rates=rates, losses=recorded, smoothed=smooth, suggestion=suggestion)


def _steepest_descent(
    rates: NDArray[np.float64], losses: NDArray[np.float64], smoothed: NDArray[np.float64], first: int
) -> float:
    best = int(smoothed[first:].argmin()) + first if len(smoothed) > first else 0
    if best <= first or smoothed[best] > (1 - _MIN_DECREASE) * losses[:first].mean():
        raise ConfigError(_no_descent_message(rates, losses))
    start = losses[:first].mean()
    before_start = np.flatnonzero(smoothed[:best] > start - _DESCENT_START * (start - smoothed[best]))
    first = max(first, int(before_start.max(initial=0)))
    slope = np.gradient(smoothed)[first : best + 1]  # a step is the same stretch of the logarithm everywhere
    return float(rates[first + int(slope.argmin()) - _LAG])


def _no_descent_message(rates: NDArray[np.float64], losses: NDArray[np.float64]) -> str:
    advice = (
        "check that the inputs are standardised and that the network is not fitted already, or sweep other rates, more "
        "steps or larger minibatches"
    )
    if not len(losses):
        return f"the loss is not finite before the first step; {advice}"
    return (
        f"no learning rate from {rates[0]:.3g} to {rates[-1]:.3g} lowers the loss, which goes from {losses[0]:.4g} to "
        f"{losses[-1]:.4g}; {advice}"
    )


def plot_range_test(found: RangeTest, path: Path) -> Path:
    """Plot a learning-rate range test: the smoothed loss by learning rate, the suggestion marked. Returns the path."""
    figure, (axes,) = new_panels("learning-rate range test", panels=1)
    axes.plot(found.learning_rates, found.losses, color=BLUE, alpha=0.25)
    axes.plot(found.learning_rates, found.smoothed, color=BLUE, label="smoothed")
    axes.axvline(found.suggestion, color=GREEN, linestyle="--", label=f"steepest descent: {found.suggestion:.2g}")
    axes.set_xscale("log")
    if (found.losses > 0).all() and (found.smoothed > 0).all():  # a perceptron's may be 0
        log_scale_y(axes)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    make_directory(path.parent)
    return save_with_legends(figure, path)


def range_test_of(
    data: Splits, config: ClassifierConfig | RegressorConfig, *, seed: int, num_steps: int = 100
) -> RangeTest:
    """Run a range test (Smith 2017) on fresh weights and the training data, at the configuration's other settings.

    Raises:
        ConfigError: settings that cannot work, or a loss that no learning rate lowers.
    """
    spec = spec_of(data.train, config)
    constant = replace(config, schedule="constant", max_epochs=num_steps)  # every step is an epoch at the least
    train = examples_of(data.train, spec.input, config)
    fitting = Fitting(constant, spec, train, None, seed=seed, resolved=resolve_fit(constant, spec))
    with torch_threads(fitting.resolved["num_threads"]):
        return range_test(fitting.step_at, num_steps=num_steps)
