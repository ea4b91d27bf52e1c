"""Oracle for replay: it stores whole episodes, one by one, without rings or reset rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np


class Transition(NamedTuple):
    """Expected one-step sample; observations are any hashable."""

    s_tm1: Any
    a_tm1: int
    r_t: float
    terminated: bool
    s_t: Any


class MultiStep(NamedTuple):
    """Expected n-step sample; observations and masks are any hashable."""

    s_tm1: Any
    a_tm1: int
    r_t: float
    discount_t: float
    s_t: Any
    mask_t: Any


class Step(NamedTuple):
    """Step of an episode: a decision and its outcome; ``row`` is the replay's."""

    row: int
    action: int
    reward: float
    terminated: bool


@dataclass
class Episode:
    """Episode of one env, from a reset to the last observation; a finished one has one observation more than steps."""

    steps: list[Step] = field(default_factory=list)
    seen: list[tuple[Any, Any]] = field(default_factory=list)  # observations, whole stacks, and masks


class WholeTransitions:
    """Replay oracle: it keeps every episode, and lists the transitions of the last ``capacity_rows`` rows."""

    def __init__(self, capacity_rows: int, num_envs: int, frame_stack: int = 1) -> None:
        self.capacity_rows = capacity_rows
        self.frame_stack = frame_stack
        self.num_rows = 0
        self.episodes = [[Episode()] for _ in range(num_envs)]

    def append(self, obs, action, reward, terminated, truncated, is_reset, mask=None) -> None:
        self._observe(obs, mask)
        for env, episodes in enumerate(self.episodes):
            if is_reset[env]:
                episodes.append(Episode())
            else:
                step = Step(self.num_rows, int(action[env]), float(reward[env]), bool(terminated[env]))
                episodes[-1].steps.append(step)
        self.num_rows += 1

    def end_episodes(self, obs, mask=None) -> None:
        self._observe(obs, mask)
        for episodes in self.episodes:
            episodes.append(Episode())
        self.num_rows += 1

    def break_off(self) -> None:
        for episodes in self.episodes:
            if episodes[-1].steps:
                episodes[-1].steps.pop()  # its outcome was not observed
            episodes.append(Episode())

    def start_rows(self, n_step: int) -> range:
        """Return the rows that are far enough from both ends of the replay: see ``ReplayRing.start_rows``."""
        oldest = max(0, self.num_rows - self.capacity_rows)
        return range(oldest + (self.frame_stack - 1 if oldest else 0), self.num_rows - n_step)

    def transitions(self, n_step: int, gamma: float, *, clip_rewards: bool = False) -> dict[tuple[int, int], MultiStep]:
        """Return every transition that may be sampled, by (row, env)."""
        rows = self.start_rows(n_step)
        return {
            (step.row, env): _transition(episode, place, n_step, gamma, clip_rewards)
            for env, episodes in enumerate(self.episodes)
            for episode in episodes
            for place, step in enumerate(episode.steps)
            if step.row in rows
        }

    def _observe(self, obs, mask) -> None:
        for env, episodes in enumerate(self.episodes):
            episodes[-1].seen.append((key(obs[env]), None if mask is None else tuple(mask[env].tolist())))


def _transition(episode: Episode, place: int, n_step: int, gamma: float, clip_rewards: bool) -> MultiStep:
    total, discount, at = 0.0, 1.0, place
    for step in episode.steps[place : place + n_step]:
        total += discount * (min(max(step.reward, -1.0), 1.0) if clip_rewards else step.reward)
        discount *= gamma
        at += 1
        if step.terminated:
            discount = 0.0
            break
    s_t, mask_t = episode.seen[at]
    return MultiStep(episode.seen[place][0], episode.steps[place].action, total, discount, s_t, mask_t)


def key(obs: Any) -> Any:
    """Convert an observation to a hashable value."""
    return tuple(np.asarray(obs).ravel().tolist())
