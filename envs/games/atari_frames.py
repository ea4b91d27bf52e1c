"""Raw frames of Atari games: a step's last two, of the same games as ale-py's vector env.

The vector env does not expose the screen, so each copy here is one of its games that is stepped frame by frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray


class FrameByFrame:
    """Vector env with the interface of ale-py's, observed as raw frames uint8 [E, 2, H, 160, 3].

    After a reset, and where a step has one frame, that frame is there twice; so ``torso.nets.prediction.atari_frames``
    turns them into the vector env's observations. make_game: makes a vector env of one copy with a frameskip of 1, no
    stack, and the screen as it is.
    """

    def __init__(self, make_game: Callable[[], Any], num_envs: int, frameskip: int) -> None:
        self._games = [make_game() for _ in range(num_envs)]
        self._frameskip = frameskip
        self._ended = [False] * num_envs
        first = self._games[0]
        frame = first.single_observation_space.shape[1:]  # (H, 160, 3)
        self.single_observation_space = gym.spaces.Box(0, 255, (2, *frame), np.uint8)
        self.single_action_space = first.single_action_space

    def reset(self, *, seed: NDArray[np.int64]) -> tuple[NDArray[np.uint8], dict[str, NDArray[Any]]]:
        """Begin an episode in every game. seed: one for each; -1 continues its own generator."""
        results = [game.reset(seed=own) for game, own in zip(self._games, np.split(seed, len(seed)), strict=True)]
        self._ended = [False] * len(results)
        return np.stack([np.repeat(obs[0], 2, axis=0) for obs, _ in results]), _joined([infos for _, infos in results])

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_], dict[str, NDArray[Any]]]:
        """Play each game's next frames, up to its end; one that has ended is reset instead."""
        frames = np.empty((len(self._games), *(self.single_observation_space.shape or ())), dtype=np.uint8)
        rewards = np.zeros(len(self._games), dtype=np.int64)
        terminated, truncated = (np.zeros(len(self._games), dtype=np.bool_) for _ in range(2))
        all_infos = []
        for index, game in enumerate(self._games):
            num_frames = 1 if self._ended[index] else self._frameskip
            for frame in range(num_frames):
                obs, reward, over, timeout, infos = game.step(actions[index : index + 1])
                rewards[index] += reward[0]
                ended = bool(over[0] or timeout[0])
                if num_frames == 1:
                    frames[index] = obs[0]
                elif frame >= num_frames - 2:
                    frames[index, frame - num_frames] = obs[0, 0]
                if ended:
                    frames[index] = obs[0]  # ale-py has not read the last frame; no action follows these
                    break
            terminated[index], truncated[index], self._ended[index] = over[0], timeout[0], ended
            all_infos.append(infos)
        return frames, rewards, terminated, truncated, _joined(all_infos)


def _joined(infos: Sequence[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    joined = {name: np.concatenate([each[name] for each in infos]) for name in infos[0]}
    return {**joined, "env_id": np.arange(len(infos), dtype=np.int32)}
