"""Optimizer and generator state: bit-exact round trips through a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from torso.agents.optim.gradient_step import GradientStep
from torso.agents.optim.optimizers import OPTIMIZERS, make_optimizer
from torso.agents.optim.states import numpy_generator_state, restore_numpy_generator, strip_prefix, with_prefix
from torso.agents.runs.checkpoints import CheckpointStore
from torso.errors import CheckpointError


def learner(seed: int, name: str = "adam", **settings: float) -> tuple[nn.Module, GradientStep]:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    return network, GradientStep(network, make_optimizer(network, name, **settings), max_grad_norm=1.0)  # type: ignore[arg-type]


def train(network: nn.Module, step: GradientStep, batches: torch.Tensor) -> None:
    for batch in batches:
        step(network(batch).square().sum())


@pytest.mark.parametrize(
    "optimizer",
    [{"name": name} for name in OPTIMIZERS]
    + [{"name": "adamw", "weight_decay": 0.1}, {"eps": 0.01, "learning_rate": 0.02}],
)
def test_training_goes_on_to_the_bit(tmp_path: Path, optimizer: dict[str, Any]) -> None:
    batches = torch.randn(12, 4, 3, generator=torch.Generator().manual_seed(0))
    network, step = learner(0, **optimizer)
    train(network, step, batches[:6])
    step.learning_rate = 0.007
    state, tensors = step.state()
    weights = with_prefix("network", network.state_dict())
    CheckpointStore(tmp_path).save(6, {"optimizer": state}, {**weights, **with_prefix("optimizer", tensors)})
    train(network, step, batches[6:])

    again, step_again = learner(1, **optimizer)
    checkpoint = CheckpointStore(tmp_path).load()
    assert checkpoint is not None
    again.load_state_dict(strip_prefix("network", checkpoint.tensors))
    step_again.restore(checkpoint.state["optimizer"], strip_prefix("optimizer", checkpoint.tensors))
    assert step_again.learning_rate == 0.007
    train(again, step_again, batches[6:])

    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    torch.testing.assert_close(step.optimizer.state_dict(), step_again.optimizer.state_dict(), rtol=0, atol=0)


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(OPTIMIZERS), num_before=st.integers(0, 7), seed=st.integers(0, 2**32 - 1))
def test_every_optimizer_goes_on_to_the_bit_wherever_it_stops(name: str, num_before: int, seed: int) -> None:
    """Over convolutions in channels-last order too, whose strides the optimizer's state follows."""

    def images_learner() -> tuple[nn.Module, GradientStep]:
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network, GradientStep(network, make_optimizer(network, name, learning_rate=0.003))

    batches = torch.randn(7, 4, 2, 4, 4, generator=torch.Generator().manual_seed(seed))
    (network, step), (again, step_again) = images_learner(), images_learner()
    train(network, step, batches[:num_before])
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    state, tensors = step.state()
    kept = json.dumps(state), {key: value.clone() for key, value in tensors.items()}
    train(network, step, batches[num_before:])

    again.load_state_dict(weights)
    step_again.restore(json.loads(kept[0]), kept[1])
    train(again, step_again, batches[num_before:])
    assert all(parameter.isfinite().all() for parameter in network.parameters())  # NaN would equal nothing
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


def with_rate(rate: float | torch.Tensor, *, capturable: bool) -> tuple[nn.Module, GradientStep]:
    network, _ = learner(0)
    return network, GradientStep(
        network, torch.optim.Adam(network.parameters(), lr=rate, capturable=capturable, fused=True)
    )


def test_a_learning_rate_in_a_tensor_is_restored_in_place(tmp_path: Path) -> None:
    """A captured graph reads it there; and an optimizer stays capturable or not, whatever the checkpoint's was."""
    rate = torch.tensor(0.5)
    of_tensor, of_number = with_rate(rate, capturable=True), with_rate(0.5, capturable=False)
    for (network, step), (_, other) in ((of_tensor, of_number), (of_number, of_tensor)):
        train(network, step, torch.ones(1, 4, 3))
        step.learning_rate = 0.125
        state, tensors = step.state()
        CheckpointStore(tmp_path).save(1, {"optimizer": state}, tensors)
        checkpoint = CheckpointStore(tmp_path).load()
        assert checkpoint is not None
        other.learning_rate = 0.25
        other.restore(checkpoint.state["optimizer"], checkpoint.tensors)
        assert other.learning_rate == 0.125
    [group_of_tensor], [group_of_number] = (made[1].optimizer.param_groups for made in (of_tensor, of_number))
    assert group_of_tensor["lr"] is rate
    assert group_of_tensor["capturable"]
    assert isinstance(group_of_number["lr"], float)
    assert not group_of_number["capturable"]


def test_an_optimizer_of_another_network_is_refused() -> None:
    _, step = learner(0)
    other = nn.Linear(3, 2)
    with pytest.raises(CheckpointError, match="other parameters"):
        GradientStep(other, make_optimizer(other)).restore(*step.state())


@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox])
def test_numpy_generators_go_on_where_they_were(kind: type[np.random.BitGenerator]) -> None:
    rng = np.random.Generator(kind(3))
    rng.integers(10, size=7, dtype=np.int32)
    state = json.loads(json.dumps(numpy_generator_state(rng)))
    again = np.random.Generator(kind(4))
    restore_numpy_generator(again, state)
    assert np.array_equal(
        rng.integers(2**31, size=700, dtype=np.int32), again.integers(2**31, size=700, dtype=np.int32)
    )


def test_another_kind_of_generator_is_refused() -> None:
    state = numpy_generator_state(np.random.default_rng(0))
    with pytest.raises(CheckpointError, match="generator must be MT19937, got PCG64"):
        restore_numpy_generator(np.random.Generator(np.random.MT19937(0)), state)


def test_prefixes() -> None:
    tensors = {**with_prefix("a", {"x": torch.tensor(1)}), **with_prefix("ab", {"x": torch.tensor(2)})}
    assert strip_prefix("a", tensors) == {"x": torch.tensor(1)}
