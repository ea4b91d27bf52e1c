"""One-hot places of flattened observations, which a replay can store as indices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

_DISCRETE = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def one_hot_places(space: gym.Space[Any], first: int = 0) -> tuple[tuple[int, int], ...]:
    """List the first column and the number of columns of each place that Gymnasium's flattening makes one-hot.

    first: the column where the space begins. A place of one column, which is always 1, is left out.
    """
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        places: list[tuple[int, int]] = []
        for part in _parts(space):
            places += one_hot_places(part, first)
            first += spaces.flatdim(part)
        return tuple(places)
    sizes = np.ravel(space.n if isinstance(space, spaces.Discrete) else getattr(space, "nvec", ()))
    firsts = first + np.cumsum(sizes) - sizes
    return tuple((int(start), int(size)) for start, size in zip(firsts, sizes, strict=True) if size > 1)


def is_binary(space: gym.Space[Any]) -> bool:
    """Whether every part of a space is Discrete, MultiDiscrete or MultiBinary: flattened, it is zeros and ones."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        return all(map(is_binary, _parts(space)))
    return isinstance(space, _DISCRETE)


def _parts(space: spaces.Dict | spaces.Tuple[Any]) -> Iterable[gym.Space[Any]]:
    return space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
