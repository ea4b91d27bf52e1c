"""Updates on the ``meta`` device: no row of the table waits for a GPU or lets one wait, whatever its settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from choices import HEADS, NEXT_POLICIES
from host_transfers import HostTransferError, refuse_host_transfers
from torch import Tensor
from torch.optim.radam import RAdam, _multi_tensor_radam

from torso.agents import DQNConfig, PQNConfig
from torso.agents.optim.devices import Precision
from torso.agents.optim.executors import EagerExecutor
from torso.agents.optim.observation_moments import RunningMoments
from torso.agents.protocols import Executor, Update
from torso.agents.replay.batches import Batch
from torso.agents.replay.rollout import RolloutBatch
from torso.agents.value_based.algorithms import algorithm_names
from torso.agents.value_based.learner import DQNLearner
from torso.agents.value_based.network import q_network_spec
from torso.agents.value_based.on_policy import PQNLearner
from torso.nets import InputSpec, Prediction, build_network
from torso.nets.modules.layers import MemoryFormat

META = torch.device("meta")
ACTIONS = 3
INPUTS = {
    "mlp": InputSpec(shape=(5,)),
    "nature": InputSpec(shape=(4, 84, 84), dtype="uint8", layout="chw", scale=1 / 255),
}
SIZES: dict[str, Any] = {"hidden": (128, 128), "batch_size": 4, "target_update_period": 100}
SETTINGS: dict[str, dict[str, Any]] = {  # each added to every row
    "dueling": {"dueling": True},
    "noisy": {"noisy": True, "exploration": "noisy"},
    "prioritized": {"prioritized": True, "n_step": 3},
    "slow target": {"target_update_rate": 0.01},
    "gradients of any norm": {"max_grad_norm": None},
    "no huber delta": {"huber_delta": None},
    "a learning rate that falls": {"learning_rate_end": 1e-5},
    "clipped rewards": {"clip_rewards": True, "normalise_rewards": True},
    "normalised observations": {"normalise_observations": True},
    "layer norm": {"layer_norm": True, "activation": "gelu"},
    "many parameters": {"hidden": (1024, 1024)},  # more than are stepped as one tensor
}

PQN_SETTINGS: dict[str, dict[str, Any]] = {
    "authors'": {},
    "elements": {"layer_norm_kind": "elements", "max_grad_norm": None},
    "a learning rate that falls": {"learning_rate_end": 1e-5, "epochs": 3},
    "many parameters": {"hidden": (1024, 1024)},
}


class Capturing(EagerExecutor):
    """An executor that is given all that would be captured."""

    captures = True


def learner_of(
    config: DQNConfig,
    net: str,
    precision: Precision,
    memory_format: MemoryFormat = "contiguous",
    executor: Executor | None = None,
) -> DQNLearner:
    network = build_network(q_network_spec(config, INPUTS[net], ACTIONS), torch.Generator().manual_seed(0))
    moments = RunningMoments(INPUTS[net].size) if config.normalise_observations else None
    return DQNLearner(
        config,
        network,
        device=META,
        precision=precision,
        memory_format=memory_format,
        moments=moments,
        generator=torch.Generator().manual_seed(1),  # meta has none
        executor=executor,
    )


def batch_of(net: str, *, rows: int = 8, masks: bool = True) -> Batch:
    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=META)

    shape, dtype = INPUTS[net].shape, torch.uint8 if net == "nature" else torch.float32
    mask_t, mask_tm1 = (empty(rows, ACTIONS, dtype=torch.bool) if masks else None for _ in range(2))
    return Batch(
        s_tm1=empty(rows, *shape, dtype=dtype),
        a_tm1=empty(rows, dtype=torch.int64),
        r_t=empty(rows),
        discount_t=empty(rows),
        s_t=empty(rows, *shape, dtype=dtype),
        weight=empty(rows),
        mask_t=mask_t,
        mask_tm1=mask_tm1,
    )


def updated(learner: DQNLearner, batch: Batch) -> Update:
    """Two updates, the second with the optimizer's moments, and target updates before, between and after."""
    learner.advance(99, 99)
    with refuse_host_transfers():
        learner.update(batch)
        learner.advance(150, 150)
        update = learner.update(batch)
        learner.update_target()
        learner.advance(350, 350)
    return update


