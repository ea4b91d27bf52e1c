"""DQN learner: targets, losses and gradient steps from sampled transitions.

A classifier regresses its output on a label; this regresses ``Q(s, a)`` on ``r + gamma max_a' Q_target(s', a')``
(Mnih et al. 2015). The network, the gradient step and the model directory are the same.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torso.agents.optim.closed_form import ClosedForm, has_closed_form
from torso.agents.optim.devices import Precision
from torso.agents.optim.executors import EagerExecutor
from torso.agents.optim.flat import MAX_FLAT_PARAMETERS, FlatParameters
from torso.agents.optim.gradient_step import GradientStep, select_forward
from torso.agents.optim.observation_moments import RunningMoments, input_statistics
from torso.agents.optim.optimizers import make_optimizer
from torso.agents.optim.schedules import multiples_passed
from torso.agents.optim.states import strip_prefix, with_prefix
from torso.agents.protocols import Executor, StepRows, Update
from torso.agents.replay.batches import Batch
from torso.agents.value_based.config import DQNConfig
from torso.agents.value_based.next_policies import Forwards, NextPolicy
from torso.agents.value_based.training_config import TrainingConfig
from torso.arrays import Array
from torso.errors import CheckpointError, ConfigError
from torso.nets import Network, Prediction
from torso.nets.models.transfer import freeze_torso, has_running_statistics
from torso.nets.modules.heads import ValueHead
from torso.nets.modules.layers import MemoryFormat
from torso.nets.modules.torsos import round_large_weights
from torso.nets.specs.registry import State
from torso.private_apis import torch_foreach

_FOREACH = torch_foreach()

_MIN_BFLOAT16_ROWS = 4  # below it, rounding the weights to bfloat16 costs more than the products gain
_TARGET_ROWS = 512  # rows of next states in a forward of the target network: as many as fit a core's cache


def require_learnable(config: TrainingConfig, network: Network) -> ValueHead:
    """Return a network's head; ConfigError where a learner of these settings cannot learn with the network."""
    if not isinstance(network.head, ValueHead):
        raise ConfigError(f"an agent's network must have a head that values actions, got {network.spec.head!r}")
    if not config.freeze_torso and has_running_statistics(network):
        raise ConfigError(
            "a torso with batch norm would learn with the replay's statistics and act with those of one state; "
            "freeze_torso keeps them fixed"
        )
    if network.is_recurrent:
        raise ConfigError(
            f"a torso without a state must be given to an algorithm that learns from single transitions, got "
            f"{network.spec.torso!r}"
        )
    return network.head


