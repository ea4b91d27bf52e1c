from __future__ import annotations

import hashlib

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from torso.envs import load_dataset
from torso.envs.datasets.toys import NUM_POINTS, TOY_NAMES, load_toy

# SHA-256 of the inputs, float32 little-endian: figures on a toy are comparable wherever they were made.
GOLDEN = {
    "xor": "1383764f77913df62cbe5d268ebbaadaefdeaf1537e68e5dbb073136dc4a75ee",
    "circles": "aa54bb6b3fc619bca3a8a3e242730f2dee8f65f53aa303af101a02bc9f3194ad",
    "moons": "78b36e090fa8a9e8975d15b5815b96818cb176e75e93908ed279699d840617e2",
    "spirals": "78320cf173dc51c4ed3e8675a5d7e86721935727910317bf5ccadaf0003a2694",
}
# The best that a line does, at most; what the five nearest neighbours do, at least; on test.
ACCURACIES = {"xor": (0.76, 1.0), "circles": (0.6, 0.99), "moons": (0.93, 0.99), "spirals": (0.75, 0.98)}


def test_golden():
    assert set(GOLDEN) == set(TOY_NAMES)
    state = np.random.get_state()[1]
    for name, digest in GOLDEN.items():
        inputs = load_toy(name).inputs
        assert hashlib.sha256(inputs.astype("<f4").tobytes()).hexdigest() == digest, name
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # nothing global was seeded or drawn from


@pytest.mark.parametrize("name", TOY_NAMES)
def test_form(name: str):
    whole, splits = load_toy(name), load_dataset(name)
    assert whole.inputs.shape == (NUM_POINTS, 2)
    for split, size in zip(splits, (700, 100, 200), strict=True):
        assert (split.name, split.label_names, split.feature_names) == (name, (0, 1), ("x1", "x2"))
        assert split.inputs.dtype == np.float32
        assert np.bincount(split.labels).tolist() == [size // 2] * 2
    assert len(np.unique(whole.inputs, axis=0)) == NUM_POINTS
    assert np.abs(whole.inputs).max() < 2.5


@pytest.mark.parametrize("name", TOY_NAMES)
def test_a_toy_is_hard_for_a_line_and_easy_for_its_neighbours(name: str):
    train, _, test = load_dataset(name)
    by_line, by_neighbours = ACCURACIES[name]
    line = LogisticRegression().fit(train.inputs, train.labels)
    neighbours = KNeighborsClassifier().fit(train.inputs, train.labels)
    assert line.score(test.inputs, test.labels) <= by_line
    assert neighbours.score(test.inputs, test.labels) >= by_neighbours


def test_xor_is_the_sign_of_a_product_in_all_four_corners_alike():
    for split in load_dataset("xor"):
        negative = split.inputs[:, 0] * split.inputs[:, 1] < 0
        assert (negative == split.labels).mean() >= 0.995
        corners = np.unique(np.sign(split.inputs), axis=0, return_counts=True)[1]
        assert len(corners) == 4
        assert corners.min() >= 0.2 * len(split)


def test_circles_are_rings_of_their_radii():
    data = load_toy("circles")
    radius = np.linalg.norm(data.inputs, axis=1)
    for label, expected in ((0, 1.0), (1, 0.5)):
        assert abs(np.median(radius[data.labels == label]) - expected) < 0.02


def test_spirals_are_each_other_turned_by_half_a_circle():
    data = load_toy("spirals")
    arms = [data.inputs[data.labels == label] for label in (0, 1)]
    nearest = NearestNeighbors(n_neighbors=1).fit(arms[0]).kneighbors(-arms[1])[0]
    assert np.quantile(nearest, 0.99) < 0.1
    assert np.linalg.norm(data.inputs, axis=1).max() < 1.1
