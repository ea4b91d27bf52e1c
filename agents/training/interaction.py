"""Interaction loop of an agent and a vector env, one tick at a time.

It is a generator, so logging, evaluation and checkpoints are outside. A tick is one step of the vector env; it counts
as many steps as envs took an action, which excludes those that were resetting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from torch import Tensor

from torso.agents.optim.observation_moments import RunningMoments
from torso.agents.optim.schedules import multiples_passed
from torso.agents.replay.batches import Sampler
from torso.agents.replay.ring import ReplayRing
from torso.agents.runs.events import Episode, Tick
from torso.agents.value_based.config import DQNConfig
from torso.agents.value_based.exploration import epsilon_greedy
from torso.agents.value_based.learner import DQNLearner
from torso.envs import action_masks, require_next_step


class Interaction:
    """Training loop: act, store, learn. ``make_envs(step)`` builds a new vector env for the segment from a step on."""

    def __init__(
        self,
        config: DQNConfig,
        learner: DQNLearner,
        replay: ReplayRing,
        sampler: Sampler,
        make_envs: Callable[[int], VectorEnv[Any, Any, Any]],
        *,
        action_start: int,
        acting_rng: np.random.Generator,
        sampling_generator: torch.Generator,
        moments: RunningMoments | None = None,
    ) -> None:
        self.config = config
        self.learner = learner
        self.replay = replay
        self.sampler = sampler
        self.moments = moments
        self.total_steps = 0
        self.acting_rng = acting_rng
        self.sampling_generator = sampling_generator
        self._make_envs = make_envs
        self._action_start = action_start
        self._envs: VectorEnv[Any, Any, Any] | None = None

    def begin(self) -> None:
        """Build new envs and reset them with the seeds of this step, as both a checkpoint and a resume do."""
        self.close()
        self.replay.break_off()  # in case the previous segment was abandoned without a cut
        self._envs = self._make_envs(self.total_steps)
        require_next_step(self._envs)
        self._obs: NDArray[Any]
        self._obs, infos = self._envs.reset()
        self._mask = self._legal_masks(infos)
        self._is_reset = np.zeros(self.config.num_envs, dtype=bool)
        self._returns = np.zeros(self.config.num_envs)
        self._lengths = np.zeros(self.config.num_envs, dtype=np.int64)

    def cut(self) -> None:
        """Truncate all unfinished episodes, as a time limit would, and begin new ones. Checkpoints do this."""
        self.replay.end_episodes(self._obs, self._mask)
        self.begin()

    def close(self) -> None:
        """Close the envs."""
        if self._envs is not None:
            self._envs.close()
            self._envs = None

    def run(self, until_steps: int) -> Iterator[Tick]:
        """Yield one tick at a time until at least ``until_steps`` steps were made in all."""
        while self.total_steps < until_steps:
            before = self.total_steps
            episodes = self._step()
            metrics = self._learn(before)
            yield Tick(steps_before=before, total_steps=self.total_steps, episodes=episodes, metrics=metrics)

    def _step(self) -> tuple[Episode, ...]:
        assert self._envs is not None  # noqa: S101 - begin() was called
        actions = self._act()
        obs, rewards, terminated, truncated, infos = self._envs.step(actions + self._action_start)
        learner_terminated = terminated | infos["life_lost"] if "life_lost" in infos else terminated
        self.replay.append(self._obs, actions, rewards, learner_terminated, truncated, self._is_reset, self._mask)
        has_acted = ~self._is_reset
        if self.moments is not None:
            self.moments.update(self._obs[has_acted])
        self.total_steps += int(has_acted.sum())
        self._returns += rewards
        self._lengths += has_acted
        ended = terminated | truncated
        episodes = tuple(self._end_episode(int(env)) for env in np.flatnonzero(ended)) if ended.any() else ()
        self._obs, self._is_reset, self._mask = obs, ended, self._legal_masks(infos)
        return episodes

    def _legal_masks(self, infos: Mapping[str, Any]) -> NDArray[np.bool_] | None:
        """Legal actions of the latest observations, [E, A]; None in an env where all are legal."""
        if not self.replay.has_masks:
            return None
        num_envs, num_actions = self.config.num_envs, self.learner.num_actions
        masks = action_masks(infos, num_envs, num_actions)
        return np.ones((num_envs, num_actions), dtype=bool) if masks is None else masks

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
        """Select epsilon-greedy actions, counted from 0; int64 [E]."""
        return epsilon_greedy(
            self._greedy,
            epsilon=self.config.epsilon(self.total_steps),
            num_envs=self.config.num_envs,
            num_actions=self.learner.num_actions,
            mask=self._mask,
            rng=self.acting_rng,
        )

    def _greedy(self) -> NDArray[np.int64]:
        obs = torch.from_numpy(self._obs).to(self.learner.device)
        mask = None if self._mask is None else torch.from_numpy(self._mask).to(self.learner.device)
        actions: NDArray[np.int64] = self.learner.act(obs, mask).cpu().numpy()
        return actions

    def _learn(self, before: int) -> Mapping[str, Tensor]:
        """Run the learning phases and target network updates that are due since ``before`` steps."""
        config, after = self.config, self.total_steps
        learnable = max(before, config.min_replay_size - 1)
        phases = multiples_passed(learnable, after, config.learn_period) if after > learnable else 0
        updates = multiples_passed(before, after, config.target_update_period)
        if phases == 0 and updates == 0:
            return {}
        if phases == 0 or updates == 0:
            for _ in range(updates):
                self.learner.update_target()
            return self._run_phases(phases)
        return self._run_interleaved(before, learnable)

    def _run_interleaved(self, before: int, learnable: int) -> Mapping[str, Tensor]:
        """Run phases and target updates of one tick, ordered by step; at equal steps the target update comes first."""
        config, after = self.config, self.total_steps
        metrics: list[Mapping[str, Tensor]] = []
        last = learnable
        for count in range(before // config.target_update_period + 1, after // config.target_update_period + 1):
            due = count * config.target_update_period  # phases of earlier steps come first
            if due - 1 > last:
                metrics.append(self._run_phases(multiples_passed(last, due - 1, config.learn_period)))
                last = due - 1
            self.learner.update_target()
        metrics.append(self._run_phases(multiples_passed(last, after, config.learn_period)))
        metrics = [each for each in metrics if each]
        return {name: torch.stack([each[name] for each in metrics]).mean() for name in metrics[0]}

    def _run_phases(self, num_phases: int) -> Mapping[str, Tensor]:
        """Sample for ``num_phases`` learning phases and take their gradient steps; returns metrics, empty for no phase.

        Priorities are updated after all of the steps.
        """
        if num_phases == 0:
            return {}
        config, step = self.config, self.total_steps
        if config.learning_rate_end is not None:
            self.learner.step.learning_rate = config.learning_rate_at(step)
        if self.moments is not None:
            self.learner.set_input_statistics(self.moments.mean, self.moments.std)
        num_samples = num_phases * config.updates_per_phase * config.batch_size
        sample = self.sampler.sample(num_samples, self.sampling_generator, config.importance(step))
        batch = self.replay.transitions(
            sample.row, sample.env, n_step=config.n_step, gamma=config.gamma, clip_rewards=config.clip_rewards
        )
        metrics, priority = self.learner.update(batch._replace(weight=batch.weight * sample.weight))
        self.sampler.update(sample, priority)
        return metrics
