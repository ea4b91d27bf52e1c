"""Updates of every algorithm through a capturing executor learn what eager ones learn: by a stand-in, and on a GPU."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from replays import Replays
from torch import Tensor

from torso.agents import DQNConfig, PQNConfig, World, train_run
from torso.agents.optim.executors import EagerExecutor
from torso.agents.optim.graphs import WARM_UPS, GraphExecutor
from torso.agents.protocols import Executor
from torso.agents.replay.batches import Batch
from torso.agents.replay.rollout import RolloutBatch
from torso.agents.value_based.algorithms import algorithm_names
from torso.agents.value_based.learner import DQNLearner
from torso.agents.value_based.network import q_network_spec
from torso.agents.value_based.on_policy import PQNLearner
from torso.nets import InputSpec, build_network

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ACTIONS = 3
INPUTS = {
    "mlp": InputSpec(shape=(5,)),
    "nature": InputSpec(shape=(4, 84, 84), dtype="uint8", layout="chw", scale=1 / 255),
}
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")


# -- learners ----------------------------------------------------------------------------------------------------------


def dqn(executor: Executor | None, device: torch.device = CPU, net: str = "mlp", **settings: Any) -> DQNLearner:
    given = {"hidden": (16,), "batch_size": 8, "target_update_period": 5, "adam_eps": 1e-3, **settings}
    config = DQNConfig(net=net, **given)
    network = build_network(q_network_spec(config, INPUTS[net], ACTIONS), torch.Generator().manual_seed(0))
    return DQNLearner(
        config,
        network,
        device=device,
        precision=settings.get("precision", "float32"),
        generator=torch.Generator(device).manual_seed(1),
        executor=executor,
    )


def pqn(executor: Executor | None, device: torch.device = CPU, net: str = "mlp", **settings: Any) -> PQNLearner:
    given = {"hidden": (16,), "num_envs": 2, "rollout_steps": 8, "num_minibatches": 2, **settings}
    config = PQNConfig(net=net, **given)
    network = build_network(q_network_spec(config, INPUTS[net], ACTIONS), torch.Generator().manual_seed(0))
    return PQNLearner(
        config,
        network,
        device=device,
        precision="float32",
        generator=torch.Generator(device).manual_seed(1),
        executor=executor,
    )


def observations(shape: tuple[int, ...], net: str, generator: torch.Generator) -> Tensor:
    size = (*shape, *INPUTS[net].shape)
    if net == "nature":
        return torch.randint(256, size, generator=generator, dtype=torch.uint8)
    return torch.randn(size, generator=generator)


def transitions(seed: int, device: torch.device, net: str, *, masks: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    number = 8
    mask_t, mask_tm1 = (torch.rand(number, ACTIONS, generator=generator) < 0.7 for _ in range(2))
    for mask in (mask_t, mask_tm1):
        mask[:, 0] = True
    batch = Batch(
        s_tm1=observations((number,), net, generator),
        a_tm1=torch.zeros(number, dtype=torch.int64),
        r_t=torch.randn(number, generator=generator),
        discount_t=0.9 * (torch.rand(number, generator=generator) < 0.8),
        s_t=observations((number,), net, generator),
        weight=torch.rand(number, generator=generator),
        mask_t=mask_t if masks else None,
        mask_tm1=mask_tm1 if masks else None,
    )
    return Batch(*(None if each is None else each.to(device) for each in batch))


def rollout(seed: int, device: torch.device, net: str) -> RolloutBatch:
    generator = torch.Generator().manual_seed(seed)
    steps, envs = 8, 2
    batch = RolloutBatch(
        obs=observations((steps, envs), net, generator),
        action=torch.randint(ACTIONS, (steps, envs), generator=generator),
        reward=torch.randn(steps, envs, generator=generator),
        terminated=torch.rand(steps, envs, generator=generator) < 0.1,
        is_reset=torch.rand(steps, envs, generator=generator) < 0.1,
        last_obs=observations((envs,), net, generator),
        mask=None,
        values=None,
    )
    return RolloutBatch(*(None if each is None else each.to(device) for each in batch))


def trained(
    learner: DQNLearner, updates: range, device: torch.device = CPU, net: str = "mlp", **masks: bool
) -> dict[str, Any]:
    """Take updates with the target copies that fall between them; return all that they leave."""
    for number in updates:
        learner.advance(number, number)
        update = learner.update(transitions(number, device, net, **masks))
    return {
        "online": learner.online.state_dict(),
        "target": learner.target.state_dict(),
        "priority": update.priority,
        "metrics": dict(update.metrics),
        "generator": learner.generator.get_state(),
    }


def require_close(got: Any, expected: Any, tolerance: float) -> None:
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", algorithm_names())
def test_a_learner_updates_the_same_through_buffers(name: str) -> None:
    capture = Replays()
    settings = {"algorithm": name, "noisy": True, "exploration": "noisy", "learning_rate_end": 1e-5}
    captured, eager = (dqn(each, **settings) for each in (GraphExecutor(CPU, capture), None))
    masks = {"masks": True}
    require_close(trained(captured, range(20), **masks), trained(eager, range(20), **masks), 0.0)
    assert capture.log == ["warm-up"] * WARM_UPS + ["record"] + ["replay"] * (20 - WARM_UPS)
    assert capture.generators == (captured.generator,)


def test_pqn_updates_the_same_through_buffers() -> None:
    capture = Replays()
    captured, eager = (pqn(each) for each in (GraphExecutor(CPU, capture), None))
    for number in range(5):
        updates = [learner.update(rollout(number, CPU, "mlp")) for learner in (captured, eager)]
        require_close(updates[0].metrics, updates[1].metrics, 0.0)
    require_close(captured.online.state_dict(), eager.online.state_dict(), 0.0)
    assert capture.log == ["warm-up"] * WARM_UPS + ["record"] + ["replay"] * (5 * 2 * 2 - WARM_UPS)


def test_a_restored_learner_is_captured_anew() -> None:
    """The optimizer's moments have other memory then, which a graph of before would not know of."""
    capture = Replays()
    captured, eager = (dqn(each) for each in (GraphExecutor(CPU, capture), None))
    for learner in (captured, eager):
        trained(learner, range(6))
        learner.restore(*learner.state())
    require_close(trained(captured, range(6, 12)), trained(eager, range(6, 12)), 0.0)
    assert capture.log.count("record") == 2


