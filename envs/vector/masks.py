"""Action masks: the actions that an env allows at an observation, read from ``info["action_mask"]``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torso.errors import EnvError

_KEY = "action_mask"


def action_masks(infos: Mapping[str, Any], num_envs: int, num_actions: int) -> NDArray[np.bool_] | None:
    """Read the legal actions of each env [E, A], True where legal; None where no env gave a mask at this step.

    infos: a vector env's, where Gymnasium has stacked the envs' ``info["action_mask"]`` (one value an action, 1 or True
    where it is legal), and ``_action_mask`` tells which envs gave one. An env that gave none allows
    everything. Raises ``EnvError`` for a mask of another shape or of other values, or under which nothing is legal.
    """
    if _KEY not in infos:
        return None
    masks = np.asarray(infos[_KEY])
    if masks.ndim == 0 or len(masks) != num_envs:
        raise EnvError(f"{_KEY} must hold a mask for each of {num_envs} envs, got {infos[_KEY]!r}")
    has_mask = np.asarray(infos.get(f"_{_KEY}", np.ones(num_envs, dtype=bool)))
    if masks.dtype != object and masks.shape == (num_envs, num_actions):
        legal: NDArray[np.bool_] = masks == 1
        legal[~has_mask] = True
        if (legal | (masks == 0)).all() and legal.any(axis=1).all():
            return legal
    all_legal = np.ones(num_actions, dtype=bool)
    return np.stack([_checked(masks[i], i, num_actions) if has_mask[i] else all_legal for i in range(num_envs)])


def allow_all_at_ends(infos: Mapping[str, Any], ended: NDArray[np.bool_]) -> None:
    """Make every action legal, in place, where an episode has ended and its mask allows none.

    infos: a vector env's. ended [E]: whose episode ended with this step. The action after an end is ignored, so a
    finished game may allow no move.
    """
    masks = infos.get(_KEY)
    if isinstance(masks, np.ndarray):
        for index in np.flatnonzero(ended):
            if not np.any(masks[index]):
                masks[index] = np.ones_like(masks[index])


def _checked(mask: Any, index: int, num_actions: int) -> NDArray[np.bool_]:
    """Check one env's mask and return it as bool [A]."""
    values = np.asarray(mask)
    if values.shape != (num_actions,):
        raise EnvError(
            f"env {index}'s action_mask must have the shape [{num_actions}], got {list(values.shape)}; give one value "
            "an action, 1 where it is legal"
        )
    if not np.isin(values, (0, 1)).all():
        raise EnvError(f"env {index}'s action_mask must hold 0 or 1 an action, got {values.tolist()}")
    if not values.any():
        raise EnvError(f"env {index}'s action_mask must allow at least one action, got none")
    legal: NDArray[np.bool_] = values == 1
    return legal
