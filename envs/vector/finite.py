"""Check that what envs return is finite: NaN and infinity spread through a replay and a network for good."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from torso.errors import EnvError


def require_finite_step(name: str, obs: NDArray[Any], rewards: NDArray[Any], steps: NDArray[np.int64]) -> None:
    """Raise EnvError where a step of a vector env gave a reward or an observation that is not finite.

    obs: [E, *shape]; rewards: [E]; steps: [E], the number of this step in each env.
    """
    if not np.isfinite(rewards).all():
        env = int(np.flatnonzero(~np.isfinite(rewards))[0])
        raise EnvError(
            f"{name} returned reward {rewards[env]} at step {steps[env]} of env {env}, expected a finite number"
        )
    require_finite_obs(name, obs, steps)


def require_finite_obs(name: str, obs: NDArray[Any], steps: NDArray[np.int64]) -> None:
    """Raise EnvError where an observation is not finite; obs: [E, *shape]; steps: [E], 0 at a reset."""
    if obs.dtype.kind not in "fc" or np.isfinite(obs).all():
        return
    env, *index = (int(axis[0]) for axis in np.nonzero(~np.isfinite(obs)))
    where = f"at step {steps[env]}" if steps[env] else "at its reset"
    place = f" at {index}" if index else ""
    raise EnvError(
        f"{name} returned an observation with {obs[(env, *index)]}{place} {where} of env {env}, expected finite numbers"
    )
