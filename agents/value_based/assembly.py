"""Parts of the training core for a value-based algorithm, from its settings."""

from __future__ import annotations

import numpy as np
import torch

from torso.agents.protocols import Explorer
from torso.agents.replay.batches import Sampler
from torso.agents.replay.prioritized import PrioritizedSampler
from torso.agents.replay.reward_scale import RewardScale
from torso.agents.replay.ring import ReplayRing
from torso.agents.replay.transitions import Transitions
from torso.agents.replay.uniform import UniformSampler
from torso.agents.value_based.config import DQNConfig
from torso.agents.value_based.exploration import EXPLORATIONS
from torso.envs.vector.world import WorldSpec
from torso.errors import ConfigError


def require_room_for_returns(config: DQNConfig, env: WorldSpec) -> None:
    """Raise ConfigError where the replay is too small for a return of each env."""
    minimum = (config.n_step + env.frame_stack) * config.num_envs
    if config.replay_capacity < minimum:
        raise ConfigError(
            f"replay_capacity must hold {config.n_step} steps and a stack of {env.frame_stack} frames of each env, "
            f"{minimum} steps in all, got {config.replay_capacity}"
        )


def ring_of(config: DQNConfig, env: WorldSpec, device: torch.device) -> ReplayRing:
    """Build the ring in which an env's steps are stored."""
    return ReplayRing(
        capacity_steps=config.replay_capacity,
        num_envs=config.num_envs,
        shape=env.shape,
        dtype=env.dtype,
        device=device,
        frame_stack=env.frame_stack,
        num_actions=env.num_actions if env.has_action_masks else None,
        is_one_hot=env.is_one_hot,
        one_hot_places=env.one_hot_places,
    )


def transitions_of(config: DQNConfig, ring: ReplayRing, generator: torch.Generator) -> Transitions:
    """Build the experience in a ring, sampled and learnt from as the algorithm and the settings say."""
    row = config.row
    sampler: Sampler = (
        PrioritizedSampler(ring, n_step=row.n_step, exponent=config.priority_exponent, batch_size=config.batch_size)
        if row.prioritized
        else UniformSampler(ring, n_step=row.n_step)
    )
    gamma, clip_rewards = config.gamma, config.clip_rewards
    scale = RewardScale(ring.num_envs, gamma=gamma, clip_rewards=clip_rewards) if config.normalise_rewards else None
    return Transitions(
        ring,
        sampler,
        generator,
        n_step=row.n_step,
        gamma=gamma,
        clip_rewards=clip_rewards,
        learn_period=config.learn_period,
        samples_per_phase=config.updates_per_phase * config.batch_size,
        min_replay_size=config.min_replay_size,
        importance=config.importance,
        reward_scale=scale,
    )


def explorer_of(config: DQNConfig, rng: np.random.Generator) -> Explorer:
    """Build the explorer that the setting ``exploration`` names."""
    return EXPLORATIONS[config.exploration].build(config, rng)
