"""What an env observes, as arrays: which spaces torso accepts, and how it reads their shapes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
from gymnasium import spaces

from torso.errors import EnvError
from torso.image_spec import Layout


def observation_layout(space: gym.Space[Any]) -> tuple[tuple[int, ...], str, Layout | None]:
    """``(shape, NumPy dtype name, layout)`` of one observation of a Box space.

    The layout says which axes are the image's, for networks that convolve: two axes are ``"hw"``; three are ``"chw"``
    where the first is shorter than both others (stacked frames, PyTorch's order), else ``"hwc"``; anything else is a
    plain vector, None. Raises ``EnvError`` for other spaces, which ``make_vector`` flattens to Boxes.
    """
    if not isinstance(space, spaces.Box) or space.dtype is None:
        raise EnvError(f"expected a Box observation space, got {space}")
    shape = tuple(int(size) for size in space.shape)
    layout: Layout | None = None
    if len(shape) == 2:
        layout = "hw"
    elif len(shape) == 3:
        layout = "chw" if shape[0] < min(shape[1:]) else "hwc"
    return shape, space.dtype.name, layout


def observation_scale(space: gym.Space[Any]) -> float:
    """By what a network multiplies what it is shown: 1 / the space's upper bound for images of uint8, else 1.

    So frames are divided by 255 (Mnih et al. 2015), and the scans of ``torso/Digits-v0`` by 16. Raises ``EnvError`` as
    ``observation_layout`` does.
    """
    _, dtype, layout = observation_layout(space)
    if layout is None or dtype != "uint8" or not isinstance(space, spaces.Box):
        return 1.0
    return 1 / max(1, int(space.high.max()))


def arrays_only(env: gym.Env[Any, Any], name: str) -> gym.Env[Any, Any]:
    """The env itself when it observes arrays, else the env with its observations flattened to a vector.

    Raises ``EnvError`` for spaces whose values have no fixed size (Text, Graph, Sequence, ...), or no values at all.
    """
    space = env.observation_space
    leaves = list(_leaves(space))
    for leaf in leaves:
        if not isinstance(leaf, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
            raise EnvError(
                f"{name} observes {space}; torso's networks read arrays of one shape, and {type(leaf).__name__} "
                "has none: wrap the env with one that turns it into a Box"
            )
    if 0 in map(spaces.flatdim, leaves):
        raise EnvError(f"{name} observes {space}, where something holds no values")
    if isinstance(space, spaces.Box) and space.shape != ():
        return env
    return gym.wrappers.FlattenObservation(env)


def _leaves(space: gym.Space[Any]) -> Iterator[gym.Space[Any]]:
    """The spaces within Dict and Tuple spaces, at any depth."""
    if not isinstance(space, (spaces.Dict, spaces.Tuple)):
        yield space
        return
    inner = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
    if not inner:
        yield spaces.Box(0, 0, (0,))  # an empty one is as good as a Box without values
    for each in inner:
        yield from _leaves(each)
