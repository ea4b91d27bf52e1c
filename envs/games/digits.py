"""Digits environment: a contextual bandit that shows handwritten digits and rewards naming them.

A classifier gets the label; an agent here only learns whether its answer was correct. Since an answer does not
influence the next picture, with a discount of 0 an action's value is the probability that it names the digit.
Registered as ``torso/Digits-v0``.
"""

from __future__ import annotations

from collections import deque
from functools import cache
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from torso.envs.datasets.by_name import load_dataset
from torso.envs.datasets.splits import Splits
from torso.errors import ConfigError

_SPLITS = ("train", "validation", "test")
_NUM_ANSWERS_DRAWN = 10
_CORRECT, _WRONG, _BACKGROUND, _TEXT = (86, 190, 110), (226, 72, 72), (18, 20, 28), (230, 230, 235)


class Answer(NamedTuple):
    """A picture, the digit that the agent named, and whether it was correct."""

    picture: NDArray[np.uint8]
    digit: int
    correct: bool


class DigitsEnv(gym.Env[NDArray[np.uint8], np.int64]):
    """Show a scan of a digit, redrawn at each step; naming it is rewarded with 1, anything else with 0.

    split: which scans are shown, ``"train"``, ``"validation"`` or ``"test"``, split as ``load_dataset("digits")`` does.
    length: pictures in an episode, which is then *truncated*: the task itself never ends, and no picture shows how many
        are left.

    Observations: Box(0, 16, (8, 8), uint8), the data set's own values. Actions: Discrete(10), the digits. The best
    return is ``length``, that of a uniformly random policy a tenth of it on average. ``render()``: uint8 [472, 400, 3],
    the picture to be named and, below, the last answers, framed green where correct and red where wrong.
    Raises ``ConfigError`` for another split or a length below 1.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 2}  # noqa: RUF012 - Gymnasium's convention

    def __init__(self, split: str = "train", length: int = 20, render_mode: str | None = None) -> None:
        if split not in _SPLITS:
            raise ConfigError(f"split must be one of {', '.join(_SPLITS)}, got {split!r}")
        if length < 1:
            raise ConfigError(f"length must be at least 1, got {length}")
        data = getattr(_digits(), split)
        self._pictures: NDArray[np.uint8] = data.inputs
        self._labels: NDArray[np.int64] = data.labels
        self._length = length
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(0, 16, self._pictures.shape[1:], np.uint8)
        self.action_space = gym.spaces.Discrete(10)
        self._step = 0
        self._shown = 0
        self._answers: deque[Answer] = deque(maxlen=_NUM_ANSWERS_DRAWN)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Begin an episode; returns (picture, info)."""
        super().reset(seed=seed)
        self._step = 0
        self._answers.clear()
        return self._next_picture(), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Name the digit shown; returns (the next picture, reward, terminated, truncated, info)."""
        correct = int(action) == int(self._labels[self._shown])
        self._answers.append(Answer(self._pictures[self._shown], int(action), correct))
        self._step += 1
        return self._next_picture(), float(correct), False, self._step >= self._length, {}

    def render(self) -> NDArray[np.uint8] | None:
        """Render the picture to be named above the last answers; None without a render mode."""
        return None if self.render_mode is None else _draw(self._pictures[self._shown], self._answers)

    def _next_picture(self) -> NDArray[np.uint8]:
        self._shown = int(self.np_random.integers(len(self._labels)))
        picture: NDArray[np.uint8] = self._pictures[self._shown].copy()
        return picture


@cache
def _digits() -> Splits:
    return load_dataset("digits")


def _draw(picture: NDArray[np.uint8], answers: deque[Answer]) -> NDArray[np.uint8]:
    import cv2  # here, since only rendering needs it

    frame = np.empty((472, 400, 3), dtype=np.uint8)
    frame[:] = _BACKGROUND
    frame[40:360, 40:360] = _enlarged(picture, 40)
    for index, answer in enumerate(answers):
        x = 40 * index
        frame[392:432, x + 2 : x + 38] = _CORRECT if answer.correct else _WRONG
        frame[396:428, x + 4 : x + 36] = _enlarged(answer.picture, 4)
        cv2.putText(frame, str(answer.digit), (x + 12, 458), cv2.FONT_HERSHEY_SIMPLEX, 0.7, _TEXT, 2, cv2.LINE_AA)
    return frame


def _enlarged(picture: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Enlarge [8, 8] with values 0..16 to [8 factor, 8 factor, 1] with values 0..255."""
    grey = (picture * 15.9375).astype(np.uint8)
    return grey.repeat(factor, axis=0).repeat(factor, axis=1)[:, :, np.newaxis]
