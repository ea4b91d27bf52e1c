"""Collector: step vector envs with a policy's values and an explorer's choices, one tick at a time.

A tick is one step of the vector env; it counts as many steps as envs took an action, which excludes those that were
resetting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from torso.agents.optim.states import strip_prefix, where_rows, with_prefix
from torso.agents.protocols import Collected, Episode, Explorer, Policy, StepRows
from torso.arrays import Array
from torso.envs import action_masks, require_next_step
from torso.envs.vector.finite import require_finite_obs, require_finite_step
from torso.errors import EnvError

if TYPE_CHECKING:
    from torch import Tensor

    from torso.nets.specs.registry import State


class EnvCollector:
    """Collector that steps envs in this process.

    ``make_envs(step)`` builds a new vector env for the segment from a step on. action_start: the env's number for
    action 0. has_masks: whether the infos say which actions are legal. name: the env's, for errors.
    """

    def __init__(
        self,
        policy: Policy,
        explorer: Explorer,
        make_envs: Callable[[int], VectorEnv[Any, Any, Any]],
        *,
        num_envs: int,
        action_start: int,
        has_masks: bool,
        name: str = "the env",
    ) -> None:
        self.policy = policy
        self.explorer = explorer
        self.total_steps = 0
        self._make_envs = make_envs
        self._num_envs = num_envs
        self._action_start = action_start
        self._has_masks = has_masks
        self._name = name
        self._steps = np.zeros(num_envs, dtype=np.int64)  # of each env, since the training began
        self._envs: VectorEnv[Any, Any, Any] | None = None
        self._lengths = np.zeros(num_envs, dtype=np.int64)
        self._next_state: State | None = None  # of this step, once the values were computed
        self._chosen_by: Tensor | None = None  # the values of this step

    def begin(self) -> None:
        """Build new envs and reset them with the seeds of this step, as both a checkpoint and a resume do."""
        self.close()
        self._envs = self._make_envs(self.total_steps)
        require_next_step(self._envs)
        self._obs: Array
        self._obs, infos = self._envs.reset()
        require_finite_obs(self._name, self._obs, np.zeros_like(self._steps))
        self._mask = self._legal_masks(infos)
        self._is_reset = np.zeros(self._num_envs, dtype=bool)
        self._state = self._initial_state = self.policy.initial_state(self._num_envs)
        self._returns = np.zeros(self._num_envs)
        self._lengths = np.zeros(self._num_envs, dtype=np.int64)

    def last(self) -> tuple[Array, NDArray[np.bool_] | None]:
        """Return the latest observations [E, *shape] and their masks, which no row holds yet."""
        return self._obs, self._mask

    def figures(self) -> Mapping[str, float]:
        """Return the explorer's figures at this step."""
        return self.explorer.figures(self.total_steps)

    def unfinished(self) -> tuple[Episode, ...]:
        """Return the episodes in progress in which an action was taken, as a cut would end them."""
        return tuple(self._episode(int(env), was_cut=True) for env in np.flatnonzero(self._lengths))

    def close(self) -> None:
        """Close the envs; no episode is in progress then."""
        if self._envs is not None:
            self._envs.close()
            self._envs = None
            self._lengths[:] = 0

    def collect(self, until_steps: int) -> Iterator[Collected]:
        """Yield one tick at a time until at least ``until_steps`` steps were made in all."""
        while self.total_steps < until_steps:
            before = self.total_steps
            rows, episodes = self._step()
            yield Collected(before, self.total_steps, rows, episodes)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the step count, and the state of explorer and policy. Envs are built anew at every checkpoint."""
        (explorer, explorer_tensors), (policy, policy_tensors) = self.explorer.state(), self.policy.state()
        state = {"total_steps": self.total_steps, "explorer": explorer, "policy": policy}
        return state, {**with_prefix("explorer", explorer_tensors), **with_prefix("policy", policy_tensors)}

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Load what `state` returned."""
        self.explorer.restore(state["explorer"], strip_prefix("explorer", tensors))
        self.policy.restore(state["policy"], strip_prefix("policy", tensors))
        self.total_steps = state["total_steps"]
        self._steps[:] = self.total_steps // self._num_envs  # about, since envs reset at different times

    def _step(self) -> tuple[StepRows, tuple[Episode, ...]]:
        assert self._envs is not None  # noqa: S101 - begin() was called
        state, self._next_state, self._chosen_by = self._state, None, None
        actions = self.explorer.choose(
            self._values,
            self._mask,
            num_envs=self._num_envs,
            num_actions=self.policy.num_actions,
            step=self.total_steps,
        )
        obs, rewards, terminated, truncated, infos = self._envs.step(actions + self._action_start)
        has_acted = ~self._is_reset
        self._steps += has_acted
        require_finite_step(self._name, obs, rewards, self._steps)
        learner_terminated = terminated | infos["life_lost"] if "life_lost" in infos else terminated
        self.total_steps += int(has_acted.sum())
        mask = self._legal_masks(infos)
        rows = StepRows(
            self._obs,
            actions,
            rewards,
            learner_terminated,
            truncated,
            self._is_reset,
            self._mask,
            obs,
            state,
            mask,
            self._chosen_by,
        )
        if state:
            self._advance_state()
        self._returns += rewards
        self._lengths += has_acted
        ended = terminated | truncated
        episodes = tuple(self._end_episode(int(env)) for env in np.flatnonzero(ended)) if ended.any() else ()
        self._obs, self._is_reset, self._mask = obs, ended, mask
        return rows, episodes

    def _values(self) -> Tensor:
        self._chosen_by, self._next_state = self.policy.values(self._obs, self._state)
        return self._chosen_by

    def _advance_state(self) -> None:
        """Go on to the next state, which is the initial one where the env was reset: its observation was the last."""
        if self._next_state is None:  # every env explored; a recurrent network sees the step all the same
            self._values()
        assert self._next_state is not None  # noqa: S101 - as above
        self._state = tuple(
            where_rows(self._is_reset, first, then)
            for first, then in zip(self._initial_state, self._next_state, strict=True)
        )

    def _legal_masks(self, infos: Mapping[str, Any]) -> NDArray[np.bool_] | None:
        """Legal actions of the latest observations, [E, A]; None in an env where all are legal."""
        if not self._has_masks:
            if "action_mask" in infos:
                raise EnvError(
                    f"info['action_mask'] must come with the first reset or step, got the first one at step "
                    f"{self.total_steps}; give a mask of ones where all actions are legal"
                )
            return None
        masks = action_masks(infos, self._num_envs, self.policy.num_actions)
        return np.ones((self._num_envs, self.policy.num_actions), dtype=bool) if masks is None else masks

    def _end_episode(self, env: int) -> Episode:
        episode = self._episode(env)
        self._returns[env] = 0.0
        self._lengths[env] = 0
        return episode

    def _episode(self, env: int, *, was_cut: bool = False) -> Episode:
        return Episode(
            total_steps=self.total_steps,
            env=env,
            episode_return=float(self._returns[env]),
            length_steps=int(self._lengths[env]),
            was_cut=was_cut,
        )
