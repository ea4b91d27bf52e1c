"""Trial of a learner's updates on made-up transitions, by which settings of its network are measured."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch

from torso.agents.optim.devices import Precision
from torso.agents.optim.memory_formats import made_up_inputs
from torso.agents.protocols import Executor
from torso.agents.replay.batches import Batch
from torso.agents.value_based.config import DQNConfig
from torso.agents.value_based.learner import DQNLearner
from torso.agents.value_based.on_policy import Minibatch, PQNLearner
from torso.agents.value_based.pqn_config import PQNConfig
from torso.nets import InputSpec, Network
from torso.nets.modules.layers import MemoryFormat


def trial_update(
    config: DQNConfig,
    network: Network,
    memory_format: MemoryFormat,
    *,
    device: torch.device,
    precision: Precision,
    executor: Executor | None = None,
    num_minibatches: int = 1,
) -> Callable[[int], object]:
    """Return a function that updates a copy of a network on so many made-up transitions.

    These are at most ``num_minibatches`` times ``batch_size``, learnt from as a tick's that owes so many updates.
    """
    learner = DQNLearner(
        config,
        copy.deepcopy(network),
        device=device,
        precision=precision,
        memory_format=memory_format,
        executor=executor,
    )
    batch = _made_up_transitions(network.spec.input, num_minibatches * config.batch_size, device)
    return lambda rows: learner.update(batch.rows(0, rows))


def trial_rollout(
    config: PQNConfig,
    network: Network,
    memory_format: MemoryFormat,
    *,
    device: torch.device,
    precision: Precision,
    executor: Executor | None = None,
    num_minibatches: int = 1,
) -> Callable[[int], object]:
    """Return a function that updates a copy of a network on so many made-up steps, a minibatch's at most.

    ``num_minibatches`` must be 1: each is a gradient step of its own.
    """
    learner = PQNLearner(
        config,
        copy.deepcopy(network),
        device=device,
        precision=precision,
        memory_format=memory_format,
        executor=executor,
    )
    rows = config.minibatch_rows
    obs = learner.online.scaling.lay_out(made_up_inputs(network.spec.input, rows).to(device))
    zeros = torch.zeros(rows, device=device)
    steps = Minibatch(obs, zeros.long(), zeros, zeros + 1)
    update = learner.gradient_step if executor is None else executor.prepare(learner.gradient_step, steps, ())
    return lambda num_rows: update(Minibatch(*(each[:num_rows] for each in steps)))


def _made_up_transitions(spec: InputSpec, rows: int, device: torch.device) -> Batch:
    obs = made_up_inputs(spec, rows).to(device)
    ones = torch.ones(rows, device=device)
    actions = torch.zeros(rows, dtype=torch.int64, device=device)
    return Batch(s_tm1=obs, a_tm1=actions, r_t=ones, discount_t=0.99 * ones, s_t=obs.flip(0), weight=ones)
