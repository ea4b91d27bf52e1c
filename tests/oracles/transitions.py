"""An oracle for replay: it stores whole transitions, one by one, and knows nothing of rings."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Transition(NamedTuple):
    """What a sample should be; observations are any hashable."""

    s_tm1: Any
    a_tm1: int
    r_t: float
    terminated: bool
    s_t: Any


class WholeTransitions:
    """Told what a replay is told, keeps the transitions of the last ``capacity_rows`` rows in a dict."""

    def __init__(self, capacity_rows: int, num_envs: int) -> None:
        self.capacity_rows = capacity_rows
        self.num_rows = 0
        self.begun: list[Any] = [None] * num_envs  # what awaits the observation after it
        self.complete: dict[tuple[int, int], Transition] = {}  # by (row, env)

    def append(self, obs, action, reward, terminated, truncated, is_reset) -> None:
        self._observe(obs)
        for env, reset in enumerate(is_reset):
            if not reset:
                self.begun[env] = (key(obs[env]), int(action[env]), float(reward[env]), bool(terminated[env]))
        self.num_rows += 1

    def end_episodes(self, obs) -> None:
        self._observe(obs)
        self.num_rows += 1

    def break_off(self) -> None:
        self.begun = [None] * len(self.begun)

    @property
    def valid(self) -> dict[tuple[int, int], Transition]:
        """The transitions whose first row has not been overwritten."""
        oldest = self.num_rows - self.capacity_rows
        return {place: transition for place, transition in self.complete.items() if place[0] >= oldest}

    def _observe(self, obs) -> None:
        for env, begun in enumerate(self.begun):
            if begun is not None:
                self.complete[self.num_rows - 1, env] = Transition(*begun, key(obs[env]))
        self.begun = [None] * len(self.begun)


def key(obs: Any) -> Any:
    """An observation as something to compare and to hash."""
    return tuple(np.asarray(obs).ravel().tolist())
