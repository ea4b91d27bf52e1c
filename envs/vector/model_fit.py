"""Check that a policy fits an env: the same observations, as many actions, counted from the same number."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv

from torso.envs.vector.making import action_start
from torso.envs.vector.observations import flattened_space, observation_layout
from torso.envs.vector.world import WorldSpec
from torso.errors import EnvError
from torso.space_spec import Interface


def interface_of(env: VectorEnv[Any, Any, Any] | WorldSpec) -> Interface:
    """Read the interface of an env: of a vector env, or of what was read from one."""
    if isinstance(env, WorldSpec):
        return Interface(**{name: getattr(env, name) for name in Interface.__dataclass_fields__})
    shape, dtype, _ = observation_layout(env.single_observation_space)
    actions: gym.Space[Any] = env.single_action_space
    start = action_start(actions)
    num_actions = int(actions.n)  # type: ignore[attr-defined]  # action_start has checked that it is Discrete
    return Interface(shape=shape, dtype=dtype, num_actions=num_actions, action_start=start, space=flattened_space(env))


def require_fit(policy: Interface, env: Interface, name: str) -> None:
    """Raise EnvError unless a policy fits the env of this name.

    Shapes must be equal, and so must spaces where both are known; numbers of another dtype are taken where the policy's
    dtype can hold their kind.
    """
    advice = "give an env such as the one that the model was trained in"
    if env.shape != policy.shape:
        expected = f"{policy.dtype} [{', '.join(map(str, ('batch', *policy.shape)))}]"
        raise EnvError(
            f"observations.shape must be {expected}, got {[1, *env.shape]} of {env.dtype} from {name}; {advice}"
        )
    if np.dtype(env.dtype).kind == "f" != np.dtype(policy.dtype).kind:
        raise EnvError(f"observations.dtype must be {policy.dtype}, got {env.dtype} from {name}; {advice}")
    if None not in (policy.space, env.space) and str(policy.space) != str(env.space):
        raise EnvError(f"observations must be of {policy.space}, got {env.space} from {name}; {advice}")
    start = env.action_start if policy.action_start is None else policy.action_start
    if (policy.num_actions, start) != (env.num_actions, env.action_start):
        actions = "action" if policy.num_actions == 1 else "actions"
        raise EnvError(
            f"{name} does not fit the model, which has {policy.num_actions} {actions} from {start}, the env has "
            f"{env.num_actions} from {env.action_start}; {advice}"
        )
