"""Sum tree against a plain list of numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torso.agents.replay.sum_tree import SumTree

SIZES = (1, 5, 64, 65, 1024, 1025, 4097, 70_000)  # of one, two and three levels, with and without a last node half full


def fractions(num: int) -> torch.Tensor:
    """Both ends and what is close to them, and the rest evenly."""
    edges = torch.tensor([0.0, 5e-324, 2.0**-60, 1.0 - 2.0**-53, 1.0], dtype=torch.float64)
    return torch.cat([edges, torch.linspace(0, 1, num, dtype=torch.float64)])


@st.composite
def changed(draw: st.DrawFn) -> tuple[SumTree, np.ndarray]:
    """A tree after changes of all kinds, and its leaves as a plain array."""
    size = draw(st.sampled_from(SIZES))
    tree, plain = SumTree(size), np.zeros(size)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    for _ in range(draw(st.integers(0, 4))):
        magnitudes = 10.0 ** rng.uniform(-9, 9, size) * (rng.random(size) < draw(st.sampled_from([0.01, 0.5, 1.0])))
        if draw(st.booleans()):
            start = int(rng.integers(size))
            stop = int(rng.integers(start, size + 1))
            tree.fill(start, stop, torch.from_numpy(magnitudes[start:stop]))
            plain[start:stop] = magnitudes[start:stop]
        else:
            leaf = rng.permutation(size)[: draw(st.integers(0, 40))]
            tree.put(torch.from_numpy(leaf), torch.from_numpy(magnitudes[leaf]))
            plain[leaf] = magnitudes[leaf]
    return tree, plain


@given(changed())
def test_a_leaf_is_found_where_the_cumulative_sums_put_it(change: tuple[SumTree, np.ndarray]) -> None:
    tree, plain = change
    np.testing.assert_array_equal(tree.leaves.numpy(), plain)
    sums = np.cumsum(plain)
    if sums[-1] == 0:
        assert not tree.find(fractions(9)).any()
        return
    borders = sums[:: -(-len(sums) // 500)] / sums[-1]  # of leaves, where rounding may go either way
    borders = np.concatenate([np.nextafter(borders, 0), borders, np.nextafter(borders, 1)])
    at = torch.cat([fractions(400), torch.from_numpy(borders).clamp(0, 1)])
    leaf = tree.find(at).numpy()
    assert leaf.min() >= 0
    assert leaf.max() < len(plain)
    assert (plain[leaf] > 0).all()
    place, rounding = at.numpy() * sums[-1], 1e-12 * sums[-1]
    assert (place <= sums[leaf] + rounding).all()
    assert (place >= sums[leaf] - plain[leaf] - rounding).all()


@given(changed())
def test_the_way_to_the_leaves_leaves_no_trace(change: tuple[SumTree, np.ndarray]) -> None:
    """A tree filled at once has the same bits in every level: so has one that a checkpoint brought back."""
    tree, plain = change
    at_once = SumTree(len(plain))
    at_once.fill(0, len(plain), torch.from_numpy(plain))
    for level, other in zip(tree._levels, at_once._levels, strict=True):
        assert torch.equal(level, other)


@pytest.mark.parametrize("size", SIZES)
def test_a_single_leaf_is_found_everywhere(size: int) -> None:
    for only in {0, size // 2, size - 1}:
        tree = SumTree(size)
        tree.put(torch.tensor([only]), torch.tensor([1e-300], dtype=torch.float64))
        assert set(tree.find(fractions(5)).tolist()) == {only}
        tree.fill(only, only + 1, 0.0)
        tree.fill(only, only, 7.0)
        assert not tree.leaves.any()
