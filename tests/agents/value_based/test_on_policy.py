"""PQN's learner: its targets, its gradient step and what it leaves out."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from torso.agents.optim.observation_moments import RunningMoments
from torso.agents.protocols import StepRows
from torso.agents.replay.returns import lambda_returns
from torso.agents.replay.rollout import RolloutBatch
from torso.agents.value_based.network import initial_network, q_network_spec
from torso.agents.value_based.on_policy import PQNLearner
from torso.agents.value_based.pqn_config import PQNConfig
from torso.errors import CheckpointError, ConfigError
from torso.nets import InputSpec

CPU = torch.device("cpu")
STEPS, ENVS, ACTIONS = 6, 4, 3
VECTOR = InputSpec(shape=(5,), dtype="float32")
CONFIG = PQNConfig(
    hidden=(8,), num_envs=ENVS, rollout_steps=STEPS, epochs=1, num_minibatches=1, max_grad_norm=None, learning_rate=0.1
)


def learner(config: PQNConfig = CONFIG, **settings: Any) -> PQNLearner:
    network = initial_network(config, q_network_spec(config, VECTOR, ACTIONS), seed=1)
    return PQNLearner(config, network, device=CPU, precision="float32", **settings)


def batch(*, values: bool = False, masks: bool = False, seed: int = 0) -> RolloutBatch:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    terminated, is_reset = draw(STEPS, ENVS) > 1, draw(STEPS, ENVS) > 1
    return RolloutBatch(
        obs=draw(STEPS, ENVS, 5),
        action=torch.randint(ACTIONS, (STEPS, ENVS), generator=generator),
        reward=draw(STEPS, ENVS),
        terminated=terminated & ~is_reset,
        is_reset=is_reset,
        last_obs=draw(ENVS, 5),
        mask=(draw(STEPS + 1, ENVS, ACTIONS) > 0) | (torch.arange(ACTIONS) == 0) if masks else None,
        values=draw(STEPS, ENVS, ACTIONS) if values else None,
    )


def expected_targets(made: PQNLearner, given: RolloutBatch) -> torch.Tensor:
    """Targets by one forward of all observations, row by row."""
    with torch.no_grad():
        observations = torch.cat([given.obs, given.last_obs.unsqueeze(0)])
        values = made.online(observations.flatten(0, 1))[0].output.view(STEPS + 1, ENVS, ACTIONS)
    if given.values is not None:
        values[:-1] = given.values
    best = torch.empty(STEPS, ENVS)
    for t in range(STEPS):
        for env in range(ENVS):
            legal = range(ACTIONS) if given.mask is None else given.mask[t + 1, env].nonzero().flatten().tolist()
            best[t, env] = max(values[t + 1, env, action].item() for action in legal)
    config = made.config
    return lambda_returns(
        given.reward, given.terminated, given.is_reset, best, gamma=config.gamma, trace_decay=config.trace_decay
    )


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("values", [False, True])
def test_a_gradient_step_goes_down_the_mean_over_steps_that_are_no_resets(values: bool, masks: bool) -> None:
    """RAdam's first step is the plain gradient times the learning rate (Liu et al. 2020, algorithm 2)."""
    made, given = learner(), batch(values=values, masks=masks)
    before = copy.deepcopy(made.online)
    targets = expected_targets(made, given)
    output = before(given.obs.flatten(0, 1))[0].output.view(STEPS, ENVS, ACTIONS)
    losses = [
        0.5 * (output[t, env, given.action[t, env]] - targets[t, env]) ** 2
        for t in range(STEPS)
        for env in range(ENVS)
        if not given.is_reset[t, env]
    ]
    loss = torch.stack(losses).mean()
    loss.backward()
    update = made.update(given)
    torch.testing.assert_close(update.metrics["loss"], loss.detach())
    assert update.priority is None
    assert made.num_updates == 1
    for now, then in zip(made.online.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(now.detach(), then.detach() - 0.1 * then.grad, rtol=1e-4, atol=1e-6)


def test_what_is_in_reset_rows_changes_nothing() -> None:
    given = batch(values=True)
    other = given._replace(
        reward=torch.where(given.is_reset, 1e3, given.reward),
        action=torch.where(given.is_reset, 2, given.action),
    )
    first, second = learner(), learner()
    first.update(given)
    second.update(other)
    for one, two in zip(first.online.parameters(), second.online.parameters(), strict=True):
        assert torch.equal(one, two)


def test_each_step_is_learnt_from_once_an_epoch() -> None:
    made = learner(replace(CONFIG, epochs=3, num_minibatches=4))
    rows: list[int] = []
    given = batch(values=True)
    given = given._replace(obs=torch.arange(STEPS * ENVS * 5).float().view(STEPS, ENVS, 5))
    step = made.gradient_step

    def spy(minibatch: Any) -> Any:
        assert len(minibatch.obs) == STEPS * ENVS // 4
        rows.extend((minibatch.obs[:, 0] / 5).long().tolist())
        return step(minibatch)

    made.gradient_step = spy  # type: ignore[method-assign]
    made.update(given)
    assert made.num_updates == 12
    epochs = [rows[start : start + STEPS * ENVS] for start in range(0, len(rows), STEPS * ENVS)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(STEPS * ENVS))] * 3
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_minibatch_of_resets_alone_leaves_the_weights() -> None:
    made = learner()
    before = [parameter.clone() for parameter in made.online.parameters()]
    given = batch(values=True)
    update = made.update(given._replace(is_reset=torch.ones(STEPS, ENVS, dtype=torch.bool)))
    assert update.metrics["loss"].item() == 0.0
    assert all(torch.equal(now, then) for now, then in zip(made.online.parameters(), before, strict=True))