def require_updated(learner: DQNLearner, update: Update) -> None:
    assert learner.num_updates == 4
    assert update.priority.shape == (8,)
    assert all(tensor.is_meta for tensor in (update.priority, *update.metrics.values()))
    assert all(metric.dim() == 0 and not metric.requires_grad for metric in update.metrics.values())
    optimizer = learner.step.optimizer
    assert isinstance(optimizer, torch.optim.Adam)
    stepped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert [int(optimizer.state[parameter]["step"]) for parameter in stepped] == [4] * len(stepped)
    assert (learner.step.flat is None) == (len(stepped) > 1)
    assert all(tensor.is_meta for net in (learner.online, learner.target) for tensor in net.state_dict().values())


@pytest.mark.parametrize("name", algorithm_names())
@pytest.mark.parametrize("net", INPUTS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_no_row_waits(name: str, net: str, precision: Precision) -> None:
    learner = learner_of(DQNConfig(algorithm=name, **SIZES), net, precision)
    require_updated(learner, updated(learner, batch_of(net)))


@pytest.mark.parametrize("name", algorithm_names())
@pytest.mark.parametrize("masks", [False, True], ids=["all legal", "masks"])
def test_nothing_that_is_captured_waits(name: str, masks: bool) -> None:
    learner = learner_of(DQNConfig(algorithm=name, **SIZES), "nature", "bfloat16", executor=Capturing())
    require_updated(learner, updated(learner, batch_of("nature", masks=masks)))


@pytest.mark.parametrize("name", algorithm_names())
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_no_setting_makes_a_row_wait(name: str, settings: dict[str, Any]) -> None:
    learner = learner_of(DQNConfig(algorithm=name, **{**SIZES, **settings}), "mlp", "bfloat16")
    require_updated(learner, updated(learner, batch_of("mlp", masks=False)))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("next_policy", NEXT_POLICIES)
def test_no_head_waits_with_any_next_policy(head: str, next_policy: str) -> None:
    config = DQNConfig(head=head, dueling=True, noisy=True, **NEXT_POLICIES[next_policy], **SIZES)
    learner = learner_of(config, "mlp", "bfloat16")
    require_updated(learner, updated(learner, batch_of("mlp")))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_images_with_channels_last_make_nothing_wait(precision: Precision) -> None:
    learner = learner_of(DQNConfig(**SIZES), "nature", precision, "channels-last")
    require_updated(learner, updated(learner, batch_of("nature")))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("net", INPUTS)
@pytest.mark.parametrize("settings", PQN_SETTINGS.values(), ids=PQN_SETTINGS)
def test_no_rollout_makes_pqn_wait(net: str, precision: Precision, settings: dict[str, Any]) -> None:
    given = {"hidden": (128, 128), "num_envs": 2, "rollout_steps": 6, "num_minibatches": 3, **settings}
    config = PQNConfig(**given)
    network = build_network(q_network_spec(config, INPUTS[net], ACTIONS), torch.Generator().manual_seed(0))
    learner = PQNLearner(config, network, device=META, precision=precision, generator=torch.Generator().manual_seed(1))

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=META)

    shape, dtype = INPUTS[net].shape, torch.uint8 if net == "nature" else torch.float32
    for values, mask in ((True, False), (False, True)):
        batch = RolloutBatch(
            obs=empty(6, 2, *shape, dtype=dtype),
            action=empty(6, 2, dtype=torch.int64),
            reward=empty(6, 2),
            terminated=empty(6, 2, dtype=torch.bool),
            is_reset=empty(6, 2, dtype=torch.bool),
            last_obs=empty(2, *shape, dtype=dtype),
            mask=empty(7, 2, ACTIONS, dtype=torch.bool) if mask else None,
            values=empty(6, 2, ACTIONS) if values else None,
        )
        with refuse_host_transfers(RAdam._init_group, _multi_tensor_radam):  # steps are counted on the CPU
            update = learner.update(batch)
            learner.advance(100, 100)
        assert all(tensor.is_meta for tensor in update.metrics.values())
    assert learner.num_updates == 2 * config.epochs * 3
    assert all(tensor.is_meta for tensor in learner.online.state_dict().values())


@pytest.mark.parametrize("is_read", [False, True], ids=["a scalar of the CPU", "a value that is read"])
def test_an_update_that_waits_is_found(is_read: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = learner_of(DQNConfig(dueling=True, **SIZES), "mlp", "float32")  # whose loss is the head's
    loss, half = learner.head.loss, torch.tensor(0.5)

    def waiting(prediction: Prediction, a_tm1: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        losses, priority = loss(prediction, a_tm1, target)
        if is_read and losses.sum() > 0:
            return losses, priority
        return losses * half, priority

    monkeypatch.setattr(learner.head, "loss", waiting)
    expected = pytest.raises(RuntimeError, match="meta") if is_read else pytest.raises(HostTransferError, match="mul")
    with expected:
        updated(learner, batch_of("mlp"))
