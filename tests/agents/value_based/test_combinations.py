"""Every combination of head, dueling, noise, next policy, replay, n and exploration: it updates, or says why not."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from choices import CHOICES, HEADS, NEXT_POLICIES, combinations, is_legal, pairs_of, pairwise, settings_of

from torso.agents import DQNConfig
from torso.agents.protocols import StepRows
from torso.agents.replay.ring import ReplayRing
from torso.agents.value_based.assembly import explorer_of, transitions_of
from torso.agents.value_based.learner import DQNLearner
from torso.agents.value_based.network import q_network_spec
from torso.errors import ConfigError
from torso.nets import InputSpec, build_network

CPU = torch.device("cpu")
FEATURES, ACTIONS, ENVS = 3, 3, 2
TINY: dict[str, Any] = {
    "hidden": (4, 4),
    "batch_size": 4,
    "updates_per_phase": 2,
    "num_envs": ENVS,
    "min_replay_size": 20,
    "epsilon_start": 0.5,
}
SIZES: dict[str, dict[str, int]] = {
    "scalar": {},
    "categorical": {"num_atoms": 5},
    "quantile": {"num_quantiles": 5},
    "implicit-quantile": {"num_fractions": 5, "num_fixed_fractions": 4, "num_cosines": 4},
}


def configuration(choice: dict[str, Any], **settings: Any) -> DQNConfig:
    return DQNConfig(**{**TINY, **SIZES[choice["head"]], **settings_of(choice), **settings})


def learner_of(config: DQNConfig) -> DQNLearner:
    spec = q_network_spec(config, InputSpec(shape=(FEATURES,)), ACTIONS)
    network = build_network(spec, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    return DQNLearner(config, network, device=CPU, precision="float32", generator=generator)


@pytest.fixture(scope="module")
def ring() -> ReplayRing:
    """Steps of two envs with masks, ends and a reset row after each."""
    rng = np.random.default_rng(0)
    made = ReplayRing(
        capacity_steps=200, num_envs=ENVS, shape=(FEATURES,), dtype="float32", device=CPU, num_actions=ACTIONS
    )
    is_reset = np.zeros(ENVS, dtype=bool)
    for _ in range(40):
        terminated, truncated = rng.random(ENVS) < 0.15, rng.random(ENVS) < 0.05
        mask = rng.random((ENVS, ACTIONS)) < 0.7
        action = rng.integers(ACTIONS, size=ENVS)
        mask[np.arange(ENVS), action] = True
        obs = rng.normal(size=(ENVS, FEATURES)).astype(np.float32)
        rows = StepRows(obs, action, rng.normal(size=ENVS), terminated, truncated, is_reset, mask, obs)
        made.append(*rows[:7])
        is_reset = terminated | truncated
    return made


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dueling", [False, True], ids=["one", "dueling"])
@pytest.mark.parametrize("noisy", [False, True], ids=["still", "noisy"])
@pytest.mark.parametrize("next_policy", NEXT_POLICIES)
def test_every_legal_combination_acts_and_updates(
    head: str, dueling: bool, noisy: bool, next_policy: str, ring: ReplayRing
) -> None:
    rest = itertools.product(*(CHOICES[name] for name in ("prioritized", "n_step", "exploration")))
    for prioritized, n_step, exploration in rest:
        choice = {
            **{"head": head, "dueling": dueling, "noisy": noisy, "next_policy": next_policy},
            **{"prioritized": prioritized, "n_step": n_step, "exploration": exploration},
        }
        if not is_legal(choice):
            with pytest.raises(ConfigError, match=r"^exploration must not be 'noisy' without noisy, or nothing would"):
                configuration(choice)
            continue
        config = configuration(choice)
        learner = learner_of(config)
        before = {name: parameter.detach().clone() for name, parameter in learner.online.named_parameters()}
        experience = transitions_of(config, ring, torch.Generator().manual_seed(2))
        [due] = experience.due(0, 20, ())
        batch = experience.sample(due._replace(phases=1))
        update = learner.update(batch)
        experience.feedback(batch, update.priority)
        assert learner.num_updates == 2
        assert update.priority.shape == (8,)
        assert update.priority.isfinite().all()
        assert all(metric.isfinite() and not metric.requires_grad for metric in update.metrics.values())
        assert set(update.metrics) == {"loss", "max_q", "target"}
        moved = {name for name, parameter in learner.online.named_parameters() if not parameter.equal(before[name])}
        assert moved == set(before), choice
        assert set(actions_of(config, learner)) <= {0, 2}


def actions_of(config: DQNConfig, learner: DQNLearner) -> list[int]:
    """Actions of each env, of which the second is illegal."""
    policy = learner.policy(torch.Generator().manual_seed(3))
    obs, mask = np.ones((ENVS, FEATURES), np.float32), np.array([[True, False, True]] * ENVS)
    explorer = explorer_of(config, np.random.default_rng(0))
    actions = explorer.choose(
        lambda: policy.values(obs)[0], mask, num_envs=ENVS, num_actions=ACTIONS, step=config.epsilon_decay_steps
    )
    return actions.tolist()


def test_most_combinations_are_legal() -> None:
    every = combinations()
    assert (len(every), sum(map(is_legal, every))) == (1024, 896)


def test_a_covering_set_has_every_pair_and_is_small() -> None:
    legal = [choice for choice in combinations() if is_legal(choice)]
    chosen = pairwise(legal)
    assert set().union(*map(pairs_of, chosen)) == set().union(*map(pairs_of, legal))
    assert len(chosen) <= 24
