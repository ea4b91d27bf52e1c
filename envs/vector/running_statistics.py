"""Wrappers with running statistics: refused, since each copy of an env would have statistics of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym

from torso.errors import EnvError

_NAMES = {"NormalizeObservation": "obs_rms", "NormalizeReward": "return_rms"}


def require_same_in_all_copies(env: gym.Env[Any, Any], name: str) -> None:
    """Raise ``EnvError`` for an env with a wrapper that normalises by running statistics.

    An evaluation's envs would begin theirs anew, and so would a served model's: scores and the choice of the best model
    would be of another env than the training. A wrapper whose statistics no longer change
    (``update_running_mean=False``) is the same in all copies.
    """
    layer = env
    while isinstance(layer, gym.Wrapper):
        if getattr(layer, "update_running_mean", True) is not False:
            for attribute in _running_moments(layer):
                raise EnvError(
                    f"{name} must be the same env in training and in evaluation, got the wrapper "
                    f"{type(layer).__name__}, whose running statistics each copy of the env has of its own; leave it "
                    f"out, and give {_setting(layer, attribute)} instead"
                )
        layer = layer.env


def _running_moments(layer: gym.Wrapper[Any, Any, Any, Any]) -> Iterator[str]:
    """Yield the wrapper's attributes that hold running moments: such a class's, or an object of their interface."""
    for kind in type(layer).__mro__:
        if kind.__name__ in _NAMES:
            yield _NAMES[kind.__name__]
    for attribute, value in getattr(layer, "__dict__", {}).items():
        names = [kind.__name__ for kind in type(value).__mro__]
        if "RunningMeanStd" in names or all(hasattr(value, each) for each in ("mean", "var", "count", "update")):
            yield attribute


def _setting(layer: gym.Wrapper[Any, Any, Any, Any], attribute: str) -> str:
    of_rewards = isinstance(layer, gym.RewardWrapper) or any(part in attribute for part in ("ret", "rew"))
    return "normalise_rewards=True" if of_rewards else "normalise_observations=True"
