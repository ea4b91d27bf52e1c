"""Collector of a recurrent policy: states go from step to step, into the rows, and begin anew with an episode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torso.agents.acting.collector import EnvCollector
from torso.agents.protocols import StepRows
from torso.agents.training.agent import DQN
from torso.agents.value_based.exploration import EpsilonGreedy
from torso.agents.value_based.learner import ValuePolicy
from torso.envs.vector.making import make_vector
from torso.errors import ConfigError
from torso.nets import InputSpec, NetworkSpec, ScalarHeadSpec, build_network, register_torso

pytestmark = pytest.mark.usefixtures("registries")
CPU = torch.device("cpu")
LENGTH = 3  # steps of an episode


@dataclass(frozen=True, kw_only=True)
class SumSpec:
    width: int = 2


class SumTorso(nn.Module):
    """A torso whose state and features are the sum of all inputs since the episode began."""

    def __init__(self, spec: Any, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.num_features = input_shape[0]

    def initial_state(self, batch_size: int) -> tuple[Tensor, ...]:
        return (torch.zeros(batch_size, self.num_features),)

    def forward(self, inputs: Tensor, state: Any, generator: torch.Generator | None) -> Any:
        total = inputs + (state[0] if state else 0.0)
        return total, (total,)


class Counting(gym.Env[np.ndarray[Any, Any], np.int64]):
    """Shows the step of the episode, from 1; an episode ends after ``LENGTH`` steps."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(0.0, 100.0, (1,), np.float32)
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.time = 1
        return np.array([1.0], np.float32), {}

    def step(self, action: np.int64) -> Any:
        self.time += 1
        return np.array([self.time], np.float32), 0.0, self.time > LENGTH, False, {}


def rows_of(epsilon: float, steps: int, num_envs: int = 2) -> list[StepRows]:
    register_torso("sum-of-the-collectors-test", SumSpec, SumTorso)
    spec = NetworkSpec(input=InputSpec(shape=(1,)), torso=SumSpec(), head=ScalarHeadSpec(num_actions=2))
    network = build_network(spec, torch.Generator().manual_seed(0))
    collector = EnvCollector(
        ValuePolicy(network, network, CPU, torch.Generator()),
        EpsilonGreedy(lambda step: epsilon, np.random.default_rng(0)),
        lambda step: make_vector(Counting, num_envs, [0] * num_envs),
        num_envs=num_envs,
        action_start=0,
        has_masks=False,
    )
    collector.begin()
    return [collected.rows for collected in collector.collect(steps)]


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0], ids=["greedy", "half", "at random"])
def test_a_state_is_of_its_episode_alone(epsilon: float) -> None:
    """Before the steps 1, 2, 3 the sums are 0, 1, 3; the row that shows the end, and is no step, has 6."""
    rows = rows_of(epsilon, 14)
    for env in range(2):
        found = [(float(row.obs[env, 0]), bool(row.is_reset[env]), float(row.state[0][env, 0])) for row in rows]
        episode = [(1.0, False, 0.0), (2.0, False, 1.0), (3.0, False, 3.0), (4.0, True, 6.0)]
        assert found == (episode * 3)[: len(found)]


@dataclass(frozen=True, kw_only=True)
class PlainSpec:
    width: int = 1


class PlainTorso(nn.Module):
    """Features that are the inputs."""

    def __init__(self, spec: Any, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.num_features = input_shape[0]

    def forward(self, inputs: Tensor, state: Any, generator: torch.Generator | None) -> Any:
        return inputs, state


def test_a_network_without_a_state_has_empty_ones() -> None:
    register_torso("plain-of-the-collectors-test", PlainSpec, PlainTorso)
    head = ScalarHeadSpec(num_actions=2)
    network = build_network(NetworkSpec(input=InputSpec(shape=(1,)), torso=PlainSpec(), head=head))
    policy = ValuePolicy(network, network, CPU, torch.Generator())
    assert policy.initial_state(3) == ()
    values, state = policy.values(np.ones((3, 1), np.float32))
    assert values.shape == (3, 2)
    assert state == ()


def test_single_transitions_are_no_experience_for_a_recurrent_network() -> None:
    register_torso("sum-of-the-collectors-test", SumSpec, SumTorso)
    with pytest.raises(ConfigError, match=r"^a torso without a state must be given to an algorithm that learns from"):
        DQN(Counting, net="sum-of-the-collectors-test")
