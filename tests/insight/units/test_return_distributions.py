"""Histograms of returns: expectations and places that were worked by hand, and none of heads without distributions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from torso.insight.units.return_distributions import NUM_BINS, return_distributions
from torso.nets import InputSpec, MLPSpec, NetworkSpec, build_network
from torso.nets.specs.heads import CategoricalHeadSpec, ImplicitQuantileHeadSpec, QuantileHeadSpec, ScalarHeadSpec

OBS = torch.tensor([[0.3, -1.0]])


def network_with(head: Any) -> Any:
    spec = NetworkSpec(input=InputSpec(shape=(2,)), torso=MLPSpec(hidden=(8,)), head=head)
    return build_network(spec, torch.Generator().manual_seed(0)).eval()


def test_a_categorical_heads_bins_are_its_atoms() -> None:
    network = network_with(CategoricalHeadSpec(num_actions=3, num_atoms=5, v_min=-2.0, v_max=2.0))
    found = return_distributions(network, OBS)
    assert found is not None
    assert (found.low, found.high) == (-2.5, 2.5)
    assert found.probabilities.shape == (3, 5)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-6)
    values = found.probabilities @ np.array([-2, -1, 0, 1, 2], dtype=np.float32)
    np.testing.assert_allclose(values, network.readout(OBS)[0].detach().numpy(), atol=1e-6)


@pytest.mark.parametrize(
    "head", [QuantileHeadSpec(num_actions=2, num_quantiles=200), ImplicitQuantileHeadSpec(num_actions=2)]
)
def test_quantiles_are_counted_in_bins(head: Any) -> None:
    network = network_with(head)
    quantiles = network(OBS)[0].output[0].detach().numpy()
    found = return_distributions(network, OBS)
    assert found is not None
    assert (found.low, found.high) == (quantiles.min(), quantiles.max())
    for row, own in zip(found.probabilities, quantiles, strict=True):
        expected = np.histogram(own.astype(np.float64), NUM_BINS, (found.low, found.high))[0] / own.size
        np.testing.assert_allclose(row, expected, atol=1.01 / own.size)  # one may round to the next bin
        np.testing.assert_allclose(row.sum(), 1, atol=1e-6)


def test_quantiles_beyond_the_bounds_are_in_the_last_bins() -> None:
    network = network_with(QuantileHeadSpec(num_actions=2, num_quantiles=4))
    found = return_distributions(network, OBS, (100.0, 200.0))
    assert found is not None
    assert found.probabilities[:, 0].tolist() == [1.0, 1.0]
    assert (found.low, found.high) == (100.0, 200.0)


def test_an_expectation_alone_has_none() -> None:
    assert return_distributions(network_with(ScalarHeadSpec(num_actions=2)), OBS) is None
