"""Input bounds, and the optimal stimulus of a unit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from torso.envs import load_dataset
from torso.errors import InputError
from torso.insight.units.bounds import Bounds, input_bounds
from torso.insight.units.layers import layers, responses, top_k_drives, unit_drives
from torso.insight.units.stimulus import optimal_stimulus
from torso.nets import (
    ConvLayerSpec,
    ConvNetSpec,
    ImageSpec,
    InputSpec,
    LogitsHeadSpec,
    MLPSpec,
    Network,
    NetworkSpec,
    build_network,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- bounds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("polarity", "baseline"), [("light-on-dark", 0.0), ("dark-on-light", 16.0), ("none", 8.0)])
def test_an_image_describes_its_own_range(polarity: str, baseline: float) -> None:
    image = ImageSpec(channels=1, height=2, width=3, max_value=16.0, polarity=polarity)  # type: ignore[arg-type]
    found = input_bounds(InputSpec(shape=(2, 3), dtype="uint8", layout="hw", image=image))
    assert found.low.shape == found.high.shape == found.baseline.shape == (2, 3)
    assert {float(found.low.min()), float(found.low.max())} == {0.0}
    assert {float(found.high.min()), float(found.high.max())} == {16.0}
    assert torch.equal(found.baseline, torch.full((2, 3), baseline))


def test_other_inputs_have_the_range_of_their_data() -> None:
    rows = torch.tensor([[1.0, -5.0], [3.0, 5.0], [2.0, 0.0]])
    table = input_bounds(InputSpec(shape=(2,)), rows)
    assert table.low.tolist() == [1.0, -5.0]
    assert table.high.tolist() == [3.0, 5.0]
    assert table.baseline.tolist() == [2.0, 0.0]
    image = input_bounds(InputSpec(shape=(1, 2), layout="hw"), rows.unsqueeze(1))
    assert image.low.tolist() == [[-5.0, -5.0]]
    assert image.high.tolist() == [[5.0, 5.0]]
    for none in (None, rows[:0]):
        with pytest.raises(InputError, match="inputs must be given, to take the range of each feature from, got none"):
            input_bounds(InputSpec(shape=(2,)), none)


numbers = st.floats(-100, 100, width=32)


@given(st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=8), st.floats(0.0625, 10, width=32))
def test_drawing_near_keeps_the_direction_and_the_distance(rows: list[tuple[float, ...]], max_distance: float) -> None:
    # The middle feature never varied.
    bounds = Bounds(torch.tensor([0.0, 2.0, -1.0]), torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 2.0, 1.0]))
    inputs = torch.tensor(rows)
    near = bounds.limit_distance(inputs, max_distance)
    before, after = bounds.distance(inputs), bounds.distance(near)
    torch.testing.assert_close(after, before.clamp(max=max_distance), rtol=1e-4, atol=1e-4)
    cosine = functional.cosine_similarity(inputs - bounds.baseline, near - bounds.baseline, dim=1)
    far = before > 1e-3
    torch.testing.assert_close(cosine[far], torch.ones(int(far.sum())), rtol=1e-3, atol=1e-3)
    clipped = bounds.clip(inputs)
    assert bool((clipped >= bounds.low).all() and (clipped <= bounds.high).all())


def test_the_distance_is_measured_in_widths_of_the_range() -> None:
    bounds = Bounds(torch.zeros(2), torch.tensor([1.0, 1000.0]), torch.zeros(2))
    assert bounds.distance(torch.tensor([[0.6, 800.0]])).tolist() == pytest.approx([1.0])


# -- stimuli -----------------------------------------------------------------------------------------------------------


def linear(weight: list[list[float]]) -> Network:
    classes, features = len(weight), len(weight[0])
    spec = NetworkSpec(
        input=InputSpec(shape=(features,)), torso=MLPSpec(hidden=()), head=LogitsHeadSpec(num_classes=classes)
    )
    network = build_network(spec, seeded())
    network.load_state_dict({"head.linear.weight": torch.tensor(weight), "head.linear.bias": torch.zeros(classes)})
    return network


def test_a_linear_unit_has_a_corner_of_the_box_as_its_optimum() -> None:
    network = linear([[1.0, -2.0, 0.5], [-0.1, 0.2, 3.0]])
    bounds = Bounds(torch.tensor([-1.0, 0.0, 10.0]), torch.tensor([1.0, 5.0, 20.0]), torch.tensor([0.0, 2.5, 15.0]))
    found = optimal_stimulus(network, "output", [0, 1], bounds, seeded())
    assert found.inputs.tolist() == [[1.0, 0.0, 20.0], [-1.0, 5.0, 20.0]]
    assert found.drives.tolist() == pytest.approx([11.0, 61.1])


def test_within_a_distance_it_is_the_weights_own_direction() -> None:
    network = linear([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]])
    bounds = Bounds(torch.zeros(3), torch.ones(3), torch.zeros(3))
    found = optimal_stimulus(network, "output", [0], bounds, seeded(), max_distance=0.5)
    torch.testing.assert_close(found.inputs[0], torch.tensor([0.3, 0.4, 0.0]), rtol=0, atol=0.02)
    assert float(found.drives[0]) == pytest.approx(2.5, rel=0.01)
    assert float(bounds.distance(found.inputs)[0]) <= 0.5 + 1e-6


def fitted_digits(torso: MLPSpec | ConvNetSpec, steps: int) -> tuple[Network, Tensor]:
    data = load_dataset("digits")
    image = ImageSpec(channels=1, height=8, width=8, max_value=16.0)
    spec_input = InputSpec(shape=(8, 8), dtype="uint8", layout="hw", scale=1 / 16, image=image)
    network = build_network(NetworkSpec(input=spec_input, torso=torso, head=LogitsHeadSpec(num_classes=10)), seeded())
    inputs, labels = torch.tensor(data.train.inputs), torch.tensor(data.train.labels)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(steps):
        loss = functional.cross_entropy(network.readout(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.zero_grad()
    return network, torch.tensor(data.test.inputs)


@pytest.fixture(scope="module")
def mlp() -> tuple[Network, Tensor]:
    return fitted_digits(MLPSpec(hidden=(24, 16), activation="sigmoid"), 80)


@pytest.fixture(scope="module")
def cnn() -> tuple[Network, Tensor]:
    convs = (ConvLayerSpec(channels=6, kernel=3, padding=1), ConvLayerSpec(channels=8, kernel=3, pool="max"))
    return fitted_digits(ConvNetSpec(convs=convs, hidden=(16,)), 25)


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_a_stimulus_excites_its_unit_more_than_any_test_input_and_takes_no_more_ink(
    model: str, request: pytest.FixtureRequest
) -> None:
    network, inputs = request.getfixturevalue(model)
    bounds = input_bounds(network.spec.input)
    for layer in layers(network):
        units = range(min(6, layer.num_units))
        drives = responses(network, inputs, layer.name)
        best = [top_k_drives(drives[:, unit], 1) for unit in units]
        start = torch.stack([inputs[int(top.rows[0])] for top in best])
        max_distance = bounds.distance(start.float())
        found = optimal_stimulus(
            network, layer.name, list(units), bounds, seeded(), start=start, max_distance=max_distance, num_steps=60
        )
        tops = torch.cat([top.drives for top in best])
        assert bool((found.drives > tops).all()), layer.name
        assert found.inputs.shape == (len(best), 8, 8)
        assert float(found.inputs.min()) >= 0
        assert float(found.inputs.max()) <= 16
        assert bool((bounds.distance(found.inputs) <= max_distance * (1 + 1e-5)).all())
        with torch.no_grad():  # the scores are those of the inputs handed out
            again = torch.stack([unit_drives(network, found.inputs, layer.name)[row, row] for row in units])
        torch.testing.assert_close(found.drives, again)
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in network.parameters())


def test_what_a_unit_does_not_see_stays_ground(cnn: tuple[Network, Tensor]) -> None:
    """A unit of the first layer sees 3 x 3 pixels: of noise all over, nothing else is left."""
    network, inputs = cnn
    bounds = input_bounds(network.spec.input)
    drives = responses(network, inputs, "conv1")
    seen = [unit for unit in range(6) if float(drives[:, unit].std()) > 0.1]
    assert seen
    found = optimal_stimulus(network, "conv1", seen, bounds, seeded(), max_distance=6.0)
    assert int((found.inputs > 0.15 * 16).flatten(1).sum(dim=1).max()) <= 9


def test_the_noise_comes_from_the_generator(mlp: tuple[Network, Tensor]) -> None:
    network, _ = mlp
    bounds = input_bounds(network.spec.input)
    once, again, other = (
        optimal_stimulus(network, "dense1", [0, 3], bounds, seeded(seed), num_steps=5) for seed in (1, 1, 2)
    )
    assert torch.equal(once.inputs, again.inputs)
    assert not torch.equal(once.inputs, other.inputs)


def test_a_start_is_never_made_worse(mlp: tuple[Network, Tensor]) -> None:
    network, inputs = mlp
    bounds = input_bounds(network.spec.input)
    start = inputs[:2]
    with torch.no_grad():
        before = unit_drives(network, start, "output")[[0, 1], [4, 5]]
    found = optimal_stimulus(network, "output", [4, 5], bounds, seeded(), start=start, num_starts=0, num_steps=0)
    torch.testing.assert_close(found.drives, before)
    assert torch.equal(found.inputs, start.float())


def test_a_step_that_goes_too_far_is_not_kept() -> None:
    spec = NetworkSpec(input=InputSpec(shape=(1,)), torso=MLPSpec(hidden=(2,)), head=LogitsHeadSpec(num_classes=2))
    network = build_network(spec, seeded())
    network.load_state_dict(
        {
            "torso.dense.layers.0.weight": torch.tensor([[1.0], [-1.0]]),
            "torso.dense.layers.0.bias": torch.tensor([-0.5, 0.5]),
            "head.linear.weight": -torch.ones(2, 2),  # -|x - 0.5|
            "head.linear.bias": torch.zeros(2),
        }
    )
    bounds = Bounds(torch.zeros(1), torch.ones(1), torch.zeros(1))
    start = torch.tensor([[0.501]])
    found = optimal_stimulus(network, "output", [0], bounds, seeded(), start=start, num_starts=0, num_steps=1)
    assert found.inputs.tolist() == start.tolist()
    assert found.drives.tolist() == pytest.approx([-0.001], abs=1e-6)


def test_a_silent_rectifier_is_woken() -> None:
    spec = NetworkSpec(input=InputSpec(shape=(3,)), torso=MLPSpec(hidden=(1,)), head=LogitsHeadSpec(num_classes=2))
    network = build_network(spec, seeded())
    weights = network.state_dict()
    weights["torso.dense.layers.0.weight"] = torch.tensor([[1.0, 1.0, 1.0]])
    weights["torso.dense.layers.0.bias"] = torch.tensor([-2.9])  # above 0 in one corner of the box alone
    network.load_state_dict(weights)
    bounds = Bounds(torch.zeros(3), torch.ones(3), torch.full((3,), 0.5))
    found = optimal_stimulus(network, "dense1", [0], bounds, seeded())
    assert found.drives.tolist() == pytest.approx([0.1], abs=1e-5)


def test_an_unknown_unit_is_refused(mlp: tuple[Network, Tensor]) -> None:
    network, _ = mlp
    with pytest.raises(InputError, match="got dense2:16"):
        optimal_stimulus(network, "dense2", [0, 16], input_bounds(network.spec.input), seeded())
