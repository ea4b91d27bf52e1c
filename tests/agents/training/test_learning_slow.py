"""Learning results of the README, over all their seeds: minutes, so `make test-slow` runs it."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from torso.agents import ClassifierConfig, World, fit_run, preset, train_run
from torso.envs import load_dataset

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_cartpole_is_solved_on_five_of_five_seeds(tmp_path: Path) -> None:
    known = preset(None, "CartPole-v1")
    world = World(env="CartPole-v1")
    for seed in range(5):
        out = tmp_path / str(seed)
        trained = train_run(world, known.config, total_steps=known.total_steps, seed=seed, out=out)
        assert trained.summary is not None
        assert trained.summary["score"]["mean_return"] >= 475, f"seed {seed}"


def test_digits_are_read_to_985_per_mille(tmp_path: Path) -> None:
    accuracies = []
    for seed in range(5):
        out = tmp_path / str(seed)
        fitted = fit_run(load_dataset("digits"), ClassifierConfig(net="cnn"), seed=seed, out=out)
        assert fitted.summary is not None
        accuracies.append(fitted.summary["test_accuracy"])
    assert statistics.median(accuracies) >= 0.985
