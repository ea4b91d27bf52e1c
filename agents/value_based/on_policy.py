"""PQN's learner (Gallici et al. 2024): lambda-returns of a rollout as targets, without a replay or a target network.

The step from DQN: many envs at once make steps that are nearly independent, as a replay's are, and layer norm keeps the
values from growing without bound, as a target network does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from torso.agents.optim.devices import Precision
from torso.agents.optim.observation_moments import RunningMoments
from torso.agents.protocols import Executor, Update
from torso.agents.replay.returns import lambda_returns
from torso.agents.replay.rollout import RolloutBatch
from torso.agents.replay.selection import select_rows
from torso.agents.value_based.learner import NetworkLearner
from torso.agents.value_based.pqn_config import PQNConfig
from torso.nets import Network, Prediction
from torso.nets.modules.layers import MemoryFormat

_VALUED_ROWS = 512  # observations in a forward that values a rollout: as many as fit a core's cache


class Minibatch(NamedTuple):
    """Steps of a gradient step, n rows each; weight: [n] float32, 0 for a reset row."""

    obs: Tensor
    action: Tensor
    target: Tensor
    weight: Tensor

    def rows(self, index: Tensor) -> Minibatch:
        """Gather rows; index: [m] int64."""
        return Minibatch(*(select_rows(each, index) for each in self))


class _Outcome(NamedTuple):
    """Loss of a gradient step, a scalar, and the prediction's output before it, [n, A]; detached."""

    loss: Tensor
    output: Tensor


class PQNLearner(NetworkLearner):
    """Network, and the update that regresses it on the lambda-returns of a rollout, ``epochs`` times."""

    def __init__(
        self,
        config: PQNConfig,
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
            ("radam", {}),
            device=device,
            precision=precision,
            memory_format=memory_format,
            moments=moments,
            generator=generator,
            executor=executor,
        )
        self.config = config

    def changes(self, before: int, after: int) -> Sequence[int]:
        """Return no steps: there is no target network."""
        return ()

    def advance(self, step: int, now: int) -> None:
        """Set the learning rate as of ``now``."""
        if self.config.learning_rate_end is not None:
            self.step.learning_rate = self.config.learning_rate_at(now)

    def update(self, batch: RolloutBatch) -> Update:
        """Take ``epochs`` times ``num_minibatches`` gradient steps on a rollout.

        Returns metrics as detached tensors: the loss, a mean over the steps, and what the head's ``figures`` show.
        """
        obs = self.online.scaling.lay_out(batch.obs.flatten(0, 1))  # [T E, *shape]
        targets = self._targets(batch, obs)  # [T, E]
        weight = (~batch.is_reset).flatten().float()
        steps = Minibatch(obs, batch.action.flatten(), targets.flatten(), weight)
        size = self.config.minibatch_rows
        orders, losses, outputs = [], [], []
        for _ in range(self.config.epochs):
            order = torch.randperm(len(weight), generator=self.generator, device=self.device)
            orders.append(order)
            for index in torch.split(order, size):
                minibatch = steps.rows(index)
                if self._update_minibatch is None:
                    self._update_minibatch = self._executor.prepare(self.gradient_step, minibatch, ())
                outcome = self._update_minibatch(minibatch)
                losses.append(outcome.loss)
                outputs.append(outcome.output)
        self.num_updates += len(losses)
        if self.moments is not None:  # only now, so that one network values all steps of a rollout
            self.set_input_statistics(self.moments.mean, self.moments.std)
        with torch.no_grad():
            figures = self.head.figures(Prediction(torch.cat(outputs)), steps.target[torch.cat(orders)])
        return Update({"loss": torch.stack(losses).mean(), **figures}, None)

    def gradient_step(self, minibatch: Minibatch) -> _Outcome:
        """Take one gradient step, without synchronising with the device."""
        prediction, _ = self._online(minibatch.obs, (), None)
        loss, _ = self.head.loss(prediction, minibatch.action, minibatch.target)  # [n]
        mean = torch.dot(loss, minibatch.weight) / minibatch.weight.sum().clamp(min=1)
        return _Outcome(self.step(mean), prediction.output.detach())

    @torch.no_grad()
    def _targets(self, batch: RolloutBatch, obs: Tensor) -> Tensor:
        """Compute the lambda-return of each step, [T, E], detached; obs: [T E, *shape], as the network takes it."""
        values = batch.values
        if values is None:
            valued = torch.cat([self._values(rows) for rows in torch.split(obs, _VALUED_ROWS)])  # [T E, A]
            values = valued.view(*batch.action.shape, -1)
        last = self._values(self.online.scaling.lay_out(batch.last_obs)).unsqueeze(0)
        values = torch.cat([values, last])  # [T + 1, E, A]
        if batch.mask is not None:
            values = values.masked_fill(~batch.mask, -torch.inf)
        return lambda_returns(
            batch.reward,
            batch.terminated,
            batch.is_reset,
            values.amax(dim=2)[1:],
            gamma=self.config.gamma,
            trace_decay=self.config.trace_decay,
        )

    def _values(self, obs: Tensor) -> Tensor:
        return self.head.values(self._online(obs, (), None)[0])
