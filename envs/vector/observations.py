"""Observation spaces: the spaces that torso accepts, their shapes, image layouts and scales."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from torso.errors import EnvError, SpecError
from torso.image_spec import Layout
from torso.space_spec import SpaceSpec


def observation_layout(space: gym.Space[Any]) -> tuple[tuple[int, ...], str, Layout | None]:
    """Infer ``(shape, NumPy dtype name, layout)`` of one observation of a Box space.

    The layout says which axes are the image's, for networks that convolve: two axes are ``"hw"``; three are ``"chw"``
    where the first is shorter than both others (stacked frames, PyTorch's order), else ``"hwc"``; anything else is a
    plain vector, None. Raises ``EnvError`` for other spaces, which ``make_vector`` flattens to Boxes.
    """
    if not isinstance(space, spaces.Box) or space.dtype is None:
        raise EnvError(f"the observation space must be a Box, got {space}")
    shape = tuple(int(size) for size in space.shape)
    layout: Layout | None = None
    if len(shape) == 2:
        layout = "hw"
    elif len(shape) == 3:
        layout = "chw" if shape[0] < min(shape[1:]) else "hwc"
    return shape, space.dtype.name, layout


def observation_scale(space: gym.Space[Any]) -> float:
    """Factor by which a network scales observations: 1 / the space's upper bound for images of uint8, else 1.

    So frames are divided by 255 (Mnih et al. 2015), and the scans of ``torso/Digits-v0`` by 16. Raises ``EnvError`` as
    ``observation_layout`` does.
    """
    _, dtype, layout = observation_layout(space)
    if layout is None or dtype != "uint8" or not isinstance(space, spaces.Box):
        return 1.0
    return 1 / max(1, int(space.high.max()))


def with_array_observations(env: gym.Env[Any, Any], name: str) -> gym.Env[Any, Any]:
    """Return the env itself when it observes arrays, else wrapped so that observations are flattened to a vector.

    Raises ``EnvError`` for spaces whose values have no fixed size (Text, Graph, Sequence, ...), or no values at all.
    """
    space = env.observation_space
    leaves = list(_leaf_spaces(space))
    for leaf in leaves:
        if not isinstance(leaf, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
            raise EnvError(
                f"{name} must observe arrays of one shape, got {space}, where {type(leaf).__name__} has none; wrap the "
                "env with one that turns it into a Box"
            )
    if 0 in map(spaces.flatdim, leaves):
        raise EnvError(f"{name} must observe spaces that hold values, got {space}, where a part holds none")
    if isinstance(space, spaces.Box) and space.shape != ():
        return env
    return _FlattenedEnv(env)


def flattened_space(vector_env: VectorEnv[Any, Any, Any]) -> SpaceSpec | None:
    """Describe the space whose observations `with_array_observations` flattens; None where the env observes arrays.

    None also where a Dict has keys that plain data cannot hold.
    """
    env = next(iter(getattr(vector_env, "envs", ())), None)
    if not isinstance(env, _FlattenedEnv):
        return None
    try:
        return describe_space(env.env.observation_space)
    except SpecError:
        return None


def describe_space(space: gym.Space[Any]) -> SpaceSpec:
    """Describe a space as plain data, from which its observations are flattened without Gymnasium.

    Raises ``EnvError`` for spaces whose values have no fixed size, ``SpecError`` for what plain data cannot hold.
    """
    if isinstance(space, spaces.Dict):
        parts = tuple(describe_space(part) for part in space.spaces.values())
        return SpaceSpec(kind="dict", keys=tuple(space.spaces), parts=parts)
    if isinstance(space, spaces.Tuple):
        return SpaceSpec(kind="tuple", parts=tuple(describe_space(part) for part in space.spaces))
    dtype = np.dtype(space.dtype).name
    if isinstance(space, spaces.Discrete):
        return SpaceSpec(kind="discrete", dtype=dtype, sizes=(int(space.n),), starts=(int(space.start),))
    if isinstance(space, spaces.MultiDiscrete):
        sizes, starts = (tuple(map(int, each.ravel())) for each in (space.nvec, np.asarray(space.start)))
        return SpaceSpec(kind="discrete", shape=space.nvec.shape, dtype=dtype, sizes=sizes, starts=starts)
    if isinstance(space, (spaces.Box, spaces.MultiBinary)):
        return SpaceSpec(kind="numbers", shape=tuple(space.shape), dtype=dtype)
    raise EnvError(f"the observation space must hold arrays of one shape, got {space}")


class _FlattenedEnv(gym.wrappers.FlattenObservation):
    """Env whose observations are flattened to a vector, as torso's networks take them."""


def _leaf_spaces(space: gym.Space[Any]) -> Iterator[gym.Space[Any]]:
    """Yield the leaf spaces within Dict and Tuple spaces, at any depth."""
    if not isinstance(space, (spaces.Dict, spaces.Tuple)):
        yield space
        return
    inner = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
    if not inner:
        yield spaces.Box(0, 0, (0,))  # an empty one counts as a Box without values
    for each in inner:
        yield from _leaf_spaces(each)
