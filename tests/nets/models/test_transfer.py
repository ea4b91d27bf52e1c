"""Transfer learning: a torso from another model, its input scaling and dropout, validation, and freezing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torso.agents.optim.flat import FlatParameters
from torso.agents.optim.gradient_step import GradientStep
from torso.agents.optim.optimizers import make_optimizer
from torso.errors import ModelNotFoundError, SpecError
from torso.nets import (
    ConvLayerSpec,
    ConvNetSpec,
    ImageSpec,
    InputSpec,
    LogitsHeadSpec,
    MLPSpec,
    Network,
    NetworkSpec,
    RegressionHeadSpec,
    ScalarHeadSpec,
    build_network,
    freeze_torso,
    has_running_statistics,
    load_torso,
    read_card,
    read_source,
    register_torso,
    save_model,
    take_torso,
)

Save = Callable[..., Path]

FEATURES = InputSpec(shape=(4,), mean=(1.0, 2.0, 3.0, 4.0), std=(1.0, 2.0, 1.0, 0.5))
SCAN = InputSpec(shape=(8, 8), dtype="uint8", layout="hw", scale=1 / 16)
CONVS = (ConvLayerSpec(channels=3, kernel=3, pool="max"), ConvLayerSpec(channels=4, kernel=2))
HEADS: dict[str, Any] = {
    "classifier": LogitsHeadSpec(num_classes=3),
    "policy": ScalarHeadSpec(num_actions=2),
    "regressor": RegressionHeadSpec(num_targets=2, mean=(0.0, 1.0), std=(1.0, 2.0)),
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Save a network of this torso as a model directory; batch norms have running statistics."""

    def call(torso: Any, network_input: InputSpec = FEATURES, kind: str = "classifier", seed: int = 0) -> Path:
        network = build_network(NetworkSpec(input=network_input, torso=torso, head=HEADS[kind]), seeded(seed))
        for part in network.modules():
            if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
                for statistics in (part.running_mean, part.running_var):
                    assert statistics is not None
                    statistics.uniform_(0.5, 2.0, generator=seeded(1))
        return save_model(tmp_path / "source", network, kind=kind, onnx=False)  # type: ignore[arg-type]

    return call


def new_task(network_input: InputSpec, head: Any = HEADS["policy"]) -> NetworkSpec:
    """Specify another task's network, whose own torso is to be replaced."""
    return NetworkSpec(input=network_input, torso=MLPSpec(hidden=(9,)), head=head)


def features(network: Network, obs: Tensor) -> Tensor:
    found: Tensor = network.eval().torso(network.scaling(obs), (), None)[0].detach()
    return found


def observations(network_input: InputSpec, rows: int = 5) -> Tensor:
    drawn = torch.rand(rows, *network_input.shape, generator=seeded(3)) * 16
    return drawn.to(getattr(torch, network_input.dtype))


# -- the specification -------------------------------------------------------------------------------------------------


def test_the_torso_is_the_sources_and_the_head_is_new(save: Save) -> None:
    source = save(MLPSpec(hidden=(6, 5), activation="tanh"))
    spec = take_torso(new_task(InputSpec(shape=(4,))), source)
    assert spec.torso == MLPSpec(hidden=(6, 5), activation="tanh")
    assert spec.head == HEADS["policy"]
    assert spec.input == FEATURES  # the torso learnt on standardised features


def test_how_an_input_is_scaled_comes_along_and_what_it_is_stays(save: Save) -> None:
    source = save(ConvNetSpec(convs=CONVS), SCAN)
    image = ImageSpec(channels=1, height=8, width=8, max_value=255.0, polarity="dark-on-light")
    own = InputSpec(shape=(8, 8, 1), dtype="uint8", layout="hwc", scale=1 / 255, image=image)
    taken = take_torso(new_task(own), source).input
    assert taken == InputSpec(shape=(8, 8, 1), dtype="uint8", layout="hwc", scale=1 / 16, image=image)


@pytest.mark.parametrize(("dtype", "scale"), [("uint8", 1 / 16), ("float32", 2.0), ("int64", 2.0), ("float64", 2.0)])
def test_other_numbers_keep_their_own_scaling(save: Save, dtype: str, scale: float) -> None:
    own = InputSpec(shape=(8, 8), dtype=dtype, layout="hw", scale=2.0)
    assert take_torso(new_task(own), save(ConvNetSpec(convs=CONVS), SCAN)).input.scale == scale


def test_floats_of_any_width_are_the_same_numbers(save: Save) -> None:
    taken = take_torso(new_task(InputSpec(shape=(4,), dtype="float64")), save(MLPSpec())).input
    assert (taken.dtype, taken.mean, taken.std) == ("float64", FEATURES.mean, FEATURES.std)


def test_a_source_without_statistics_takes_them_away(save: Save) -> None:
    source = save(MLPSpec(), InputSpec(shape=(4,), scale=0.25))
    assert take_torso(new_task(FEATURES), source).input == InputSpec(shape=(4,), scale=0.25)


