"""Families of algorithms: what builds the learner and the experience of one kind of settings.

A family is a configuration class, so that nothing asks for an algorithm's name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from torso.agents.protocols import Experience, Explorer
from torso.agents.replay.reward_scale import RewardScale
from torso.agents.replay.rollout import Rollout
from torso.agents.value_based.algorithms import algorithm_names
from torso.agents.value_based.assembly import explorer_of, require_room_for_returns, ring_of, transitions_of
from torso.agents.value_based.config import DQNConfig
from torso.agents.value_based.exploration import EpsilonGreedy
from torso.agents.value_based.learner import DQNLearner, NetworkLearner
from torso.agents.value_based.on_policy import PQNLearner
from torso.agents.value_based.pqn_config import PQNConfig
from torso.agents.value_based.training_config import TrainingConfig
from torso.agents.value_based.update_trials import trial_rollout, trial_update
from torso.envs.vector.world import WorldSpec


@dataclass(frozen=True, kw_only=True)
class Family:
    """Builders of the parts of a training core from one kind of settings."""

    config: type[TrainingConfig]
    """Class of the settings."""
    learner: Callable[..., NetworkLearner]
    """Builds a learner of ``(config, network)``, with a device, a precision and so on by name."""
    experience: Callable[[Any, WorldSpec, torch.device, torch.Generator], Experience[Any]]
    """Builds what it learns from; the generator samples."""
    explorer: Callable[[Any, np.random.Generator], Explorer]
    """Builds what chooses actions; the generator draws."""
    trial: Callable[..., Callable[[int], object]]
    """Builds a gradient step on made-up inputs, of so many rows, by which formats are measured."""
    minibatch_rows: Callable[[Any], int]
    """Rows of a gradient step."""
    overlap: Callable[[Any], bool] = lambda config: False
    """Whether it learns from one batch while the next is made, where a CPU does both."""
    require_fit: Callable[[Any, WorldSpec], None] = lambda config, env: None
    """Raises ConfigError for settings that cannot work in an env."""


def _transitions(
    config: DQNConfig, env: WorldSpec, device: torch.device, generator: torch.Generator
) -> Experience[Any]:
    return transitions_of(config, ring_of(config, env, device), generator)


def _rollout(config: PQNConfig, env: WorldSpec, device: torch.device, generator: torch.Generator) -> Experience[Any]:
    gamma, clip_rewards = config.gamma, config.clip_rewards
    scale = RewardScale(config.num_envs, gamma=gamma, clip_rewards=clip_rewards) if config.normalise_rewards else None
    return Rollout(
        config.rollout_steps,
        config.num_envs,
        shape=env.shape,
        dtype=env.dtype,
        device=device,
        num_actions=env.num_actions if env.has_action_masks else None,
        clip_rewards=clip_rewards,
        reward_factor=config.reward_factor,
        reward_scale=scale,
        num_buffers=2 if config.overlap else 1,
        keeps_values=not config.overlap,  # they would be older than the network that learns from them
    )


_FAMILIES = (
    Family(
        config=DQNConfig,
        learner=DQNLearner,
        experience=_transitions,
        explorer=explorer_of,
        trial=trial_update,
        minibatch_rows=lambda config: config.batch_size,
        require_fit=require_room_for_returns,
    ),
    Family(
        config=PQNConfig,
        learner=PQNLearner,
        experience=_rollout,
        explorer=lambda config, rng: EpsilonGreedy(config.epsilon, rng),
        trial=trial_rollout,
        minibatch_rows=lambda config: config.minibatch_rows,
        overlap=lambda config: config.overlap,
    ),
)


def family_of(config: TrainingConfig) -> Family:
    """Look up the family of settings."""
    return next(family for family in _FAMILIES if isinstance(config, family.config))


def config_class(algorithm: object) -> type[TrainingConfig]:
    """Look up the class of an algorithm's settings; of an unknown one it is `DQNConfig`, which refuses the name."""
    return PQNConfig if algorithm == PQNConfig.algorithm else DQNConfig


def all_algorithm_names() -> tuple[str, ...]:
    """Names of the algorithms of all families."""
    return (*algorithm_names(), PQNConfig.algorithm)
