"""Names of an env's actions, in the words of the Arcade Learning Environment: NOOP, UP, LEFT, UPRIGHT, FIRE, ..."""

from __future__ import annotations

from typing import Any

from gymnasium.vector import SyncVectorEnv, VectorEnv

# Of envs that do not name their actions themselves, in the words of their documentation.
_KNOWN: dict[str, tuple[str, ...]] = {
    "Acrobot": ("LEFT", "NOOP", "RIGHT"),
    "Blackjack": ("STICK", "HIT"),
    "CartPole": ("LEFT", "RIGHT"),
    "CliffWalking": ("UP", "RIGHT", "DOWN", "LEFT"),
    "FrozenLake": ("LEFT", "DOWN", "RIGHT", "UP"),
    "FrozenLake8x8": ("LEFT", "DOWN", "RIGHT", "UP"),
    "LunarLander": ("NOOP", "LEFT", "UP", "RIGHT"),  # the engine that fires
    "MountainCar": ("LEFT", "NOOP", "RIGHT"),
    "Taxi": ("DOWN", "UP", "RIGHT", "LEFT", "PICK UP", "DROP OFF"),
}


def action_names(envs: VectorEnv[Any, Any, Any]) -> tuple[str, ...]:
    """Name each action of a vector env, in the order of their numbers.

    The names are those that the env gives (``action_names`` of torso's games, ``get_action_meanings`` of others), those
    of Gymnasium's own envs as documented, or else the actions' numbers.
    """
    space: Any = envs.single_action_space
    count, start = int(space.n), int(space.start)
    given: Any = getattr(envs, "action_names", ())
    if not given and isinstance(envs, SyncVectorEnv):
        env = envs.envs[0].unwrapped
        meanings = getattr(env, "get_action_meanings", None)
        if callable(meanings):
            given = meanings()
        else:
            given = getattr(env, "action_names", ()) or _KNOWN.get(_plain_name(env), ())
    names = tuple(map(str, given))
    return names if len(names) == count else tuple(str(start + action) for action in range(count))


def _plain_name(env: Any) -> str:
    """Id of an env without namespace and version; empty where it has none."""
    return "" if env.spec is None else str(env.spec.name)