def test_dropout_is_the_new_tasks_to_choose(save: Save) -> None:
    source = save(MLPSpec(hidden=(6, 5), dropout=0.5))
    for dropout, expected in ((None, 0.5), (0.0, 0.0), (0.2, 0.2)):
        assert take_torso(new_task(FEATURES), source, dropout=dropout).torso.dropout == expected


def test_what_cannot_be_taken_is_refused(save: Save, tmp_path: Path) -> None:
    source = save(ConvNetSpec(convs=CONVS), SCAN)
    with pytest.raises(SpecError, match=r"source takes inputs of shape \[1, 8, 8\], these are of shape \[64\]"):
        take_torso(new_task(InputSpec(shape=(8, 8), dtype="uint8")), source)
    with pytest.raises(SpecError, match=r"of shape \[1, 8, 8\], these are of shape \[3, 8, 8\]"):
        take_torso(new_task(InputSpec(shape=(3, 8, 8), dtype="uint8", layout="chw")), source)
    with pytest.raises(SpecError, match="is linear in its inputs: its torso has no layer to take"):
        take_torso(new_task(FEATURES), save(MLPSpec(hidden=())))
    with pytest.raises(ModelNotFoundError, match="there is no such directory"):
        take_torso(new_task(FEATURES), tmp_path / "nowhere")


# -- the weights -------------------------------------------------------------------------------------------------------

TORSOS: dict[str, tuple[Any, InputSpec]] = {
    "mlp": (MLPSpec(hidden=(6, 5)), FEATURES),
    "mlp with batch norm": (MLPSpec(hidden=(6, 5), batch_norm=True), FEATURES),
    "mlp with layer norm": (MLPSpec(hidden=(6, 5), layer_norm=True), FEATURES),
    "convnet": (ConvNetSpec(convs=CONVS, hidden=(6,)), SCAN),
    "convnet with batch norm": (ConvNetSpec(convs=CONVS, hidden=(6,), batch_norm=True, dropout=0.3), SCAN),
}


@pytest.mark.parametrize("name", TORSOS)
@pytest.mark.parametrize("kind", HEADS)
def test_the_network_sees_what_the_source_saw(save: Save, name: str, kind: str) -> None:
    torso, network_input = TORSOS[name]
    source = save(torso, network_input, kind)
    spec = take_torso(new_task(network_input), source)
    network, fresh = (build_network(spec, seeded(7)) for _ in range(2))
    said = load_torso(network, source)

    before = build_network(spec, seeded(0))
    before.load_state_dict({**before.state_dict(), **_torso_of(source)})
    obs = observations(network_input)
    assert torch.equal(features(network, obs), features(before, obs))
    assert not torch.equal(features(network, obs), features(fresh, obs))
    for mine, other in zip(network.head.parameters(), fresh.head.parameters(), strict=True):
        assert torch.equal(mine, other)
    assert said == {"path": str(source), "weights_sha256": read_card(source).weights_sha256}


