"""Trainer of the plane: what a snapshot shows is what the network computes, and what it learns."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from plane_trainers import NO_POINTS, TOO_FAST, trainer_of

from torso.errors import ConfigError
from torso.nets.modules.label_heads import LogitsHead, SigmoidHead
from torso.playground.plane.plane_settings import PlaneSettings
from torso.playground.plane.plane_trainer import MAP_SIDE, SURFACE_SIDE, PlaneTrainer, plane_grid
from torso.playground.plane.points import (
    EXTENT,
    PlanePoints,
    ready_set,
)


def layers_of(weights: NDArray[np.float32], widths: list[int]) -> list[NDArray[np.float64]]:
    """Split a snapshot's weights into [units, inputs + 1] a layer."""
    found, start = [], 0
    for inputs, units in pairwise(widths):
        size = units * (inputs + 1)
        found.append(weights[start : start + size].reshape(units, inputs + 1).astype(np.float64))
        start += size
    assert start == len(weights)
    return found


def test_a_snapshot_is_what_its_weights_compute() -> None:
    """The surface and the maps again, by numpy, from the weights of the snapshot."""
    trainer = trainer_of("three-spirals", hidden=(5, 3), activation="tanh")
    trainer.advance(200)
    snapshot = trainer.snapshot(looked=(1, 2))
    first, second, output = layers_of(snapshot.weights, [2, 5, 3, 3])
    for side in (MAP_SIDE, SURFACE_SIDE):
        centres = (np.arange(side) + 0.5) * 2 * EXTENT / side - EXTENT
        x, y = np.meshgrid(centres, centres[::-1])  # the first row is the top of the plane
        values = np.stack([x, y], axis=-1)
        h1 = np.tanh(values @ first[:, :2].T + first[:, 2])
        h2 = np.tanh(h1 @ second[:, :5].T + second[:, 5])
        if side == MAP_SIDE:
            expected = np.concatenate([h1, h2], axis=-1).transpose(2, 0, 1)
            found = (snapshot.maps / 127.5 - 1) * snapshot.scales[:, None, None]
            np.testing.assert_allclose(found, expected, atol=0.005)
    logits = h2 @ output[:, :3].T + output[:, 3]
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities = (odds / odds.sum(axis=-1, keepdims=True)).transpose(2, 0, 1)
    np.testing.assert_allclose(snapshot.surface / 255, probabilities, atol=0.0025)
    assert snapshot.looked is not None
    np.testing.assert_allclose((snapshot.looked / 127.5 - 1) * snapshot.looked_scale, h2[:, :, 2], atol=0.005)
    assert len(snapshot.packed()) == 3 * 3600 + 8 * 400 + 3600 + 4 * 8 + 4 * len(snapshot.weights)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_surface_is_the_network_s_own_probability(num_classes: int) -> None:
    trainer = trainer_of("circles" if num_classes == 2 else "three-spirals", regularisation="dropout", strength=0.3)
    trainer.advance(50)
    surface = trainer.snapshot().surface
    with torch.no_grad():
        network = trainer.network.eval()
        readout = network.head.readout(network(plane_grid(SURFACE_SIDE))[0])
    expected = readout.softmax(dim=1).T.reshape(num_classes, SURFACE_SIDE, SURFACE_SIDE).numpy()
    np.testing.assert_allclose(surface / 255, expected, atol=0.0021)


@pytest.mark.parametrize(("name", "num_steps"), [("xor", 600), ("circles", 1000), ("moons", 1500), ("spirals", 6000)])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_ready_sets_are_learnt(name: str, num_steps: int, seed: int) -> None:
    trainer = trainer_of(name, seed=seed)
    trainer.advance(num_steps)
    accuracy = trainer.snapshot().accuracy
    assert accuracy is not None
    assert accuracy > 0.95


def test_without_hidden_layers_it_is_logistic_or_softmax_regression() -> None:
    trainer = trainer_of("clouds", hidden=())
    assert isinstance(trainer.network.head, SigmoidHead)
    trainer.advance(300)
    snapshot = trainer.snapshot((0, 0))
    assert snapshot.accuracy == 1.0
    assert (snapshot.maps.shape, snapshot.looked) == ((0, MAP_SIDE, MAP_SIDE), None)
    (one_neuron,) = layers_of(snapshot.weights, [2, 1])
    assert one_neuron.shape == (1, 3)
    many = trainer_of("four-clouds", hidden=(), learning_rate=0.03)
    assert isinstance(many.network.head, LogitsHead)
    many.advance(300)
    assert (many.snapshot().accuracy or 0) > 0.95
    never = trainer_of("xor", hidden=(), learning_rate=0.03)
    never.advance(600)
    assert (never.snapshot().accuracy or 1) < 0.8


def test_a_seed_is_a_training_however_its_steps_are_sliced() -> None:
    whole, sliced, other = (trainer_of("spirals", seed=seed) for seed in (7, 7, 8))
    for trainer in (whole, other):
        trainer.advance(100)
    for size in (1, 30, 2, 67):
        sliced.snapshot((0, 1))
        sliced.advance(size)
    assert whole.step == sliced.step == 100
    assert whole.snapshot().packed() == sliced.snapshot().packed()
    assert whole.snapshot().packed() != other.snapshot().packed()


def test_points_count_at_once_and_the_weights_stay() -> None:
    trainer = trainer_of("clouds", hidden=(8,))
    trainer.advance(200)
    before = trainer.snapshot()
    points = ready_set("clouds")
    swapped = PlanePoints(points.inputs, 1 - points.labels)
    trainer.take_points(swapped)
    after = trainer.snapshot()
    np.testing.assert_array_equal(before.weights, after.weights)
    assert (before.accuracy, after.accuracy, after.step) == (1.0, 0.0, 200)
    trainer.advance(300)
    assert (trainer.snapshot().accuracy or 0) > 0.95
    with pytest.raises(ConfigError, match="points must be of 2 classes, got 4"):
        trainer.take_points(ready_set("four-clouds"))


def test_without_points_nothing_is_learnt() -> None:
    trainer = PlaneTrainer(PlaneSettings(), NO_POINTS)
    assert (trainer.can_step, trainer.advance(10), trainer.step) == (False, 0, 0)
    snapshot = trainer.snapshot()
    assert (snapshot.loss, snapshot.accuracy) == (None, None)
    trainer.take_points(PlanePoints(np.zeros((1, 2), dtype=np.float32), np.ones(1, dtype=np.int64)))
    assert trainer.advance(10) == 10


def test_a_loss_that_diverges_ends_the_training() -> None:
    trainer = trainer_of("spirals", **TOO_FAST)
    assert 10 < trainer.advance(1000) < 1000
    snapshot = trainer.snapshot((0, 0))
    assert (trainer.has_diverged, snapshot.loss, snapshot.accuracy) == (True, None, None)
    assert np.isfinite(snapshot.weights).all()
    assert trainer.advance(1000) == 0
