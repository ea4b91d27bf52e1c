"""Learning-rate range test, on losses whose steepest descent is known and on networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest
import torch
from torch import nn

from torso.agents.optim.gradient_step import GradientStep
from torso.agents.optim.optimizers import make_optimizer
from torso.agents.supervised.lr_finder import range_test
from torso.errors import ConfigError


def replaying(losses: Iterable[float], seen: list[float] | None = None) -> Callable[[float], float]:
    """Return an update that replays these losses, and records the learning rates."""
    remaining: Iterator[float] = iter(losses)

    def update(learning_rate: float) -> float:
        if seen is not None:
            seen.append(learning_rate)
        return next(remaining)

    return update


def descending(learning_rate: float, steepest: float) -> float:
    """A loss that falls from 2 to 0.2, steepest against the logarithm at ``steepest``."""
    return 2 - 1.8 / (1 + (steepest / learning_rate) ** 2)


@pytest.mark.parametrize("steepest", [1e-3, 0.02, 0.5])
@pytest.mark.parametrize("num_steps", [100, 300])
def test_the_suggestion_is_where_the_loss_falls_steepest(steepest: float, num_steps: int) -> None:
    """Or a little below: what the average lags by is taken back in full, and a short descent lags less."""
    result = range_test(lambda rate: descending(rate, steepest), num_steps=num_steps)
    assert steepest / 3 < result.suggestion < steepest * 1.1
    assert len(result.losses) == num_steps


@pytest.mark.parametrize("seed", range(5))
def test_a_dip_before_the_descent_is_noise(seed: int) -> None:
    """Minibatches differ: of a few, the average may fall for a moment, steeper than it ever does by learning."""
    rates = np.geomspace(1e-6, 10.0, 100)
    losses = np.array([descending(rate, 0.02) for rate in rates]) + np.random.default_rng(seed).normal(0, 0.1, 100)
    losses[30:34] -= 1.5
    assert 0.02 / 5 < range_test(replaying(losses)).suggestion < 0.02 * 2


def test_the_rates_rise_by_one_factor() -> None:
    seen: list[float] = []
    losses = [descending(rate, 0.01) for rate in np.geomspace(1e-4, 1.0, 41)]
    result = range_test(replaying(losses, seen), low=1e-4, high=1.0, num_steps=41)
    np.testing.assert_allclose(seen, [10 ** (-4 + step / 10) for step in range(41)])
    np.testing.assert_array_equal(result.learning_rates, seen)
    np.testing.assert_array_equal(result.losses, losses)
    assert result.suggestion in seen


def test_the_loss_is_smoothed_without_a_bias_to_its_start() -> None:
    losses = np.random.default_rng(0).uniform(1, 2, size=60) * np.linspace(1, 0.1, 60)
    smoothed = range_test(replaying(losses), num_steps=60).smoothed
    for step in (0, 1, 7, 59):
        weights = 0.9 ** np.arange(step, -1, -1)
        assert smoothed[step] == pytest.approx((weights * losses[: step + 1]).sum() / weights.sum())


def test_it_ends_when_the_smoothed_loss_is_four_times_its_best() -> None:
    seen: list[float] = []
    result = range_test(replaying([2.0] * 20 + [1.0] * 40 + [50.0] * 40, seen))
    # The average has come down to about 1.01: 3.01 of 49 is gained within one step of keeping nine tenths.
    assert len(seen) == len(result.losses) == len(result.smoothed) == len(result.learning_rates) == 61
    assert result.smoothed[-1] > 4 * result.smoothed.min()


@pytest.mark.parametrize("end", [math.nan, math.inf])
def test_it_ends_before_a_loss_that_is_not_finite(end: float) -> None:
    seen: list[float] = []
    result = range_test(replaying([2.0] * 20 + [1.0] * 40 + [end] * 40, seen))
    assert len(seen) == 61
    assert len(result.losses) == 60
    assert np.isfinite(result.smoothed).all()


@pytest.mark.parametrize(
    "losses",
    [
        [2.0] * 100,
        list(np.linspace(2, 3, 100)),
        list(np.linspace(2, 1.95, 100)),
        list(np.random.default_rng(0).normal(2.0, 0.1, size=100)),
        [2.0] * 5 + [math.nan] * 95,
        [2.0] * 9 + [0.1] + [30.0] * 90,
    ],
)
def test_a_loss_that_never_falls_is_an_error(losses: list[float]) -> None:
    with pytest.raises(ConfigError, match=r"no learning rate from 1e-06 to .* lowers the loss, which goes from 2\.?"):
        range_test(replaying(losses))


def test_a_loss_that_is_not_finite_from_the_start() -> None:
    with pytest.raises(ConfigError, match="not finite before the first step; check that the inputs"):
        range_test(replaying([math.nan]))


@pytest.mark.parametrize("curvature", [0.1, 0.7, 30.0])
def test_gradient_descent_in_a_bowl_is_stable_below_two_over_its_curvature(curvature: float) -> None:
    network = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(network.weight, 3.0)
    step = GradientStep(network, make_optimizer(network, "sgd"))

    def update(learning_rate: float) -> float:
        step.learning_rate = learning_rate
        return step(curvature / 2 * network.weight.square().sum()).item()

    result = range_test(update, low=1e-5, high=1e4)
    assert 0.01 / curvature < result.suggestion < 2 / curvature
    assert 2 / curvature < result.learning_rates[-1] < 1e4


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_a_network_learns_best_near_the_suggestion(optimizer: str) -> None:
    """Three classes of noisy points: 100 steps at the suggested rate beat those at a hundredth and a hundredfold."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (600,), generator=draws)
    inputs = torch.eye(3)[labels].repeat(1, 3) + 0.5 * torch.randn(600, 9, generator=draws)

    def learner() -> Callable[[float], float]:
        network = nn.Sequential(nn.Linear(9, 20), nn.ReLU(), nn.Linear(20, 3))
        weights = torch.Generator().manual_seed(1)
        for parameter in network.parameters():
            nn.init.uniform_(parameter, -0.3, 0.3, generator=weights)
        step = GradientStep(network, make_optimizer(network, optimizer))
        batches = torch.Generator().manual_seed(2)

        def update(learning_rate: float) -> float:
            step.learning_rate = learning_rate
            rows = torch.randint(600, (32,), generator=batches)
            return step(nn.functional.cross_entropy(network(inputs[rows]), labels[rows])).item()

        return update

    def loss_after(learning_rate: float) -> float:
        update = learner()
        losses = [update(learning_rate) for _ in range(100)]
        return float(np.mean(losses[-20:]))

    suggestion = range_test(learner()).suggestion
    at_suggestion = loss_after(suggestion)
    assert at_suggestion < 0.5 * loss_after(suggestion / 100)
    assert at_suggestion < 0.5 * loss_after(suggestion * 100)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"low": 0.0}, "0 < low < high, got 0.0 and 10.0"),
        ({"low": 1.0, "high": 0.1}, "0 < low < high"),
        ({"high": math.inf}, "0 < low < high"),
        ({"num_steps": 10}, "num_steps must be at least 30"),
    ],
)
def test_sweeps_that_cannot_work(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        range_test(lambda rate: 1.0, **settings)  # type: ignore[arg-type]
