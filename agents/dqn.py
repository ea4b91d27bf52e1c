"""DQN: settings, and the learner that turns sampled transitions into gradient steps.

A classifier regresses its output on a label; this regresses ``Q(s, a)`` on ``r + gamma max_a' Q_target(s', a')``
(Mnih et al. 2015). Everything else, the network, the gradient step and the model directory, is the same.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from torso.agents.flat import FlatParameters
from torso.agents.gradient import GradientStep, Precision, forward_in, make_optimizer
from torso.agents.policies import greedy
from torso.agents.replay import Batch
from torso.agents.schedules import linear
from torso.agents.states import strip_prefix, with_prefix
from torso.errors import CheckpointError, ConfigError
from torso.nets import NETS, InputSpec, NetworkSpec, ScalarHeadSpec, net_spec
from torso.nets.heads import ValueHead
from torso.nets.network import Network, build_network
from torso.nets.spec import ACTIVATIONS, Activation

_NETS = tuple(net for net in NETS if net != "linear")
_TARGET_ROWS = 512  # rows of next states that the target network values at once: what stays in a core's cache


@dataclass(frozen=True, kw_only=True)
class DQNConfig:
    """Settings of DQN. A step is one decision of one env, however many envs there are."""

    net: str = "mlp"  # mlp, cnn, lenet or nature
    hidden: tuple[int, ...] = (128, 128)  # widths of the fully connected layers
    activation: Activation = "relu"  # between layers
    layer_norm: bool = False  # after each layer (Ba et al. 2016)
    num_envs: int = 1  # envs stepped together; no other setting changes its meaning with it
    gamma: float = 0.99  # discount a step (Mnih et al. 2015)
    learning_rate: float = 5e-4  # of Adam
    adam_eps: float = 1e-8  # Kingma & Ba 2015
    max_grad_norm: float | None = 10.0  # Wang et al. 2016
    huber_delta: float | None = 1.0  # TD error beyond which the loss is linear (Mnih et al. 2015); None: squared error
    batch_size: int = 64  # transitions a gradient step
    replay_capacity: int = 100_000  # steps
    min_replay_size: int = 1_000  # steps before the first update
    learn_period: int = 4  # steps from one learning phase to the next (Mnih et al. 2015)
    updates_per_phase: int = 1  # gradient steps in a phase
    target_update_period: int = 1_000  # steps between copies of the online network into the target network
    double: bool = False  # the online network picks the next action, the target network values it (van Hasselt 2016)
    epsilon_start: float = 1.0  # probability of a random action at step 0
    epsilon_end: float = 0.05  # and after the decay
    epsilon_decay_steps: int = 10_000  # steps of the straight line from start to end
    evaluation_period: int = 5_000  # steps between evaluations
    evaluation_episodes: int = 20  # greedy episodes an evaluation
    checkpoint_period: int | None = None  # steps between checkpoints; None: 20,000 of each env
    stop_return: float | None = None  # end the training once an evaluation's mean return reaches this
    log_period: int = 1_000  # steps between lines of progress.jsonl
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # of forward and backward; auto: bfloat16 where it pays
    device: str = "auto"  # auto, cpu or cuda: where the networks and the replay live
    num_threads: int = 1  # torch's threads; small networks lose by more

    def __post_init__(self) -> None:
        if self.net not in _NETS:
            raise ConfigError(f"unknown net {self.net!r}; known are {', '.join(_NETS)}")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}")
        object.__setattr__(self, "hidden", tuple(self.hidden))
        for name in _COUNTS:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}")
        for name in ("gamma", "epsilon_start", "epsilon_end"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        for name in ("learning_rate", "adam_eps", "max_grad_norm", "huber_delta"):
            value = getattr(self, name)
            may_be_none = name in ("max_grad_norm", "huber_delta")
            if not (may_be_none if value is None else 0 < value < math.inf):
                raise ConfigError(f"{name} must be positive and finite, got {value}")
        if self.checkpoint_period is not None and self.checkpoint_period < 1:
            raise ConfigError(f"checkpoint_period must be at least 1 step, got {self.checkpoint_period}")
        if self.min_replay_size > self.replay_capacity:
            raise ConfigError(
                f"min_replay_size {self.min_replay_size} is never reached in a replay of {self.replay_capacity} steps"
            )
        if self.min_replay_size <= self.num_envs:
            raise ConfigError(
                f"min_replay_size must be more than num_envs, since a step is learnt from once the next one was made; "
                f"got {self.min_replay_size} for {self.num_envs} envs"
            )
        if self.replay_capacity < 3 * self.num_envs:
            raise ConfigError(
                f"replay_capacity must hold at least 3 steps of each env, got {self.replay_capacity} for "
                f"{self.num_envs} envs"
            )

    @property
    def steps_between_checkpoints(self) -> int:
        """``checkpoint_period``, or its default of 20,000 steps of each env."""
        return self.checkpoint_period or 20_000 * self.num_envs

    def epsilon(self, step: int) -> float:
        """The probability of an action drawn evenly, at a step."""
        return linear(step, start=self.epsilon_start, end=self.epsilon_end, num_steps=self.epsilon_decay_steps)


_COUNTS = (
    "num_envs",
    "batch_size",
    "replay_capacity",
    "min_replay_size",
    "learn_period",
    "updates_per_phase",
    "target_update_period",
    "epsilon_decay_steps",
    "evaluation_period",
    "evaluation_episodes",
    "log_period",
    "num_threads",
)


def q_network_spec(config: DQNConfig, network_input: InputSpec, num_actions: int) -> NetworkSpec:
    """The network that a configuration asks for, given what the env observes and how many actions it has."""
    torso = net_spec(
        config.net,
        network_input,
        hidden=config.hidden,
        activation=config.activation,
        dropout=0.0,
        layer_norm=config.layer_norm,
        batch_norm=False,  # its statistics would be the replay's in updates, and those of one state in acting
    )
    head = ScalarHeadSpec(num_actions=num_actions, huber_delta=config.huber_delta)
    return NetworkSpec(input=network_input, torso=torso, head=head)


class DQNLearner:
    """The online and the target network, and the update that moves the one towards targets of the other."""

    def __init__(
        self,
        config: DQNConfig,
        network: Network,
        *,
        device: torch.device,
        precision: Precision,
    ) -> None:
        if not isinstance(network.head, ValueHead):
            raise ConfigError(f"DQN needs a head that values actions, got {network.spec.head!r}")
        self.config = config
        self.device = device
        self.num_actions: int = network.spec.head.num_actions
        self.online = network.to(device).train()
        self.head: ValueHead = network.head
        self.target = copy.deepcopy(self.online).requires_grad_(False).eval()
        flat = FlatParameters(self.online)
        optimizer = make_optimizer(flat, learning_rate=config.learning_rate, eps=config.adam_eps)
        self.step = GradientStep(self.online, optimizer, max_grad_norm=config.max_grad_norm, flat=flat)
        self._online = forward_in(self.online, precision)
        self._target = forward_in(self.target, precision)
        self.num_updates = 0
        self._updates_at_sync = 0

    @classmethod
    def build(
        cls, config: DQNConfig, spec: NetworkSpec, *, device: torch.device, precision: Precision, seed: int
    ) -> DQNLearner:
        """A learner whose first weights are a function of the seed."""
        generator = torch.Generator().manual_seed(seed)
        return cls(config, build_network(spec, generator), device=device, precision=precision)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Take a phase's gradient steps, one for each ``batch_size`` rows of the batch.

        Returns metrics as detached tensors, means over the phase: the loss, and the target value.
        """
        losses, targets = [], []
        for minibatch, target in self._minibatches(batch):
            losses.append(self._gradient_step(minibatch, target))
            targets.append(target)
        self.num_updates += len(losses)
        return {"loss": torch.stack(losses).mean(), "target": torch.cat(targets).mean()}

    def sync_target(self) -> None:
        """Copy the online network into the target network, unless nothing was learnt since the last copy."""
        if self._updates_at_sync == self.num_updates:
            return
        with torch.no_grad():
            torch._foreach_copy_(list(self.target.parameters()), list(self.online.parameters()))
        self._updates_at_sync = self.num_updates

    @torch.inference_mode()
    def act(self, obs: Tensor) -> Tensor:
        """The greedy action of each observation. obs: [B, *shape] raw, on the learner's device; returns int64 [B]."""
        prediction, _ = self.online(obs)
        return self.head.values(prediction).argmax(dim=1)

    def _minibatches(self, batch: Batch) -> Iterator[tuple[Batch, Tensor]]:
        """A phase's minibatches with their targets.

        The target network does not change within a phase, so its targets are computed in larger blocks. With double
        Q-learning they also depend on the online network, which every step changes: then a block is a minibatch.
        """
        size = self.config.batch_size
        block = size if self.config.double else size * max(1, _TARGET_ROWS // size)
        for first in range(0, len(batch.r_t), block):
            rows = batch.rows(first, first + block)
            target = self._targets(rows)
            parts = [tensor.split(size) for tensor in (*rows, target)]  # type: ignore[no-untyped-call]
            for *minibatch, minibatch_target in zip(*parts, strict=True):
                yield Batch(*minibatch), minibatch_target

    def _gradient_step(self, batch: Batch, target: Tensor) -> Tensor:
        prediction, _ = self._online(batch.s_tm1)
        loss, _ = self.head.loss(prediction, batch.a_tm1, target)  # [B]
        return self.step(torch.dot(loss, batch.weight) / len(loss))

    @torch.no_grad()
    def _targets(self, batch: Batch) -> Tensor:
        """What each row should regress on, [B] float32, detached."""
        prediction, _ = self._target(batch.s_t)
        judge = self._online(batch.s_t)[0] if self.config.double else prediction
        policy_t = greedy(self.head.values(judge))  # [B, A]
        return self.head.target(batch.r_t, batch.discount_t, prediction, policy_t)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Everything the learner knows, as JSON and tensors, for a checkpoint."""
        optimizer, moments = self.step.state()
        state = {"optimizer": optimizer, "num_updates": self.num_updates, "updates_at_sync": self._updates_at_sync}
        tensors = {
            **with_prefix("online", self.online.state_dict()),
            **with_prefix("target", self.target.state_dict()),
            **with_prefix("optimizer", moments),
        }
        return state, tensors

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave; CheckpointError when it is of another network."""
        try:
            self.online.load_state_dict(strip_prefix("online", tensors))
            self.target.load_state_dict(strip_prefix("target", tensors))
        except RuntimeError as error:
            raise CheckpointError(f"the checkpoint's weights are of another network: {error}") from error
        self.step.restore(state["optimizer"], strip_prefix("optimizer", tensors))
        self.num_updates = int(state["num_updates"])
        self._updates_at_sync = int(state["updates_at_sync"])
