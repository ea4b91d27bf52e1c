"""Observation spaces: the spaces that torso accepts, their shapes, image layouts and scales."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from torso.errors import EnvError, SpecError
from torso.image_layout import Range, image_layout, pixel_scale
from torso.image_spec import Layout
from torso.space_spec import SpaceSpec

_LARGEST_PIXEL = 65_535  # of 16 bits


def observation_layout(space: gym.Space[Any]) -> tuple[tuple[int, ...], str, Layout | None]:
    """Infer ``(shape, NumPy dtype name, layout)`` of one observation of a Box space.

    The layout says which axes are an image's, by the rule of `torso.image_layout`; None: it is a plain vector. Raises
    ``EnvError`` for other spaces than Boxes, to which ``make_vector`` flattens them.
    """
    if not isinstance(space, spaces.Box) or space.dtype is None:
        raise EnvError(f"the observation space must be a Box, got {space}")
    shape = tuple(int(size) for size in space.shape)
    return shape, space.dtype.name, image_layout(shape, space.dtype.name, observation_range(space))


def observation_range(space: gym.Space[Any]) -> Range | None:
    """Lowest and highest value that a Box allows; None where it has none, or not one for all numbers.

    Bounds beyond those of 16 bits are how spaces say that they have none. Bytes have a range in any case.
    """
    if not isinstance(space, spaces.Box) or 0 in space.shape:
        return None
    low, high = float(space.low.min()), float(space.high.max())
    is_one = low == float(space.low.max()) and high == float(space.high.min())
    if not is_one and space.dtype not in (np.uint8, np.bool_):
        return None
    return (low, high) if max(abs(low), abs(high)) <= _LARGEST_PIXEL else None


def observation_scale(space: gym.Space[Any]) -> float:
    """Factor by which a network scales observations: for images 1 / the space's largest magnitude, else 1.

    So frames are divided by 255 (Mnih et al. 2015), and the scans of ``torso/Digits-v0`` by 16. Raises ``EnvError`` as
    ``observation_layout`` does.
    """
    _, _, layout = observation_layout(space)
    return 1.0 if layout is None else pixel_scale(observation_range(space))


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