# -- CUDA graphs themselves --------------------------------------------------------------------------------------------


class Uncaptured(EagerExecutor):
    """The eager executor with all that a captured update has: its optimizer, and targets within the call."""

    captures = True


@pytest.fixture
def one_kernel_each() -> Iterator[None]:
    """Full float32 and deterministic convolutions, so that only what a graph changes can differ."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


def require_captured(records: list[logging.LogRecord]) -> None:
    assert [record.getMessage() for record in records if "CUDA graph" in record.getMessage()] == []


@needs_cuda
@pytest.mark.usefixtures("one_kernel_each")
@pytest.mark.parametrize("net", INPUTS)
@pytest.mark.parametrize("name", algorithm_names())
def test_a_graph_learns_what_eager_updates_learn(name: str, net: str, caplog: pytest.LogCaptureFixture) -> None:
    settings = {"algorithm": name, "learning_rate_end": 1e-5, "learning_rate_decay_steps": 20}
    captured, eager = (dqn(each, CUDA, net, **settings) for each in (GraphExecutor(CUDA), None))
    require_close(trained(captured, range(20), CUDA, net), trained(eager, range(20), CUDA, net), 1e-5)
    require_captured(caplog.records)


@needs_cuda
@pytest.mark.usefixtures("one_kernel_each")
@pytest.mark.parametrize(
    "settings",
    [
        {"noisy": True, "exploration": "noisy"},
        {"max_grad_norm": None},
        {"max_grad_norm": 1e-3},
        {"target_update_rate": 0.01},
        {"hidden": (1024, 1024)},  # more parameters than are stepped as one tensor
        {"layer_norm": True, "activation": "gelu"},
    ],
    ids=["noisy", "any norm", "small norms", "slow target", "many parameters", "layer norm"],
)
def test_a_graph_learns_the_same_with_settings(settings: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    captured, eager = (dqn(each, CUDA, **settings) for each in (GraphExecutor(CUDA), None))
    masks = {"masks": True}
    require_close(trained(captured, range(20), CUDA, **masks), trained(eager, range(20), CUDA, **masks), 1e-5)
    require_captured(caplog.records)


@needs_cuda
@pytest.mark.usefixtures("one_kernel_each")
def test_a_graph_learns_the_same_in_bfloat16(caplog: pytest.LogCaptureFixture) -> None:
    settings = {"precision": "bfloat16", "hidden": (512,)}
    captured, eager = (dqn(each, CUDA, "nature", **settings) for each in (GraphExecutor(CUDA), Uncaptured()))
    require_close(trained(captured, range(20), CUDA, "nature"), trained(eager, range(20), CUDA, "nature"), 1e-3)
    require_captured(caplog.records)


@needs_cuda
@pytest.mark.usefixtures("one_kernel_each")
@pytest.mark.parametrize("net", INPUTS)
def test_a_graph_of_pqn_learns_what_eager_updates_learn(net: str, caplog: pytest.LogCaptureFixture) -> None:
    """Both with RAdam's capturable form, which rounds its rates on the device."""
    settings = {"learning_rate_end": 1e-5, "learning_rate_decay_steps": 5}
    captured, eager = (pqn(each, CUDA, net, **settings) for each in (GraphExecutor(CUDA), Uncaptured()))
    for number in range(5):  # 20 updates
        for learner in (captured, eager):
            learner.update(rollout(number, CUDA, net))
            learner.advance(number, number)
    require_close(captured.online.state_dict(), eager.online.state_dict(), 1e-5)
    require_captured(caplog.records)


