"""Action masks: the actions that an env allows at an observation, read from ``info["action_mask"]``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from torso.errors import EnvError

ACTION_MASK: Final = "action_mask"  # the key of infos, and of Dict observations


def action_masks(infos: Mapping[str, Any], num_envs: int, num_actions: int) -> NDArray[np.bool_] | None:
    """Read the legal actions of each env [E, A], True where legal; None where no env gave a mask at this step.

    infos: a vector env's, where Gymnasium has stacked the envs' ``info["action_mask"]`` (one value an action, 1 or True
    where it is legal), and ``_action_mask`` tells which envs gave one. An env that gave none allows
    everything. Raises ``EnvError`` for a mask of another shape or of other values, or under which nothing is legal.
    """
    if ACTION_MASK not in infos:
        return None
    masks = np.asarray(infos[ACTION_MASK])
    if masks.ndim == 0 or len(masks) != num_envs:
        raise EnvError(f"{ACTION_MASK} must hold a mask for each of {num_envs} envs, got {infos[ACTION_MASK]!r}")
    has_mask = np.asarray(infos.get(f"_{ACTION_MASK}", np.ones(num_envs, dtype=bool)))
    if masks.dtype != object and masks.shape == (num_envs, num_actions):
        legal: NDArray[np.bool_] = masks == 1
        legal[~has_mask] = True
        if (legal | (masks == 0)).all() and legal.any(axis=1).all():
            return legal
    all_legal = np.ones(num_actions, dtype=bool)
    return np.stack([checked_mask(masks[i], i, num_actions) if has_mask[i] else all_legal for i in range(num_envs)])


def checked_mask(mask: Any, index: int, num_actions: int) -> NDArray[np.bool_]:
    """Check the mask of the env ``index``; returns bool [A]. Raises ``EnvError`` as `action_masks` does."""
    try:
        values = np.asarray(mask)
    except ValueError:  # lists of several lengths
        values = np.asarray(None)
    if values.shape != (num_actions,):
        raise EnvError(
            f"env {index}'s action_mask must have the shape [{num_actions}], got {list(values.shape)}; give one value "
            "an action, 1 where it is legal"
        )
    if not ((values == 0) | (values == 1)).all():
        raise EnvError(f"env {index}'s action_mask must hold 0 or 1 an action, got {values.tolist()}")
    if not values.any():
        raise EnvError(f"env {index}'s action_mask must allow at least one action, got none")
    legal: NDArray[np.bool_] = values == 1
    return legal