def _torso_of(source: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return {name: t for name, t in load_file(source / "weights.safetensors").items() if name.startswith("torso.")}


def test_layers_find_their_weights_where_dropout_is_left_out(save: Save) -> None:
    """Dropouts are layers too, by whose number the weights behind them are named."""
    source = save(MLPSpec(hidden=(6, 5, 4), dropout=0.5))
    networks = []
    for dropout in (None, 0.0):
        network = build_network(take_torso(new_task(FEATURES), source, dropout=dropout), seeded(7))
        load_torso(network, source)
        networks.append(network)
    obs = observations(FEATURES)
    assert torch.equal(features(networks[0], obs), features(networks[1], obs))
    assert set(networks[0].state_dict()) != set(networks[1].state_dict())


def test_a_run_directory_gives_its_best(save: Save, tmp_path: Path) -> None:
    latest, best = tmp_path / "run" / "model", tmp_path / "run" / "best"
    for place, seed in ((latest, 1), (best, 2)):
        place.parent.mkdir(exist_ok=True)
        save(MLPSpec(hidden=(6,)), seed=seed).rename(place)
    network = build_network(take_torso(new_task(FEATURES), tmp_path / "run"), seeded(7))
    load_torso(network, str(tmp_path / "run"))
    own = network.state_dict()["torso.dense.layers.0.weight"]
    assert torch.equal(own, _torso_of(best)["torso.dense.layers.0.weight"])
    assert read_source(tmp_path / "run") == read_card(best)


def test_weights_are_copied_in_place_and_nothing_is_drawn(save: Save) -> None:
    source = save(MLPSpec(hidden=(6,)))
    network = build_network(take_torso(new_task(FEATURES), source), seeded(7))
    flat = FlatParameters(network)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    load_torso(network, source)
    assert torch.equal(torch.get_rng_state(), state)
    weight = _torso_of(source)["torso.dense.layers.0.weight"].flatten()
    assert torch.equal(flat.flat.detach()[: len(weight)], weight)


@pytest.mark.parametrize(
    ("torso", "network_input"),
    [
        (MLPSpec(hidden=(6, 4)), FEATURES),
        (MLPSpec(hidden=(6, 5), activation="tanh"), FEATURES),
        (MLPSpec(hidden=(6, 5)), InputSpec(shape=(3,))),
        (ConvNetSpec(convs=CONVS, hidden=(6, 5)), SCAN),
    ],
)
def test_another_torso_is_refused_and_the_network_left_alone(save: Save, torso: Any, network_input: InputSpec) -> None:
    source = save(MLPSpec(hidden=(6, 5)))
    network = build_network(NetworkSpec(input=network_input, torso=torso, head=HEADS["policy"]), seeded(7))
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(SpecError, match="build it from take_torso's spec"):
        load_torso(network, source)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@dataclass(frozen=True, kw_only=True)
class GatedSpec:
    width: int = 3


class Gated(nn.Module):
    """Torso of a user's own, with a buffer that is saved."""

    def __init__(self, spec: GatedSpec, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.linear = nn.Linear(input_shape[0], spec.width)
        self.register_buffer("gate", torch.rand(spec.width))
        self.num_features = spec.width

    def forward(self, inputs: Tensor, state: Any, generator: torch.Generator | None) -> tuple[Tensor, Any]:
        return self.linear(inputs) * self.gate, state


@pytest.mark.usefixtures("registries")
def test_a_torso_of_ones_own(save: Save) -> None:
    register_torso("gated", GatedSpec, Gated)
    source = save(GatedSpec())
    spec = take_torso(new_task(FEATURES), source, dropout=0.0)
    network = build_network(spec, seeded(7))
    load_torso(network, source)
    taken = _torso_of(source)
    assert {f"torso.{name}" for name in network.torso.state_dict()} == set(taken)
    assert all(torch.equal(tensor, taken[f"torso.{name}"]) for name, tensor in network.torso.state_dict().items())
    with pytest.raises(SpecError, match=r"has no dropout to set to 0\.2"):
        take_torso(new_task(FEATURES), source, dropout=0.2)


# -- frozen ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp with batch norm", "convnet with batch norm"])
def test_a_frozen_torso_stays_as_it_is_while_the_head_learns(save: Save, name: str) -> None:
    torso, network_input = TORSOS[name]
    source = save(torso, network_input)
    spec = take_torso(new_task(network_input, HEADS["classifier"]), source)
    network = build_network(spec, seeded(7))
    load_torso(network, source)
    freeze_torso(network)
    kept = copy.deepcopy(network.state_dict())
    step = GradientStep(network, make_optimizer(network, "adamw", weight_decay=0.1))
    obs, labels = observations(network_input), torch.tensor([0, 1, 2, 0, 1])
    for _ in range(3):
        prediction, _ = network.train()(obs, (), seeded(0))
        step(network.head.loss(prediction, labels).mean())  # type: ignore[operator]
    moved = {key for key, tensor in network.state_dict().items() if not torch.equal(tensor, kept[key])}
    assert moved == {"head.linear.weight", "head.linear.bias"}


def test_a_frozen_torso_is_evaluated_and_costs_no_backward(save: Save) -> None:
    source = save(MLPSpec(hidden=(6, 5), dropout=0.5))
    network = build_network(take_torso(new_task(FEATURES), source), seeded(7)).train()
    obs = observations(FEATURES)
    assert network.torso(obs, (), seeded(0))[0].requires_grad
    freeze_torso(network)
    assert not network.torso(obs, (), None)[0].requires_grad  # no graph
    for copied in (network, copy.deepcopy(network)):
        copied.eval().train()
        assert copied.training
        assert copied.head.training
        assert not any(part.training for part in copied.torso.modules())
    for forward in (network, network.mixed):
        prediction, _ = forward(obs, (), seeded(0))
        prediction.output.sum().backward()
        assert all(parameter.grad is None for parameter in network.torso.parameters())
        assert all(parameter.grad is not None for parameter in network.head.parameters())
    assert len(FlatParameters(network).flat) == sum(parameter.numel() for parameter in network.head.parameters())


def test_freezing_leaves_the_mode(save: Save) -> None:
    for mode in (True, False):
        network = build_network(new_task(FEATURES), seeded(7)).train(mode)
        freeze_torso(network)
        assert (network.training, network.head.training, network.torso.training) == (mode, mode, False)


def test_which_torsos_move_statistics_of_their_own() -> None:
    for name, (torso, network_input) in TORSOS.items():
        network = build_network(NetworkSpec(input=network_input, torso=torso, head=HEADS["policy"]), seeded(0))
        assert has_running_statistics(network) == ("batch norm" in name)