def test_one_network_values_a_rollout_though_observations_are_normalised() -> None:
    made = learner(replace(CONFIG, normalise_observations=True), moments=RunningMoments(5))
    given = batch()
    flags = np.zeros(ENVS, dtype=bool)
    for t in range(STEPS):
        obs = 3 + 2 * given.obs[t].numpy()
        made.observe(StepRows(obs, given.action[t].numpy(), flags, flags, flags, flags, None, obs))
    targets = expected_targets(made, given)
    seen: list[torch.Tensor] = []
    step = made.gradient_step
    made.gradient_step = lambda minibatch: (seen.append(minibatch.target), step(minibatch))[1]  # type: ignore[method-assign]
    made.update(given)
    torch.testing.assert_close(torch.cat(seen).sort().values, targets.flatten().sort().values)
    assert made.online.spec.input.mean is not None
    assert np.mean(made.online.spec.input.mean) > 1  # the next rollout is seen with them


def test_the_learning_rate_falls_with_the_steps() -> None:
    made = learner(replace(CONFIG, learning_rate_end=0.02, learning_rate_decay_steps=100))
    made.advance(50, 50)
    assert made.step.learning_rate == pytest.approx(0.06)
    assert made.changes(0, 1_000) == ()


def test_a_learner_goes_on_from_its_state_to_the_bit() -> None:
    config = replace(CONFIG, epochs=2, num_minibatches=3, normalise_observations=True)
    made = learner(config, moments=RunningMoments(5))
    made.update(batch(seed=1))
    state, tensors = made.state()
    other = learner(config, moments=RunningMoments(5))
    other.restore(state, {name: tensor.clone() for name, tensor in tensors.items()})
    for each in (made, other):
        for seed in range(2, 12):  # past the steps in which RAdam does not rectify yet
            each.update(batch(seed=seed))
    assert other.num_updates == made.num_updates
    for one, two in zip(made.online.parameters(), other.online.parameters(), strict=True):
        assert torch.equal(one, two)
    with pytest.raises(CheckpointError, match="another network"):
        learner(replace(config, hidden=(9,)), moments=RunningMoments(5)).restore(state, tensors)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_minibatches": 7}, "num_minibatches must divide the 24 steps of a rollout, .* got 7"),
        ({"rollout_steps": 0}, "rollout_steps must be a whole number of at least 1, got 0"),
        ({"trace_decay": 1.5}, "trace_decay must .* got 1.5"),
        ({"reward_factor": 0.0}, "reward_factor must be .* got 0"),
        ({"algorithm": "dqn"}, "algorithm must be .*pqn.*got 'dqn'"),
        ({"init": "nought"}, "init must be one of .* got 'nought'"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **settings)