@needs_cuda
@pytest.mark.usefixtures("one_kernel_each")
@pytest.mark.parametrize("name", ["dqn", "rainbow"])
def test_a_graph_goes_on_after_a_restore(name: str) -> None:
    whole, first, second = (dqn(GraphExecutor(CUDA), CUDA, algorithm=name) for _ in range(3))
    expected = trained(whole, range(20), CUDA)
    trained(first, range(10), CUDA)
    second.restore(*first.state())
    require_close(trained(second, range(10, 20), CUDA), expected, 1e-5)


@needs_cuda
def test_what_cannot_be_captured_is_learnt_eagerly(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = dqn(GraphExecutor(CUDA), CUDA, algorithm="iqn")  # which draws: its generator must stay of use
    loss = learner.head.loss

    def waiting(*arguments: Any) -> Any:
        losses, priority = loss(*arguments)
        return losses * (1.0 if losses.sum().item() >= 0 else 0.0), priority

    monkeypatch.setattr(learner.head, "loss", waiting)
    result = trained(learner, range(10), CUDA)
    assert "could be captured" in caplog.text
    require_close(result, trained(dqn(None, CUDA, algorithm="iqn"), range(10), CUDA), 1e-5)


@needs_cuda
@pytest.mark.parametrize("config", [DQNConfig, PQNConfig])
def test_a_training_on_cuda_captures_its_updates(
    config: type[DQNConfig] | type[PQNConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings: dict[str, Any] = {"hidden": (16,), "device": "cuda", "evaluation_period": None}
    if config is DQNConfig:
        settings |= {"min_replay_size": 50}
    train_run(World(env="torso/Identity-v0"), config(**settings), total_steps=2_048, seed=0, out=tmp_path / "run")
    assert json.loads((tmp_path / "run/config.json").read_text())["resolved"]["executor"] == "graph"
    require_captured(caplog.records)
