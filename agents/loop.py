"""The interaction loop: an agent and a vector env, one tick at a time.

It is a generator, so logging, evaluation and checkpoints stay outside. A tick is one step of the vector env; it counts
as many steps as envs made a decision, which leaves out those that were resetting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from torch import Tensor

from torso.agents.dqn import DQNConfig, DQNLearner
from torso.agents.replay import ReplayRing
from torso.agents.schedules import multiples_passed
from torso.envs import require_next_step


@dataclass(frozen=True, kw_only=True)
class Episode:
    """An episode that the env ended. ``episode_return`` is the sum of the env's own rewards."""

    total_steps: int
    env: int
    episode_return: float
    length_steps: int


class Tick(NamedTuple):
    """What one tick brought: episodes that ended, and a phase's metrics where the agent learnt."""

    steps_before: int
    total_steps: int
    episodes: tuple[Episode, ...]
    metrics: Mapping[str, Tensor]


class Interaction:
    """Acts, stores and learns. ``make_envs(step)`` builds the vector env anew for the stretch that begins at a step."""

    def __init__(
        self,
        config: DQNConfig,
        learner: DQNLearner,
        replay: ReplayRing,
        make_envs: Callable[[int], VectorEnv[Any, Any, Any]],
        *,
        action_start: int,
        acting_rng: np.random.Generator,
        sampling_generator: torch.Generator,
    ) -> None:
        self.config = config
        self.learner = learner
        self.replay = replay
        self.total_steps = 0
        self.acting_rng = acting_rng
        self.sampling_generator = sampling_generator
        self._make_envs = make_envs
        self._action_start = action_start
        self._envs: VectorEnv[Any, Any, Any] | None = None

    def begin(self) -> None:
        """Build the envs anew and reset them with the seeds of this step: what a checkpoint and a resume both do."""
        self.close()
        self.replay.break_off()  # in case that the stretch before was abandoned, not cut
        self._envs = self._make_envs(self.total_steps)
        require_next_step(self._envs)
        self._obs: NDArray[Any] = self._envs.reset()[0]
        self._is_reset = np.zeros(self.config.num_envs, dtype=bool)
        self._returns = np.zeros(self.config.num_envs)
        self._lengths = np.zeros(self.config.num_envs, dtype=np.int64)

    def cut(self) -> None:
        """End every episode under way as a time limit would, and begin anew. A checkpoint is such a cut."""
        self.replay.end_episodes(self._obs)
        self.begin()

    def close(self) -> None:
        """Close the envs."""
        if self._envs is not None:
            self._envs.close()
            self._envs = None

    def run(self, until_steps: int) -> Iterator[Tick]:
        """Yield a tick at a time until at least ``until_steps`` steps were made in all."""
        while self.total_steps < until_steps:
            before = self.total_steps
            episodes = self._step()
            metrics = self._learn(before)
            yield Tick(steps_before=before, total_steps=self.total_steps, episodes=episodes, metrics=metrics)

    def _step(self) -> tuple[Episode, ...]:
        assert self._envs is not None  # noqa: S101 - begin() was called
        actions = self._act()
        obs, rewards, terminated, truncated, _ = self._envs.step(actions + self._action_start)
        self.replay.append(self._obs, actions, rewards, terminated, truncated, self._is_reset)
        decided = ~self._is_reset
        self.total_steps += int(decided.sum())
        self._returns += rewards
        self._lengths += decided
        ended = terminated | truncated
        episodes = tuple(self._end_episode(int(env)) for env in np.flatnonzero(ended)) if ended.any() else ()
        self._obs, self._is_reset = obs, ended
        return episodes

    def _end_episode(self, env: int) -> Episode:
        episode = Episode(
            total_steps=self.total_steps,
            env=env,
            episode_return=float(self._returns[env]),
            length_steps=int(self._lengths[env]),
        )
        self._returns[env] = 0.0
        self._lengths[env] = 0
        return episode

    def _act(self) -> NDArray[np.int64]:
        """Epsilon-greedy actions, counted from 0; int64 [E]."""
        num_envs, num_actions, rng = self.config.num_envs, self.learner.num_actions, self.acting_rng
        explore = rng.random(num_envs) < self.config.epsilon(self.total_steps)
        num_explore = np.count_nonzero(explore)
        if num_explore == num_envs:
            return rng.integers(num_actions, size=num_envs)
        obs = torch.from_numpy(self._obs).to(self.learner.device)
        actions: NDArray[np.int64] = self.learner.act(obs).cpu().numpy()
        if num_explore:
            actions[explore] = rng.integers(num_actions, size=num_explore)
        return actions

    def _learn(self, before: int) -> Mapping[str, Tensor]:
        """What is owed since ``before`` steps: target copies first, then learning phases."""
        config, after = self.config, self.total_steps
        if multiples_passed(before, after, config.target_update_period):
            self.learner.sync_target()
        if after < config.min_replay_size:
            return {}
        phases = multiples_passed(max(before, config.min_replay_size - 1), after, config.learn_period)
        if phases == 0:
            return {}
        num_samples = phases * config.updates_per_phase * config.batch_size
        return self.learner.update(self.replay.sample(num_samples, config.gamma, self.sampling_generator))