class NetworkLearner(ABC):
    """Base class of learners: a network with its optimizer, what acts with it, and the state of both.

    optimizer: its name in `make_optimizer`, and its settings beside the learning rate. moments: running ones, by which
    observations are normalised. generator: of what the network draws, and of what the learner does.
    """

    def __init__(
        self,
        config: TrainingConfig,
        network: Network,
        optimizer: tuple[str, Mapping[str, Any]],
        *,
        device: torch.device,
        precision: Precision,
        memory_format: MemoryFormat,
        moments: RunningMoments | None,
        generator: torch.Generator | None,
        executor: Executor | None,
    ) -> None:
        self.head = require_learnable(config, network)
        if config.freeze_torso:
            freeze_torso(network)
        self.device = device
        self.online = network.to(device).set_memory_format(memory_format).train()
        small = sum(parameter.numel() for parameter in self.online.parameters()) <= MAX_FLAT_PARAMETERS
        flat = FlatParameters(self.online) if small else None
        self._executor: Executor = EagerExecutor() if executor is None else executor
        name, settings = optimizer
        made = make_optimizer(
            flat or self.online,
            name,
            learning_rate=config.learning_rate,
            capturable=self._executor.captures,
            **settings,
        )
        self.step = GradientStep(self.online, made, max_grad_norm=config.max_grad_norm, flat=flat)
        self._precision = precision
        self._online = select_forward(self.online, precision)
        self.moments = moments
        self.generator = torch.Generator(device).manual_seed(0) if generator is None else generator
        self._update_minibatch: Callable[[Any], Any] | None = None  # prepared for the first minibatch's shapes
        self.num_updates = 0

    def policy(self, generator: torch.Generator | None = None) -> ValuePolicy:
        """Return what acts, with the online network's weights; ``generator`` draws what a noisy network needs."""
        generator = torch.Generator(self.device).manual_seed(0) if generator is None else generator
        return ValuePolicy(self.online, self._online, self.device, generator)

    def policy_apart(self, generator: torch.Generator | None = None) -> PolicyApart:
        """Return what acts with a copy of the online network, so that this one may learn meanwhile."""
        generator = torch.Generator(self.device).manual_seed(0) if generator is None else generator
        acting = copy.deepcopy(self.online)
        return PolicyApart(acting, select_forward(acting, self._precision), self.device, generator, self.online)

    def observe(self, rows: StepRows) -> None:
        """Add the observations of envs that took an action to the running moments, if there are any.

        They reach the network in an update.
        """
        if self.moments is not None:
            self.moments.update(rows.obs[~rows.is_reset])

    @abstractmethod
    def changes(self, before: int, after: int) -> Sequence[int]:
        """Steps of target copies in (before, after], ascending."""

    @abstractmethod
    def advance(self, step: int, now: int) -> None:
        """Make the target copies up to ``step``, and set rates as of ``now``."""

    @abstractmethod
    def update(self, batch: Any) -> Update:
        """Take a gradient step for each minibatch of a batch."""

    def set_input_statistics(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Set the mean and standard deviation that normalise observations; one value a feature each."""
        self.online.set_input_statistics(mean, std)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the learner's state as JSON and tensors, for a checkpoint."""
        optimizer, moments = self.step.state()
        state = {
            "optimizer": optimizer,
            "num_updates": self.num_updates,
            "moments": None if self.moments is None else self.moments.state(),
            "input": input_statistics(self.online),
        }
        tensors = {
            **with_prefix("online", self.online.state_dict()),
            **with_prefix("optimizer", moments),
            "generator": self.generator.get_state(),
        }
        return state, tensors

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Load a state that `state` returned; CheckpointError when it is of another network."""
        load_weights(self.online, "online", tensors)
        self.step.restore(state["optimizer"], strip_prefix("optimizer", tensors))
        self._update_minibatch = None  # the optimizer's moments have other memory now
        self.num_updates = int(state["num_updates"])
        if "generator" in tensors:  # a run of before had none, and nothing that drew
            self.generator.set_state(tensors["generator"])
        if state["input"] is not None:
            self.set_input_statistics(**state["input"])
        if self.moments is not None:
            self.moments.restore(state["moments"])


def load_weights(network: Network, name: str, tensors: Mapping[str, Tensor]) -> None:
    """Load a checkpoint's weights, named ``name/...``; CheckpointError when they are of another network."""
    try:
        network.load_state_dict(strip_prefix(name, tensors))
    except RuntimeError as error:
        raise CheckpointError(f"the checkpoint's weights are of another network: {error}") from error


class _Minibatch(NamedTuple):
    """Transitions of a gradient step, and their regression targets, or None where the step computes them."""

    batch: Batch
    target: Tensor | None  # [B, ...], as the head has it


class _Outcome(NamedTuple):
    """Loss of a gradient step, a scalar; priorities, [B]; the prediction before the step, detached; targets."""

    loss: Tensor
    priority: Tensor
    prediction: Prediction
    target: Tensor


class DQNLearner(NetworkLearner):
    """Online and target network, and the update that regresses the online network on the target network's targets."""

    def __init__(
        self,
        config: DQNConfig,
        network: Network,
        *,
        device: torch.device,
        precision: Precision,
        memory_format: MemoryFormat = "contiguous",
        moments: RunningMoments | None = None,
        generator: torch.Generator | None = None,
        executor: Executor | None = None,
    ) -> None:
        super().__init__(
            config,
            network,
            ("adam", {"eps": config.adam_eps}),
            device=device,
            precision=precision,
            memory_format=memory_format,
            moments=moments,
            generator=generator,
            executor=executor,
        )
        self.config = config
        self.num_actions: int = network.spec.head.num_actions
        self.target = copy.deepcopy(self.online).requires_grad_(False).eval()
        if precision == "bfloat16" and config.target_update_rate == 1.0:
            round_large_weights(self.target)  # once per copy instead of in every forward; the same numbers
        self._closed_form: ClosedForm | None = None
        flat = self.step.flat
        if flat is not None and has_closed_form(self.online) and not self._executor.captures:
            self._closed_form = ClosedForm(self.online, flat, precision)
        self.next_policy: NextPolicy = config.row.next_policy
        self._target = select_forward(self.target, precision)
        self._updates_at_sync = 0
        self._advanced_to = 0  # the step up to which target copies were made

    def policy(self, generator: torch.Generator | None = None) -> ValuePolicy:
        """Return what acts, with the online network's weights; ``generator`` draws what a noisy network needs."""
        policy = super().policy(generator)
        if self._closed_form is not None:
            policy.forward_of_few = self._closed_form.predict
        return policy

    def changes(self, before: int, after: int) -> Sequence[int]:
        """Steps of target updates in (before, after], ascending."""
        period = self.config.target_update_period
        return range((before // period + 1) * period, after + 1, period)

    def advance(self, step: int, now: int) -> None:
        """Make the target updates up to ``step``, and set the learning rate as of ``now``."""
        for _ in range(multiples_passed(self._advanced_to, step, self.config.target_update_period)):
            self.update_target()
        self._advanced_to = step
        if self.config.learning_rate_end is not None:
            self.step.learning_rate = self.config.learning_rate_at(now)

    def update(self, batch: Batch) -> Update:
        """Take one gradient step per ``batch_size`` rows of the batch.

        Returns metrics as detached tensors, means over the steps (the loss, and what the head's ``figures`` show), and
        the rows' priorities, [n] float32, computed before the step on them.
        """
        if self.moments is not None:
            self.set_input_statistics(self.moments.mean, self.moments.std)
        lay_out = self.online.scaling.lay_out
        batch = batch._replace(s_tm1=lay_out(batch.s_tm1), s_t=lay_out(batch.s_t))
        outcomes = []
        for minibatch in self._minibatches(batch):
            if self._update_minibatch is None:
                self._update_minibatch = self._executor.prepare(self._gradient_step, minibatch, (self.generator,))
            outcomes.append(self._update_minibatch(minibatch))
        self.num_updates += len(outcomes)
        figures = self._figures([each.prediction for each in outcomes], [each.target for each in outcomes])
        metrics = {"loss": torch.stack([outcome.loss for outcome in outcomes]).mean(), **figures}
        return Update(metrics, torch.cat([outcome.priority for outcome in outcomes]))

    @torch.no_grad()
    def _figures(self, predictions: Sequence[Prediction], targets: Sequence[Tensor]) -> Mapping[str, Tensor]:
        """Return the head's figures of all minibatches together."""
        outputs = torch.cat([each.output for each in predictions])
        draws = [each.draws for each in predictions if each.draws is not None]
        return self.head.figures(Prediction(outputs, torch.cat(draws) if draws else None), torch.cat(list(targets)))

    def update_target(self) -> None:
        """Update the target network: interpolate towards the online one by ``target_update_rate``, or copy it for 1."""
        rate = self.config.target_update_rate
        if rate == 1.0 and self._updates_at_sync == self.num_updates:
            return  # no update since the last copy
        target: list[Tensor] = [*self.target.parameters()]
        online: list[Tensor] = [*self.online.parameters()]
        with torch.no_grad():
            if rate == 1.0:
                _FOREACH.copy_(target, online)
            else:
                _FOREACH.lerp_(target, online, rate)
            for buffer, source in zip(self.target.buffers(), self.online.buffers(), strict=True):
                buffer.copy_(source)  # statistics and the like are no weights to interpolate
        self._updates_at_sync = self.num_updates

    def set_input_statistics(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Set the mean and standard deviation that normalise observations; one value a feature each."""
        super().set_input_statistics(mean, std)
        self.target.set_input_statistics(mean, std)

    def _minibatches(self, batch: Batch) -> Iterator[_Minibatch]:
        """Yield the batch's minibatches with their targets.

        The target network is constant within the batch, so targets are computed in larger blocks. Where they also
        depend on the online network, which every step changes, or on what the head draws, a block is a minibatch. An
        executor that captures gets none, so that targets are part of what it captures.
        """
        size = self.config.batch_size
        if self._executor.captures:
            for start in range(0, len(batch.r_t), size):
                yield _Minibatch(batch.rows(start, start + size), None)
            return
        is_alone = self.head.is_random or any(name.startswith("online") for name in self.next_policy.needs)
        block = size if is_alone else size * max(1, _TARGET_ROWS // size)
        for first in range(0, len(batch.r_t), block):
            rows = batch.rows(first, first + block)
            yield from map(_Minibatch, rows.split(size), torch.split(self._targets(rows), size))

    def _gradient_step(self, minibatch: _Minibatch) -> _Outcome:
        batch = minibatch.batch
        target = self._targets(batch) if minibatch.target is None else minibatch.target
        if self._closed_form is not None:
            loss, td_error, q = self._closed_form(batch.s_tm1, batch.a_tm1, target, batch.weight)
            self.step.descend()
            return _Outcome(loss, td_error.abs(), Prediction(q), target)
        prediction, _ = self._online(batch.s_tm1, (), self.generator)
        loss, priority = self.head.loss(prediction, batch.a_tm1, target)  # [B] each
        mean = self.step(torch.dot(loss, batch.weight) / len(loss))
        return _Outcome(mean, priority, Prediction(prediction.output.detach(), prediction.draws), target)

    @torch.no_grad()
    def _targets(self, batch: Batch) -> Tensor:
        """Compute each row's regression target, as the head has it, detached. Each forward draws for itself."""
        needs, values = self.next_policy.needs, self.head.values
        prediction, _ = self._target(batch.s_t, (), self.generator)

        def needed(name: str, forward: Callable[..., tuple[Prediction, State]], obs: Tensor) -> Tensor | None:
            return values(forward(obs, (), self.generator)[0]) if name in needs else None

        forwards = Forwards(
            target_t=values(prediction),
            online_t=needed("online_t", self._online, batch.s_t),
            target_tm1=needed("target_tm1", self._target, batch.s_tm1),
            online_tm1=needed("online_tm1", self._online, batch.s_tm1),
            a_tm1=batch.a_tm1,
            discount_t=batch.discount_t,
            mask_t=batch.mask_t,
            mask_tm1=batch.mask_tm1,
        )
        policy_t, bonus = self.next_policy(forwards)  # [B, A], [B]
        return self.head.target(batch.r_t + bonus, batch.discount_t, prediction, policy_t)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the learner's state as JSON and tensors, for a checkpoint."""
        state, tensors = super().state()
        state |= {"updates_at_sync": self._updates_at_sync, "advanced_to": self._advanced_to}
        return state, {**tensors, **with_prefix("target", self.target.state_dict())}

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Load a state that `state` returned; CheckpointError when it is of another network."""
        load_weights(self.target, "target", tensors)
        super().restore(state, tensors)
        self._updates_at_sync = int(state["updates_at_sync"])
        self._advanced_to = int(state["advanced_to"])


class ValuePolicy:
    """Action values of a network that may be learning, in the precision that is faster for the number of rows.

    ``forward_of_few`` computes the network's own forward for few rows; unless it is replaced, it is the network.
    """

    def __init__(
        self,
        network: Network,
        forward: Callable[..., tuple[Prediction, State]],
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        if not isinstance(network.head, ValueHead):
            raise ConfigError(f"a policy's network must have a head that values actions, got {network.spec.head!r}")
        self.num_actions: int = network.spec.head.num_actions
        self._network, self._head = network, network.head
        self._forward = forward
        self.forward_of_few: Callable[..., tuple[Prediction, State]] = network
        self._device = device
        self.generator = generator

    def initial_state(self, num_envs: int) -> State:
        """Network's state at the start of episodes, [E, ...] each; empty where it is not recurrent."""
        return self._network.initial_state(num_envs)

    @torch.inference_mode()
    def values(self, obs: Array, state: State = ()) -> tuple[Tensor, State]:
        """Action values [B, A] and the next state, without gradient. obs: [B, *shape] raw."""
        forward = self.forward_of_few if len(obs) < _MIN_BFLOAT16_ROWS else self._forward
        prediction, state = forward(torch.from_numpy(obs).to(self._device), state, self.generator)
        return self._head.values(prediction), state

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the generator's state; the weights are the learner's."""
        return {}, {"generator": self.generator.get_state()}

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Load what `state` returned; a run of before had nothing that drew."""
        if "generator" in tensors:
            self.generator.set_state(tensors["generator"])


class PolicyApart(ValuePolicy):
    """Policy with weights of its own, which `refresh` copies from the network that learns."""

    def __init__(
        self,
        network: Network,
        forward: Callable[..., tuple[Prediction, State]],
        device: torch.device,
        generator: torch.Generator,
        learning: Network,
    ) -> None:
        super().__init__(network, forward, device, generator)
        self._learning = learning

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the weights of the network that learns."""
        _FOREACH.copy_(list(self._network.parameters()), list(self._learning.parameters()))
