"""Atari games as single envs, for wrappers: the protocols and settings that only the vector env takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np

from torso.envs.games.atari_settings import AtariSettings, protocol_settings
from torso.errors import ConfigError

_OF_VECTOR = ("noop_max", "life_loss_info", "use_fire_reset")  # settings that ale-py's single env lacks


class AtariStarts(gym.Wrapper[Any, Any, Any, Any]):
    """Wrapper that begins episodes with no-ops, and reports lost lives as ``info["life_lost"]``.

    noop_max: frames; 0 to this many are drawn uniformly, from the seed of ``reset``, and played in whole steps.
    """

    def __init__(self, env: gym.Env[Any, Any], noop_max: int, frameskip: int, *, life_loss_info: bool) -> None:
        super().__init__(env)
        self._noop_max, self._frameskip, self._life_loss_info = noop_max, frameskip, life_loss_info
        self._rng = np.random.default_rng()
        self._lives = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin a game, and let it run for a random number of steps."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        obs, info = self.env.reset(seed=seed, options=options)
        for _ in range(int(self._rng.integers(self._noop_max + 1)) // self._frameskip):
            obs, _, terminated, truncated, info = self.env.step(0)
            if terminated or truncated:
                obs, info = self.env.reset(options=options)
        self._lives = int(info.get("lives", 0))
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the game."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        lives = int(info.get("lives", 0))
        if self._life_loss_info:
            info = {**info, "life_lost": 0 < lives < self._lives}
        self._lives = lives
        return obs, reward, terminated, truncated, info


def adapted_arguments(
    name: str, env_kwargs: Mapping[str, Any]
) -> tuple[dict[str, Any], Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]]:
    """Adapt an id's arguments to ale-py's single env; returns those for ``gymnasium.make``, and a wrapper.

    Raises ``ConfigError`` for an unknown protocol, or settings that cannot work.
    """
    given = {key: value for key, value in env_kwargs.items() if key != "protocol"}
    settings = {**protocol_settings(env_kwargs.get("protocol")), **given}
    of_vector = {key: settings.pop(key) for key in _OF_VECTOR if key in settings}
    checked = AtariSettings(**of_vector)
    if checked.use_fire_reset:
        raise ConfigError(f"use_fire_reset must be False for {name} with wrappers, got True; give a wrapper that fires")
    if not checked.noop_max and not checked.life_loss_info:
        return settings, lambda env: env
    frameskip = settings.get("frameskip", gym.spec(name).kwargs.get("frameskip", 1) if name in gym.registry else 1)
    frames = frameskip if isinstance(frameskip, int) and frameskip > 0 else 1
    return settings, partial(
        AtariStarts, noop_max=checked.noop_max, frameskip=frames, life_loss_info=checked.life_loss_info
    )
