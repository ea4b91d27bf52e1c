"""Counts of what a training and a fit build: networks and vector envs once, and no more than they need."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from torso.agents import DQN, ClassifierConfig, World, fit_run, preset, train_run
from torso.envs import Dataset, Splits, load_dataset
from torso.nets import Network


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts of networks and vector envs that were built."""
    counts: Counter[str] = Counter()

    def counted(owner: type, name: str, what: str) -> None:
        original = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            counts[what] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    counted(Network, "__init__", "networks")
    counted(World, "make", "envs")
    return counts


def test_a_training_builds_its_network_once(built: Counter[str], tmp_path: Path) -> None:
    """Envs: one that tells the spaces, those that are learnt in, an evaluation's, the score's."""
    DQN("CartPole-v1").learn(10, out=tmp_path / "agent")
    assert built == {"networks": 1, "envs": 4}
    built.clear()
    train_run(
        World(env="CartPole-v1"), preset(None, "CartPole-v1").config, total_steps=10, seed=0, out=tmp_path / "run"
    )
    assert built == {"networks": 1, "envs": 4}
    built.clear()
    DQN("CartPole-v1").learn(10)
    assert built == {"networks": 1, "envs": 3}


def test_a_fit_builds_a_network_that_learns_and_one_that_is_best(built: Counter[str], tmp_path: Path) -> None:
    """And one without weights, so that one that cannot be built is refused early, and one asked for convolutions."""

    def first(part: Dataset, rows: int) -> Dataset:
        return replace(part, inputs=part.inputs[:rows], labels=part.labels[:rows])

    digits = load_dataset("digits")
    few = Splits(train=first(digits.train, 28), validation=first(digits.validation, 10), test=first(digits.test, 10))
    fit_run(few, ClassifierConfig(net="cnn", memory_format="contiguous"), seed=0, out=tmp_path / "fit")
    assert built == {"networks": 4}
