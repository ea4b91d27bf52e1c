"""Recording env: it logs every reset and step, as an oracle for training loops, replays and evaluations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from transitions import Transition, key


@dataclass
class Diary:
    """Log of one or several envs; ``tape`` holds events in order."""

    tape: list[tuple[Any, ...]] = field(default_factory=list)
    transitions: list[Transition] = field(default_factory=list)
    episodes: list[tuple[float, int]] = field(default_factory=list)  # those that the env ended: return, length
    decisions: int = 0
    resets: list[int | None] = field(default_factory=list)  # their seeds, in order
    script: list[tuple[int, str]] = field(default_factory=list)  # lengths and ends of the episodes to come
    made: int = 0
    closed: int = 0


class DiaryEnv(gym.Env):
    """Env whose observation is [a number that no other observation in this env has, the step in the episode].

    Each episode ends after 1 to ``longest`` steps, drawn from the env's generator: terminated, truncated or both; or
    as the next line of the diary's ``script`` has it. Rewards are drawn too. Every env of one diary has another number
    range.
    """

    def __init__(self, diary: Diary, longest: int = 5, num_actions: int = 3, action_start: int = 0) -> None:
        self.diary, self.longest = diary, longest
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = gym.spaces.Discrete(num_actions, start=action_start)
        self.counter = 1_000_000.0 * diary.made
        diary.made += 1
        self.over = True

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.diary.resets.append(seed)
        self.diary.tape.append(("reset", seed))
        self.over, self.step_in_episode, self.episode_return = False, 0, 0.0
        self.ends_at = int(self.np_random.integers(1, self.longest + 1))
        self.end = ("terminated", "truncated", "both")[int(self.np_random.integers(3))]
        if self.diary.script:
            self.ends_at, self.end = self.diary.script.pop(0)
        self.obs = self._observe()
        return self.obs, {}

    def step(self, action):
        assert not self.over, "stepped after the end"
        assert self.action_space.contains(action), action
        self.step_in_episode += 1
        reward = float(self.np_random.integers(-8, 9)) / 4
        ends = self.step_in_episode == self.ends_at
        terminated, truncated = ends and self.end != "truncated", ends and self.end != "terminated"
        before, self.obs = self.obs, self._observe()
        action0 = int(action) - int(self.action_space.start)
        self.diary.transitions.append(Transition(key(before), action0, reward, terminated, key(self.obs)))
        self.diary.tape.append(("step", int(action), reward, terminated, truncated))
        self.diary.decisions += 1
        self.episode_return += reward
        if ends:
            self.over = True
            self.diary.episodes.append((self.episode_return, self.step_in_episode))
        return self.obs, reward, terminated, truncated, {}

    def close(self) -> None:
        self.diary.closed += 1

    def _observe(self) -> np.ndarray:
        self.counter += 1
        return np.array([self.counter, self.step_in_episode], dtype=np.float64)
